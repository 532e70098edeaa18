"""Configurations that anyone may have written: giant numbers, deep lists and long names end in one short line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.config.config import GrailConfig
from optimum_grail.config.options import OPTIONS
from optimum_grail.config.spelling import coerce
from optimum_grail.errors import ConfigError, GrailError

HUGE = 10**400


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "400 digits": HUGE,
    "minus 400 digits": -HUGE,
    "5000 digits": 10**5000,
    "nested": nested(900),
    "letters": "x" * 5000,
    "path": "/" + "x" * 5000,
    "null byte": "a\0b",
    "dict": {"name": "x" * 5000, "y" * 5000: HUGE},
    "method": {"name": "magnitude", "p": HUGE},
    "method in a list": {"name": "magnitude", "p": nested(900)},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_field_takes_it_or_refuses_it_in_a_short_line(option: Any, value: Any) -> None:
    try:
        GrailConfig(**{option.name: value}).methods()
    except GrailError as error:
        assert len(str(error)) < 1000 and "0" * 100 not in str(error) and "[[[[" not in str(error)
    else:
        assert option.kind in ("text", "data", "patterns") and not isinstance(value, int)


@pytest.mark.parametrize("name", ["num_samples", "seqlen", "batch_size", "seed", "round_to"])
def test_counts_that_no_tensor_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is .*expected a whole number >= \d and below 2\*\*63"):
        GrailConfig(**{name: HUGE})
    assert getattr(GrailConfig(**{name: 2**63 - 1}), name) == 2**63 - 1


@pytest.mark.parametrize("name", ["sparsity", "ridge", "tau"])
def test_numbers_that_no_float_can_hold(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*expected"):
        GrailConfig(**{name: HUGE})


@pytest.mark.parametrize("hint", [int, float, int | None])
def test_options_of_methods(hint: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        coerce(HUGE, hint)


FILES: dict[str, Callable[[], str]] = {
    "digits": lambda: '{"num_samples": ' + "1" * 400 + "}",
    "too many digits": lambda: '{"num_samples": ' + "1" * 5000 + "}",
    "deep": lambda: '{"dataset": ' + "[" * 900 + "]" * 900 + ', "sparsity": 7}',
    "too deep": lambda: '{"dataset": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "a long name": lambda: json.dumps({"selector": "x" * 5000, "sparsity": 7}),
    "a long key": lambda: json.dumps({"selector": {"name": "obs", "x" * 5000: 1}}),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(FILES[name](), encoding="utf-8")
    with pytest.raises(GrailError) as caught:
        GrailConfig.from_json_file(path).methods()
    assert len(str(caught.value)) < 1000
