"""Named combinations of methods."""

from __future__ import annotations

import pytest

from optimum_grail.config.config import GrailConfig
from optimum_grail.config.presets import DEFAULT_PRESET, get_preset, presets
from optimum_grail.config.spelling import parse_method
from optimum_grail.errors import ConfigError, GrailError, UnknownNameError
from optimum_grail.selectors import SELECTORS


@pytest.mark.parametrize("name", sorted(presets()))
def test_means_methods_that_exist(name):
    preset = get_preset(name)
    assert preset.name == name
    assert all((preset.summary, preset.paper, preset.needs, preset.cost, preset.works))
    built = [type(m).__module__.rpartition(".")[2].replace("_", "-") for m in GrailConfig(preset=name).methods()]
    assert built == [
        parse_method(preset.values[part])[0] for part in ("selector", "compensator", "allocation", "refit")
    ]


def test_default_is_the_best():
    assert GrailConfig().preset == DEFAULT_PRESET == "grail-plus"
    assert dict(get_preset("grail-plus").values) == {
        "selector": "obs",
        "compensator": "grail-plus",
        "allocation": "balanced",
        "refit": "none",
        "within_block": "sequential",
        "expert_selector": "reap",
    }


def test_published_method_looks_once_at_a_block():
    assert get_preset("grail").values["within_block"] == "joint"
    assert get_preset("grail").values["selector"] == "wanda"


@pytest.mark.parametrize("name", sorted(presets()))
def test_no_data_means_no_needs(name):
    needs = frozenset[str]().union(*(method.needs for method in GrailConfig(preset=name).methods()))
    assert (not needs) == (get_preset(name).needs == "no data")


def test_every_published_system_has_a_preset():
    plain = {"magnitude", "wanda", "wandapp", "flap", "slimgpt"}
    assert set(presets()) == {
        *plain,
        *(f"{name}+grail" for name in plain),
        *("grail", "grail-plus", "liar", "prunenet", "folding", "ziplm", "osscar", "fisher", "comp", "reap"),
    }


def test_flap_fits_a_bias_and_flap_with_grail_does_not():
    """The ridge solution has the dropped means in it already; a bias on top would count them twice."""
    assert GrailConfig(preset="flap").methods()[1].affine is True
    assert type(GrailConfig(preset="flap+grail").methods()[1]) is type(GrailConfig(preset="grail").methods()[1])


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'grail-plus'") as caught:
        get_preset("grail-plsu")
    assert isinstance(caught.value, GrailError)


def test_two_methods_cannot_state_one_preset(monkeypatch):
    monkeypatch.setattr(SELECTORS.get("obs"), "presets", (get_preset("wanda"),))
    with pytest.raises(ConfigError, match="'wanda', which is there already"):
        presets()
