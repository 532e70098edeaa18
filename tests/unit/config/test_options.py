"""The option table and the reading of single values."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Literal

import pytest

from optimum_grail.config.config import GrailConfig
from optimum_grail.config.options import BY_NAME, OPTIONS, OVERRIDES
from optimum_grail.config.presets import presets
from optimum_grail.config.spelling import coerce, describe_data, format_method, parse_method
from optimum_grail.errors import ConfigError, UnknownNameError

GOOD = {
    "preset": "wanda",
    "fraction": 0.25,
    "amount": 0.01,
    "share": 0.5,
    "count": 3,
    "seed": 0,
    "parameters": 1_500_000,
    "bytes": 60_000_000,
    "patterns": "0/-1/layers.*.mlp",
    "method": "magnitude:p=2",
    "ratio": "2:4",
    "text": "name",
    "data": "self",
    "switch": False,
    "flag": True,
}
BAD = {
    "preset": ["nothing-like-it", 3],
    "fraction": [0, 1, -0.5, 1.5, float("nan"), float("inf"), "half", True, 10**400],
    "amount": [-1, "automatic", float("inf"), True, 10**400],
    "share": [-0.1, 1.1, "all", True],
    "count": [0, -1, 1.5, "three", True, 10**400],
    "seed": [-1, 0.5, "x", 10**400],
    "parameters": [0, -5, 1.5, "0", "ten", "1MB", "1MiB", "M", "-3M", "1e6", "1.2.3M", True, 10**400, "9" * 400],
    "bytes": [0, -5, 1.5, "0.2", "ten", "1MBs", "MB", True, 10**400],
    "patterns": ["", " ", [], [""], "0//1", 1.5, True, {"a": 1}, [["0"]], [None]],
    "choice": ["nothing-like-it", 3],
    "method": ["", ":p=1", "name:", "name:p", "name:p=", "name:=1", "name:p=1,p=2", {"p": 1}, {"name": ""}, 5],
    "ratio": ["", "2", "4:2", "4:4", "0:4", "2:64", "2:4:8", "-1:4", 0.5, ["2:4"]],
    "text": ["", "  ", 5],
    "data": ["", 5, True],
    "switch": ["true", 1],
    "flag": ["true", 1],
}


def good(option):
    return option.choices[0] if option.choices else GOOD[option.kind]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_accepts_its_default_and_a_good_value(option):
    assert option.check(option.default) == option.default
    assert option.check(good(option)) == good(option)


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option in OPTIONS for value in BAD[option.kind]], ids=str
)
def test_refuses_with_name_value_and_range(option, value):
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        option.check(value)
    message = str(caught.value)
    assert option.name in message
    assert "Available" in message or "expected" in message


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.kind not in ("switch", "flag")], ids=lambda o: o.name)
def test_reads_what_the_command_line_writes(option):
    assert option.parse(str(good(option))) == good(option)


@pytest.mark.parametrize(
    ("name", "text"), [("sparsity", "half"), ("num_samples", "1.5"), ("ridge", "Auto"), ("seed", "")]
)
def test_command_line_words_are_checked(name, text):
    with pytest.raises(ConfigError, match=name):
        BY_NAME[name].parse(text)


@pytest.mark.parametrize(
    ("name", "word", "size"),
    [
        ("target_parameters", "100M", 100_000_000),
        ("target_parameters", "1.1B", 1_100_000_000),
        ("target_parameters", "1.5g", 1_500_000_000),
        ("target_parameters", "250 k", 250_000),
        ("target_parameters", "12345678901234567", 12345678901234567),
        ("target_bytes", "60MB", 60_000_000),
        ("target_bytes", "60 MiB", 60 * 2**20),
        ("target_bytes", "2g", 2_000_000_000),
        ("target_bytes", "500b", 500),
        ("target_bytes", 7, 7),
    ],
)
def test_sizes_are_written_in_words(name, word, size):
    assert BY_NAME[name].check(word) == size


@pytest.mark.parametrize(
    ("value", "joined"), [(0, "0"), ("heads", "heads"), ([0, -1, "*.mlp"], "0/-1/*.mlp"), (("0/1", " x "), "0/1/x")]
)
def test_patterns_are_joined(value, joined):
    assert BY_NAME["protect"].check(value) == joined
    assert BY_NAME["protect"].check(joined) == joined


@pytest.mark.parametrize("value", [10**400, "1" * 400, "1" * 5000], ids=["number", "400 digits", "5000 digits"])
def test_numbers_of_hundreds_of_digits_are_refused_in_a_short_line(value):
    with pytest.raises(ConfigError) as caught:
        coerce(value, int)
    assert len(str(caught.value)) < 200


def test_deep_and_long_values_are_quoted_in_a_short_line():
    deep: list = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, ["x" * 5000] * 5000, "x" * 5000):
        with pytest.raises(ConfigError) as caught:
            BY_NAME["sparsity"].check(value)
        assert len(str(caught.value)) < 200


def test_numbers_are_normalised():
    numpy = pytest.importorskip("numpy")
    assert type(BY_NAME["sparsity"].check(numpy.float32(0.5))) is float
    assert type(BY_NAME["num_samples"].check(numpy.int64(5))) is int


def test_one_row_per_keyword_of_the_configuration_with_the_same_default():
    parameters = inspect.signature(GrailConfig).parameters
    keywords = {name: item.default for name, item in parameters.items() if item.kind is item.KEYWORD_ONLY}
    live = {"tokenizer": None, "processor": None}  # objects of a model that is compressed while it loads; never saved
    assert keywords == {option.name: option.default for option in OPTIONS} | live


def test_every_row_says_what_it_is():
    assert len(BY_NAME) == len(OPTIONS)
    for option in OPTIONS:
        assert option.help.endswith((".", ")")) and option.accepted and option.group
        assert option.name in (GrailConfig.__doc__ or "")
        assert (option.kind == "choice") == bool(option.choices)


def test_overrides_and_presets_name_rows():
    assert set(OVERRIDES) | {key for keys in OVERRIDES.values() for key in keys} <= set(BY_NAME)
    assert {key for preset in presets().values() for key in preset.values} <= set(BY_NAME)


def test_needs_neither_torch_nor_transformers():
    code = (
        "import sys, optimum_grail.config.options; sys.exit(bool({'torch', 'transformers', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "name", "options"),
    [
        ("obs", "obs", {}),
        ("magnitude:p=2", "magnitude", {"p": "2"}),
        ("m: a = 1 , b=x", "m", {"a": "1", "b": "x"}),
        ({"name": "m", "a": 1.5}, "m", {"a": 1.5}),
    ],
)
def test_methods_are_parsed(value, name, options):
    assert parse_method(value) == (name, options)


@pytest.mark.parametrize("options", [{}, {"a": 1, "b": True}, {"a": "x,y"}, {"a": None}, {"a": [1, 2]}])
def test_methods_are_written_as_they_are_read(options):
    name, read = parse_method(format_method("m", options))
    assert name == "m"
    assert {key: str(value).lower() for key, value in read.items()} == {k: str(v).lower() for k, v in options.items()}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("0.5", float, 0.5),
        ("3", float, 3.0),
        (3, float, 3.0),
        ("1e-3", float | Literal["auto"], 1e-3),
        ("auto", float | Literal["auto"], "auto"),
        ("2", Literal[1, 2], 2),
        ("true", bool, True),
        ("False", bool | None, False),
        ("none", bool | None, None),
        (None, int | None, None),
        ("7", int, 7),
        ("text", str, "text"),
        ("7", int | str, 7),
        ([1], list[int], [1]),
    ],
)
def test_values_are_converted_to_the_annotation(value, hint, expected):
    result = coerce(value, hint)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        ("x", float, "a number"),
        (True, float, "a number"),
        ("1.5", int, "a whole number"),
        ("yes", bool, "true or false"),
        ("3", Literal[1, 2], "1 or 2"),
        ("off", float | Literal["auto"], "auto or a number"),
        (5, str, "a text"),
    ],
)
def test_values_of_another_type_are_refused(value, hint, words):
    with pytest.raises(ConfigError, match=words):
        coerce(value, hint)


class Rows:
    column_names = ("a", "b")

    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a"] * 128, "list of 128 strings"),
        ([{"input_ids": [1]}], "list of 1 dicts"),
        ([], "list of 0 items"),
        ((1.5,), "tuple of 1 floats"),
        (Rows(), "Rows of 3 rows with columns a, b"),
        (object(), "object"),
    ],
)
def test_live_data_is_described(value, text):
    assert describe_data(value) == text
