"""A recipe says how long a recovery is, and a schedule once made stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_grail.errors import ConfigError
from optimum_grail.recovery import Recipe, worsened
from optimum_grail.recovery.recipe import MEASUREMENTS, Schedule

seconds = st.floats(0.01, 1e3)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10, "minutes": 3.0}, "Name one of them"),
        ({"minutes": float("inf")}, "minutes is inf"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"weights": "half"}, "expected one of lora, full"),
        ({"num_samples": 4}, "num_samples is 4"),
        ({"save_every": 1.5}, "save_every is 1.5"),
    ],
)
def test_numbers_out_of_range_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Recipe(**settings)


def test_all_weights_are_trained_more_gently() -> None:
    assert Recipe(weights="full").rate < Recipe().rate
    assert Recipe(weights="full", learning_rate=0.5).rate == 0.5


@given(st.integers(1, 10_000), seconds)
def test_steps_are_divided_evenly(steps: int, step: float) -> None:
    found = Recipe(steps=steps).schedule(step, 1.0)
    assert found.steps == steps
    assert 1 <= -(-steps // found.every) <= MEASUREMENTS
    assert Recipe(steps=steps, save_every=7).schedule(step, 1.0).every == 7


@given(st.floats(0.1, 600), seconds, seconds)
def test_what_is_planned_fits_the_minutes(minutes: float, step: float, measurement: float) -> None:
    found = Recipe(minutes=minutes).schedule(step, measurement)
    measurements = -(-found.steps // found.every)
    planned = found.steps * step + measurements * measurement
    assert planned <= 60 * minutes + 1e-6 or found == Schedule(1, 1), "one step and one measurement are the least"
    assert (measurements - 1) * measurement <= 0.2 * 60 * minutes + 1e-6
    left = 60 * minutes - planned
    assert left < step + MEASUREMENTS * measurement or found.steps == 1, "the time is used"


def test_a_schedule_once_made_stays(tmp_path: Path) -> None:
    recipe = Recipe(minutes=1.0)
    first = recipe.scheduled(tmp_path, lambda: 2.0, 1.0)
    assert recipe.scheduled(tmp_path, lambda: 0.1, 9.0) == first, "or a resumed run would be another one"
    assert first != recipe.schedule(0.1, 9.0)


def test_time_is_tried_only_where_it_matters(tmp_path: Path) -> None:
    def refuse() -> float:
        raise AssertionError("tried")

    assert Recipe(steps=5).scheduled(tmp_path, refuse, 1.0).steps == 5


@pytest.mark.parametrize(
    ("higher", "before", "after", "told"),
    [(False, 20.0, 21.0, True), (False, 20.0, 19.0, False), (True, 0.8, 0.7, True), (True, 0.8, 0.9, False)],
)
def test_a_worse_result_of_the_evaluation_is_told(higher: bool, before: float, after: float, told: bool) -> None:
    row = {"metric": "m", "dataset": "d", "higher_is_better": higher, "before": before, "after": after}
    found = worsened({"evaluation": row})
    assert (found is not None) == told
    assert worsened({}) is None
