"""Curves of damage that are no multiple of the error."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.allocations.knapsack import Knapsack
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.data.batches import make_batches
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.signals.bent_curves import BENDS, bent
from optimum_grail.survey.survey import Survey

DRAW = torch.Generator().manual_seed(0)
IMAGES = make_batches([{"pixel_values": torch.randn(3, 16, 16, generator=DRAW)} for _ in range(32)], batch_size=4)


def test_lines_from_nothing_through_the_points_and_on() -> None:
    errors = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.8], dtype=torch.float64)
    found = bent(errors, [(0.2, 0.02), (0.4, 0.4)])
    assert found.tolist() == pytest.approx([0.0, 0.01, 0.02, 0.21, 0.4, 0.8])


def test_damage_never_falls_and_points_that_stand_still_are_left_out() -> None:
    errors = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = bent(errors, [(0.0, 0.5), (0.3, 0.2), (0.3, 0.9), (0.6, 0.1)])
    assert bool((found.diff() >= 0).all()) and float(found[3]) == pytest.approx(0.2)
    assert bool((bent(errors, [(0.0, 0.3)]) == 0).all())


def test_a_survey_measures_the_damage_where_it_says() -> None:
    """At a half, both kinds of curve say the same; beyond, only one of them was measured."""
    model = tiny_basic().eval()
    layout = resolve(model)
    plain, curved = (
        Survey(model, layout, IMAGES, Silent(), Knapsack(sensitivity=name).needs).run().curves
        for name in ("forward", "bent")
    )
    for group in layout.groups:
        half = group.units // 2
        assert curved[group.name].damage(half) == pytest.approx(plain[group.name].damage(half), rel=1e-6, abs=1e-9)
        assert torch.equal(curved[group.name].order, plain[group.name].order)
    eighths = [group.units // BENDS[-1] or 1 for group in layout.groups]
    names = [group.name for group in layout.groups]
    assert any(
        curved[name].damage(width) != pytest.approx(plain[name].damage(width), rel=1e-3)
        for name, width in zip(names, eighths, strict=True)
    )
