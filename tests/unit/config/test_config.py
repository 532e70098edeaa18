"""GrailConfig: checks, JSON both ways, and the methods it means."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optimum_grail
from optimum_grail.config.budgets import BUDGETS
from optimum_grail.config.config import CONFIG_FILE, GrailConfig
from optimum_grail.config.options import BY_NAME, OPTIONS
from optimum_grail.errors import ConfigError, UnknownNameError

SPECIFIC = {
    "preset": "wanda",
    "sparsity": 0.3,
    "selector": "magnitude:p=2",
    "compensator": {"name": "grail-plus", "tau": 0.5},
    "allocation": "uniform",
    "ridge": "auto",
    "affine": False,
    "within_block": "joint",
    "round_to": 8,
    "dataset": "text.txt",
    "num_samples": 16,
    "seqlen": 64,
    "standalone": True,
    "allow_recompress": True,
}


def test_everything_survives_json():
    config = GrailConfig(**SPECIFIC)
    again = GrailConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()
    assert {key: config.to_dict()[key] for key in SPECIFIC} == SPECIFIC
    assert list(config.to_dict()) == ["quant_method", *BY_NAME]
    assert config.quant_method == "grail"


def test_difference_holds_what_was_set():
    assert GrailConfig().to_diff_dict() == {"quant_method": "grail"}
    assert GrailConfig(**SPECIFIC).to_diff_dict() == {"quant_method": "grail", **SPECIFIC}
    assert GrailConfig.from_dict(GrailConfig(**SPECIFIC).to_diff_dict()).to_dict() == GrailConfig(**SPECIFIC).to_dict()


def test_dict_of_a_configuration_is_its_dictionary():
    assert dict(GrailConfig(sparsity=0.2)) == GrailConfig(sparsity=0.2).to_dict()


def test_folder_and_file(tmp_path):
    GrailConfig(**SPECIFIC).save_pretrained(tmp_path / "new")
    for place in (tmp_path / "new", tmp_path / "new" / CONFIG_FILE):
        assert GrailConfig.from_pretrained(place).to_dict() == GrailConfig(**SPECIFIC).to_dict()
    assert GrailConfig.from_json_file(tmp_path / "new" / CONFIG_FILE).sparsity == 0.3


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"sparsity": 3}', '{"preset": "grial"}', "[" * 9000])
def test_bad_file_is_named(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises((ConfigError, UnknownNameError), match=r"bad\.json"):
        GrailConfig.from_json_file(path)


def test_missing_file_and_folder(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        GrailConfig.from_json_file(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="grail_config"):
        GrailConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="neither a folder here nor a Hub repository"):
        GrailConfig.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("build", [lambda values: GrailConfig(**values), GrailConfig.from_dict], ids=["init", "dict"])
@pytest.mark.parametrize(
    ("key", "guess"),
    [("sparsty", "sparsity"), ("num_sample", "num_samples"), ("batch-size", "batch_size"), ("colour", None)],
)
def test_unknown_keys_are_refused(build, key, guess):
    with pytest.raises(ConfigError) as caught:
        build({key: 0.3})
    assert f"Unknown key {key!r}" in str(caught.value)
    assert (f"Did you mean {guess!r}?" in str(caught.value)) if guess else "Did you mean" not in str(caught.value)


def test_unknown_arguments_beside_a_dictionary_are_refused():
    with pytest.raises(ConfigError, match=r"'sparsty'.*Did you mean 'sparsity'"):
        GrailConfig.from_dict({}, sparsty=0.3)


@pytest.mark.parametrize("stamp", ["optimum_grail_version", "version"])
def test_unknown_keys_of_a_newer_version_are_kept_with_a_warning(stamp, tmp_path):
    values = {"sparsity": 0.3, "shape": [1, 2], "sparsty": 1}
    with pytest.warns(UserWarning, match=r"9999\.0 wrote.*shape, sparsty"):
        config = GrailConfig.from_dict({**values, stamp: "9999.0"})
    assert config.to_dict()["shape"] == [1, 2]
    assert config.resolved().extra == config.extra
    config.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="shape"):
        assert GrailConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    for old in ("0.0.1", "nonsense", 3, None):
        with pytest.raises(ConfigError, match="'shape'"):
            GrailConfig.from_dict({**values, stamp: old})


def test_files_say_which_version_wrote_them(tmp_path):
    GrailConfig(sparsity=0.3).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert saved["optimum_grail_version"] == optimum_grail.__version__
    assert GrailConfig.from_pretrained(tmp_path).extra == {}


def test_tables_of_checkpoints_are_no_surprise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = GrailConfig.from_dict({"quant_method": "grail", "layers": {"0": {"intermediate_size": 3}}})
    assert config.to_dict()["layers"] == {"0": {"intermediate_size": 3}}


def test_another_methods_configuration_is_refused():
    with pytest.raises(ConfigError, match="'gptq'"):
        GrailConfig.from_dict({"quant_method": "gptq", "bits": 4})


def test_unknown_values_must_be_json():
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match="JSON"):
        GrailConfig.from_dict({"shape": object(), "optimum_grail_version": "9999"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sparsity": 0.5, "ffn_sparsity": 0.3}, "sparsity=0.5 and ffn_sparsity=0.3"),
        ({"sparsity": 0.5, "channel_sparsity": 0.3}, "sparsity=0.5 and channel_sparsity=0.3"),
        ({"sparsity": 0.5, "target_bytes": "1MB"}, "sparsity=0.5 and target_bytes=1000000"),
        ({"head_sparsity": 0.5, "target_parameters": "1M"}, "target_parameters=1000000 and head_sparsity=0.5"),
        ({"target_bytes": 5, "target_parameters": 5}, "target_parameters=5 and target_bytes=5"),
        ({"target_parameters": 5, "budget": "flops"}, "target_parameters=5 and budget=flops"),
        ({"target_bytes": 5, "budget": "parameters"}, "target_bytes=5 and budget=parameters"),
    ],
)
def test_two_ways_to_state_the_size_contradict(values, words):
    with pytest.raises(ConfigError, match=f"{words} contradict"):
        GrailConfig(**values)


def test_kinds_together_are_fine():
    config = GrailConfig(ffn_sparsity=0.5, head_sparsity=0.25)
    assert config.resolved().sparsity is None
    assert GrailConfig().resolved().sparsity == 0.2
    assert GrailConfig(target_bytes="60MB").resolved().sparsity is None


@pytest.mark.parametrize("value", [0, 1, -0.1, 2, "0.5", None.__class__])
def test_sparsity_outside_its_range(value):
    with pytest.raises(ConfigError, match=r"sparsity is .*expected a number in \(0, 1\)"):
        GrailConfig(sparsity=value)


def test_live_data_stays_on_the_instance_only():
    texts = ["a", "b"]
    config = GrailConfig(dataset=texts)
    assert config.dataset is texts
    assert config.to_dict()["dataset"] == "list of 2 strings"
    assert config.resolved().dataset is texts
    assert GrailConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_keyword_arguments_win_over_the_dictionary():
    config, unused = GrailConfig.from_dict({"sparsity": 0.5}, return_unused_kwargs=True, seed=7, device_map="auto")
    assert (config.sparsity, config.seed, unused) == (0.5, 7, {"device_map": "auto"})
    with pytest.raises(ConfigError, match="seed"):
        GrailConfig.from_dict({}, seed=-1)


def test_update_checks_and_returns_the_rest():
    config = GrailConfig()
    assert config.update(sparsity=0.25, other=1) == {"other": 1}
    assert config.sparsity == 0.25
    with pytest.raises(ConfigError):
        config.update(seed=3, sparsity=7)
    assert (config.sparsity, config.seed) == (0.25, 42)


def test_methods_take_their_options():
    selector, compensator, allocation, refit = GrailConfig(
        selector="magnitude:p=2,side=consumer",
        ridge=0.1,
        tau="auto",
        affine=True,
        round_to=16,
        refit="producers:rounds=3",
    ).methods()
    assert (selector.p, selector.side) == (2, "consumer")
    assert (compensator.ridge, compensator.tau, compensator.affine, compensator.anchor) == (0.1, "auto", True, "naive")
    assert (allocation.round_to, refit.rounds) == (16, 3)


def test_methods_from_dictionaries():
    _, compensator, *_ = GrailConfig(compensator={"name": "grail-plus", "tau": 0.5, "ridge": "0.01"}).methods()
    assert (compensator.tau, compensator.ridge) == (0.5, 0.01)


def test_field_wins_over_the_spelling():
    _, compensator, *_ = GrailConfig(compensator="grail:ridge=0.5", ridge=0.25).methods()
    assert compensator.ridge == 0.25


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"selector": "wandaa"}, UnknownNameError, "Did you mean 'wanda'"),
        ({"compensator": "grial"}, UnknownNameError, "Did you mean 'grail'"),
        ({"allocation": "balance"}, UnknownNameError, "Did you mean 'balanced'"),
        ({"selector": "magnitude:q=1"}, ConfigError, "no option 'q'. Options of 'magnitude': p, side"),
        (
            {"selector": "magnitude:p=two"},
            ConfigError,
            "p of the selector 'magnitude' is 'two'; expected a whole number",
        ),
        ({"selector": "magnitude:p=7"}, ConfigError, "7"),
        ({"compensator": "grail", "tau": 0.5}, ConfigError, "no option 'tau'"),
        ({"preset": "wanda", "ridge": 0.5}, ConfigError, "Options of 'none': none"),
        ({"compensator": {"name": "grail-plus", "tau": "some"}}, ConfigError, "auto or a number"),
    ],
)
def test_methods_that_do_not_exist_or_do_not_fit(values, error, words):
    with pytest.raises(error, match=words):
        GrailConfig(**values).methods()


@pytest.mark.parametrize("preset", ["grail-plus", "grail", "wanda", "magnitude", "magnitude+grail"])
def test_resolved_means_the_same_and_leaves_nothing_open(preset):
    config = GrailConfig(preset=preset, seed=5)
    resolved = config.resolved()
    assert resolved.methods() == config.methods()
    assert resolved.within_block in ("sequential", "joint")
    assert all(getattr(resolved, name) is not None for name in ("selector", "compensator", "allocation", "sparsity"))
    assert resolved.resolved().to_dict() == resolved.to_dict()
    assert GrailConfig.from_dict(resolved.to_dict()).methods() == config.methods()
    assert config.selector is None


def test_explicit_value_wins_over_the_preset():
    resolved = GrailConfig(preset="grail", selector="obs", within_block="sequential").resolved()
    assert str(resolved.selector).partition(":")[0] == "obs"
    allocation = str(resolved.allocation).partition(":")[0]
    assert (resolved.within_block, allocation) == ("sequential", "uniform")


VALUES = {
    "fraction": st.floats(0.01, 0.99),
    "amount": st.just("auto") | st.floats(0, 10),
    "share": st.just("auto") | st.floats(0, 1),
    "count": st.integers(1, 10**6),
    "seed": st.integers(0, 2**31),
    "switch": st.booleans(),
    "flag": st.booleans(),
    "parameters": st.integers(1, 10**12),
    "bytes": st.integers(1, 10**12),
    "patterns": st.sampled_from(["0", "0/-1", "layers.*.mlp"]),
    "text": st.text(min_size=1).filter(str.strip),
    "data": st.text(min_size=1).filter(str.strip),
    "method": st.sampled_from(["obs", "magnitude:p=2"]),
    "preset": st.sampled_from(["grail", "grail-plus"]),
    "ratio": st.sampled_from(["2:4", "1:2", "4:8"]),
}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_accepted_values_round_trip(data):
    values = {}
    for option in data.draw(st.lists(st.sampled_from(OPTIONS), unique_by=lambda option: option.name)):
        if option.name not in (*BUDGETS, "budget") or not set(values) & {*BUDGETS, "budget"}:
            values[option.name] = data.draw(st.sampled_from(option.choices) if option.choices else VALUES[option.kind])
    if "experts" in values and "round_to" in values:  # it has to be a multiple
        values["experts"] *= values["round_to"]
    config = GrailConfig(**values)
    assert {key: config.to_dict()[key] for key in values} == values
    assert GrailConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
