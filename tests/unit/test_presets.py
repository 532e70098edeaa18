"""Named combinations of methods."""

from __future__ import annotations

import pytest

from optimum_grail.config import GrailConfig
from optimum_grail.errors import GrailError, UnknownNameError
from optimum_grail.presets import DEFAULT_PRESET, PRESETS, get_preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_means_methods_that_exist(name):
    preset = get_preset(name)
    assert preset.name == name and preset.summary and preset.needs
    selector, compensator, allocation = GrailConfig(preset=name).methods()
    built = [
        type(method).__module__.rpartition(".")[2].replace("_", "-") for method in (selector, compensator, allocation)
    ]
    assert built == [preset.values[part] for part in ("selector", "compensator", "allocation")]


def test_default_is_the_best():
    assert GrailConfig().preset == DEFAULT_PRESET == "grail-plus"
    assert dict(get_preset("grail-plus").values) == {
        "selector": "obs",
        "compensator": "grail-plus",
        "allocation": "balanced",
        "within_block": "sequential",
    }


def test_published_method_looks_once_at_a_block():
    assert get_preset("grail").values["within_block"] == "joint"
    assert get_preset("grail").values["selector"] == "wanda"


def test_magnitude_needs_no_data():
    selector, compensator, allocation = GrailConfig(preset="magnitude").methods()
    assert not selector.needs | compensator.needs | allocation.needs


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'grail-plus'") as caught:
        get_preset("grail-plsu")
    assert isinstance(caught.value, GrailError)
