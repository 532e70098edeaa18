"""The refit of producers on planted nets: it finds what a consumer alone cannot, and keeps only what holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from optimum_grail.core.producers import Changes, ProducerProblem, Rows
from optimum_grail.core.products import Matrix
from optimum_grail.refits.producers import FEWEST, Producers

WIDTH, UNITS, OUTPUTS = 6, 8, 5
Targets = Callable[[Tensor, int], Tensor]
"""``(inputs, which rows) -> targets``: 0 to fit on, 1 to judge by."""


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GATE, UP, DOWN = drawn(UNITS, WIDTH, seed=1), drawn(UNITS, WIDTH, seed=2), drawn(OUTPUTS, UNITS, seed=3)


def features(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return silu(x @ gate.T) * (x @ up.T)


def problem_of(targets: Targets, off: float = 0.3, counts: tuple[int, int] = (2000, 500)) -> ProducerProblem:
    """A gated pair whose producers are ``off`` from those of a net with as many units."""
    start = [GATE + off * drawn(UNITS, WIDTH, seed=4), UP + off * drawn(UNITS, WIDTH, seed=5)]
    rows = [drawn(count, WIDTH, seed=10 + side) for side, count in enumerate(counts)]

    def seen(x: Tensor, side: int, changes: Changes) -> Rows:
        gate, up = (weight + change for weight, change in zip(start, changes, strict=True))
        outputs = [(x @ gate.T).requires_grad_(), (x @ up.T).requires_grad_()]
        made = silu(outputs[0]) * outputs[1]
        derivatives = torch.autograd.grad(made, outputs, torch.ones_like(made))
        return Rows([x, x], derivatives, made.detach(), targets(x, side))

    def look(changes: Changes | None) -> tuple[Rows, Rows]:
        moved = changes or [torch.zeros_like(weight) for weight in start]
        return seen(rows[0], 0, moved), seen(rows[1], 1, moved)

    return ProducerProblem("planted", DOWN, False, [Matrix(), Matrix()], Matrix(), look)


def planted(x: Tensor, side: int) -> Tensor:
    return features(x, GATE, UP) @ DOWN.T


def test_a_planted_net_is_found_again() -> None:
    found = Producers(rounds=12, iterations=40, damping=1e-4, ridge=1e-8)(problem_of(planted))
    assert found.changes is not None
    assert found.before > 0.01, "the consumer alone stays above"
    assert found.after < 1e-3 * found.before


def test_more_rounds_do_no_worse_and_the_error_told_is_that_of_the_changes() -> None:
    problem = problem_of(planted)
    errors = [Producers(rounds=rounds)(problem).after for rounds in (1, 2, 4)]
    assert errors[0] > errors[1] > errors[2]
    once = Producers(rounds=1)(problem)
    assert once.changes is not None and once.after < once.before
    fit, judge = problem.look(once.changes)
    solution = torch.linalg.lstsq(fit.features, fit.target).solution
    variance = (judge.target - judge.target.mean(0)).square().sum()
    error = (judge.features @ solution - judge.target).square().sum() / variance
    assert once.after == pytest.approx(float(error), rel=0.05)


def test_what_holds_on_the_rows_fitted_on_only_is_not_kept() -> None:
    def noise(x: Tensor, side: int) -> Tensor:
        return drawn(len(x), OUTPUTS, seed=20 + side)

    found = Producers()(problem_of(noise, counts=(300, 200)))
    assert found.changes is None and found.after == found.before


@pytest.mark.parametrize("counts", [(FEWEST - 1, 500), (2000, FEWEST - 1)])
def test_few_rows_change_nothing(counts: tuple[int, int]) -> None:
    assert Producers()(problem_of(planted, counts=counts)).changes is None
