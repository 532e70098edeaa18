"""Laws of the ridge family: what it minimises, its limits, and the drift strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations

Build = Callable[..., Any]
SEEDS = st.integers(0, 2**20)
FLAGS = st.booleans()
ANCHORS = st.sampled_from(["zero", "naive"])
SCALES = st.sampled_from(["diagonal", "mean"])
RIDGES = st.sampled_from([1e-6, 1e-3, 1e-1, 10.0])


def close(first: float, second: float, scale: float, tolerance: float = 1e-9) -> bool:
    return abs(first - second) <= tolerance * max(scale, 1e-300)


@given(seed=SEEDS, drift=FLAGS, bias=FLAGS, fold=FLAGS)
def test_loss_is_the_sum_over_rows(build: Build, seed: int, drift: bool, bias: bool, fold: bool) -> None:
    case = build(seed)
    equations = case.equations(drift, fold)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(equations.naive.shape, generator=generator, dtype=torch.float64)
    offset = torch.randn(len(weight), generator=generator, dtype=torch.float64) if bias else None
    readout = Readout(weight, offset)
    assert close(equations.loss(readout), case.loss(readout, drift, fold), equations.energy)
    wanted = case.rows.double() @ case.weight.T + (case.drift.double() if drift else 0.0)
    assert close(equations.energy, float(wanted.square().sum()), equations.energy)
    assert close(equations.variance, float((wanted - wanted.mean(0)).square().sum()), equations.energy)


@given(seed=SEEDS, drift=FLAGS, affine=FLAGS, fold=FLAGS, anchor=ANCHORS, scale=SCALES, ridge=RIDGES)
def test_fit_minimises_the_penalised_loss(
    build: Build, seed: int, drift: bool, affine: bool, fold: bool, anchor: str, scale: str, ridge: float
) -> None:
    case = build(seed)
    equations = case.equations(drift, fold)
    fitted = equations.fit(ridge, scale, anchor, affine).at(1.0)
    start = equations.naive if anchor == "naive" else torch.zeros_like(equations.naive)
    gram = equations.gram - torch.outer(equations.mean, equations.mean) / equations.count * affine
    metric = gram.diagonal() if scale == "diagonal" else gram.diagonal().mean()

    def objective(readout: Readout) -> float:
        return case.loss(readout, drift, fold) + ridge * float(((readout.weight - start).square() * metric).sum())

    least = objective(fitted)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        step = 1e-3 * torch.randn(fitted.weight.shape, generator=generator, dtype=torch.float64)
        bias = None
        if fitted.bias is not None:
            bias = fitted.bias + 1e-3 * torch.randn(len(step), generator=generator, dtype=torch.float64)
        assert objective(Readout(fitted.weight + step, bias)) >= least - 1e-9 * equations.energy


@given(seed=SEEDS, affine=FLAGS, anchor=ANCHORS, scale=SCALES, zero_drift=FLAGS)
def test_keeping_all_without_ridge_and_drift_changes_nothing(
    build: Build, seed: int, affine: bool, anchor: str, scale: str, zero_drift: bool
) -> None:
    case = build(seed, count=200)
    assume(torch.linalg.cond(case.moments.covariance(True)) < 1e5)
    target = TargetMoments.zero(*case.weight.shape) if zero_drift else None
    equations = NormalEquations.of(case.weight, case.moments, target, Reduction.keep_all(case.units))
    readout = equations.fit(1e-13, scale, anchor, affine).at(1.0)
    torch.testing.assert_close(readout.weight, case.weight, rtol=0, atol=1e-6)
    assert (readout.bias is not None) == affine
    if readout.bias is not None:
        assert readout.bias.abs().max() < 1e-6


@given(seed=SEEDS, affine=FLAGS, fold=FLAGS, scale=SCALES)
def test_an_infinite_ridge_is_plain_pruning_with_the_mean_of_what_is_missing(
    build: Build, seed: int, affine: bool, fold: bool, scale: str
) -> None:
    case = build(seed)
    equations = case.equations(drift=False, fold=fold)
    readout = equations.fit(1e12, scale, "naive", affine).at(0.0)
    torch.testing.assert_close(readout.weight, equations.naive, rtol=0, atol=1e-6)
    if not affine:
        assert readout.bias is None
        return
    mean = case.rows.double().mean(0)
    span = case.rows.shape[1] // case.units
    expected = case.weight @ mean - equations.naive @ case.reduction(fold).encode_rows(mean, span)
    torch.testing.assert_close(readout.bias, expected, rtol=0, atol=1e-6)
    if not fold:  # FLAP: the consumer's columns times the mean of the dropped features
        gone = torch.ones(case.units, dtype=torch.bool)
        gone[case.keep] = False
        columns = gone.repeat_interleave(span)
        torch.testing.assert_close(readout.bias, case.weight[:, columns] @ mean[columns], rtol=0, atol=1e-6)


@given(seed=SEEDS, drift=FLAGS, fold=FLAGS, ridge=RIDGES)
def test_affine_beats_uncentred_beats_plain_on_the_fit_rows(
    build: Build, seed: int, drift: bool, fold: bool, ridge: float
) -> None:
    case = build(seed)
    equations = case.equations(drift, fold)
    plain = equations.loss(equations.plain)
    slack = 1e-9 * equations.energy
    for affine in (False, True):
        assert equations.loss(equations.fit(ridge, "diagonal", "naive", affine).at(1.0)) <= plain + slack
    uncentred = equations.loss(equations.fit(1e-12, "diagonal", "naive", False).at(1.0))
    affine_loss = equations.loss(equations.fit(1e-12, "diagonal", "naive", True).at(1.0))
    assert affine_loss <= uncentred + slack
    assert affine_loss <= equations.variance + slack


@given(seed=SEEDS, affine=FLAGS, fold=FLAGS, target=st.sampled_from(["residual", "dense"]))
def test_a_student_that_equals_the_dense_model_has_the_self_target(
    build: Build, seed: int, affine: bool, fold: bool, target: str
) -> None:
    case = build(seed)
    bare = case.statistics(2, drift=False)
    zero = TargetMoments.zero(*case.weight.shape)
    compared = Statistics(tuple(Subset(part.moments, zero) for part in bare.subsets))
    results = []
    for statistics, name in ((bare, "self"), (compared, target)):
        problem = GroupProblem("g", case.units, case.weight, (), statistics, owns_bias=affine)
        results.append(GrailPlus(target=name)(problem, case.reduction(fold)).readout)
    assert torch.equal(results[0].weight, results[1].weight)
    assert (results[0].bias is None) == (results[1].bias is None)
    if results[0].bias is not None:
        assert torch.equal(results[0].bias, results[1].bias)


@given(seed=SEEDS, affine=FLAGS, fold=FLAGS, ridge=RIDGES)
def test_the_best_tau_has_the_least_held_out_loss(
    build: Build, seed: int, affine: bool, fold: bool, ridge: float
) -> None:
    case, other = build(seed), build(seed + 1)
    reduction = case.reduction(fold)
    equations = case.equations(True, fold)
    rows = other.rows.double()
    width = case.rows.shape[1]
    rows = rows.repeat(1, width)[:, :width]  # unrelated rows, so that the best strength may be anywhere
    drift = rows[:, :1].repeat(1, len(case.weight)) / 4
    judge = NormalEquations.of(
        case.weight,
        Moments.of(rows),
        TargetMoments.of(drift, rows),
        reduction,
    )
    family = equations.fit(ridge, "diagonal", "naive", affine)
    best = family.losses(judge).best
    assert 0 <= best <= 1
    least = min(judge.loss(family.at(tau)) for tau in torch.linspace(0, 1, 101).tolist())
    assert judge.loss(family.at(best)) <= least + 1e-9 * judge.energy
    for tau in (0.0, 0.3, 1.0):
        assert abs(family.losses(judge).at(tau) - judge.loss(family.at(tau))) <= 1e-9 * judge.energy


@given(seed=SEEDS, tau=st.floats(0, 1), affine=FLAGS)
def test_a_drift_strength_is_a_target_scaled(build: Build, seed: int, tau: float, affine: bool) -> None:
    case = build(seed)
    whole = case.target
    scaled = TargetMoments(tau * whole.total, tau * whole.cross, tau**2 * whole.energy)
    reduction = case.reduction()
    scaled_equations = NormalEquations.of(case.weight, case.moments, scaled, reduction)
    ours = case.equations(True).fit(1e-3, "diagonal", "naive", affine).at(tau)
    theirs = scaled_equations.fit(1e-3, "diagonal", "naive", affine).at(1.0)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-8, atol=1e-9)
    if affine:
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-8, atol=1e-9)


@given(seed=SEEDS, value=st.floats(-3, 3))
def test_a_dropped_constant_is_made_up_for_by_the_bias_alone(build: Build, seed: int, value: float) -> None:
    case = build(seed, spans=(1,))
    rows = case.rows.clone()
    keep = torch.arange(1, case.units)
    rows[:, 0] = value
    equations = NormalEquations.of(case.weight, Moments.of(rows), None, Reduction.prune(case.units, keep))
    readout = equations.fit(1e-9, "diagonal", "naive", True).at(0.0)
    torch.testing.assert_close(readout.weight, case.weight[:, 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(readout.bias, case.weight[:, 0] * rows[0, 0].double(), rtol=1e-3, atol=1e-3)


@given(seed=SEEDS, first=st.floats(0.5, 4), second=st.floats(0.5, 4))
def test_kept_constants_do_not_spoil_the_affine_fit(build: Build, seed: int, first: float, second: float) -> None:
    """Two constant features have rounding for variances; taken at face value their correlation exceeds one."""
    case = build(seed, spans=(1,), count=200)
    rows = torch.cat([case.rows, torch.full((200, 1), first), torch.full((200, 1), second)], 1)
    weight = torch.cat([case.weight, torch.ones_like(case.weight[:, :2])], 1)
    keep = torch.cat([case.keep, torch.tensor([case.units, case.units + 1])])
    wide = NormalEquations.of(weight, Moments.of(rows), None, Reduction.prune(case.units + 2, keep))
    family = wide.fit(1e-6, "diagonal", "naive", True)
    assert family.ridge == 1e-6, "the ridge should not have to grow"
    narrow = case.equations(False)
    reference = narrow.loss(narrow.fit(1e-6, "diagonal", "naive", True).at(0.0))
    assert wide.loss(family.at(0.0)) <= reference + 1e-4 * wide.variance + 1e-5 * wide.energy
