"""What the algebra promises of every compensator in the registry, on what every selector leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.liar import Liar
from optimum_grail.config.building import method_options
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.models.matrix import shared_to_patch, to_matrix
from optimum_grail.selectors import SELECTORS
from optimum_grail.streams.probe import features_of

Build = Callable[..., Any]
SEEDS = st.integers(0, 2**20)
BOUND = {"none", "bias", "mask-scale"}
"""Compensators that cannot move what one kept unit says into another's column."""
ANCHORED = {name for name, cls in COMPENSATORS if "ridge" in method_options(cls)}


def readouts(problem: GroupProblem, keep: int) -> Iterator[tuple[str, str, Reduction, Readout]]:
    """The readout of every compensator after every selector; once where selectors agree, which is all it sees."""
    found = {}
    for chosen, selector in SELECTORS:
        reduction = selector()(problem, keep).reduction
        found.setdefault(tuple(reduction.assignment.tolist()), (chosen, reduction))
    for chosen, reduction in found.values():
        for name, compensator in COMPENSATORS:
            yield chosen, name, reduction, compensator()(problem, reduction).readout


def equations_of(problem: GroupProblem, reduction: Reduction) -> NormalEquations:
    return NormalEquations.of(problem.weight, problem.measured.moments, problem.measured.target, reduction)


@given(seed=SEEDS, span=st.integers(1, 3))
@settings(max_examples=6)
def test_independent_features_leave_nothing_to_make_up_for(build: Build, seed: int, span: int) -> None:
    """With a Gram ``c I`` and no mean every readout is plain pruning, or plain folding."""
    case = build(seed, spans=(span,))
    width = case.weight.shape[1]
    rows = torch.cat([torch.eye(width), -torch.eye(width)]) * 2
    zero = TargetMoments.zero(*case.weight.shape)
    statistics = Statistics((Subset(Moments.of(rows), zero),) * 2)
    problem = replace(case.problem(), statistics=statistics)
    for chosen, name, reduction, readout in readouts(problem, len(case.keep)):
        plain = reduction.lift_columns(case.weight, span)
        slack = 1e-2 * float(plain.norm())  # a ridge of 1e-3 towards zero shrinks columns, those of clusters most
        assert float((readout.weight - plain).norm()) <= slack, (chosen, name)
        assert readout.bias is None or float(readout.bias.norm()) <= 1e-9 + slack, (chosen, name)


@given(seed=SEEDS)
@settings(max_examples=8)
def test_a_fitted_bias_keeps_the_mean_and_counts_nothing_twice(build: Build, seed: int) -> None:
    case = build(seed)
    problem = case.problem(owns_bias=True, drift=False)
    for chosen, name, reduction, readout in readouts(problem, len(case.keep)):
        if readout.bias is None:
            continue
        equations = equations_of(problem, reduction)
        got = readout.weight @ equations.mean / equations.count + readout.bias
        torch.testing.assert_close(
            got, equations.output / equations.count, rtol=1e-9, atol=1e-9, msg=f"{chosen} {name}"
        )


@given(seed=SEEDS)
@settings(max_examples=6)
def test_a_dense_model_that_the_student_equals_is_the_self_target(build: Build, seed: int) -> None:
    """To the last bit, whatever the methods."""
    case = build(seed)
    alone = case.problem(drift=False)
    zero = TargetMoments.zero(*case.weight.shape)
    beside = replace(alone, statistics=Statistics(tuple(Subset(part.moments, zero) for part in alone.measured.subsets)))
    for first, second in zip(readouts(alone, len(case.keep)), readouts(beside, len(case.keep)), strict=True):
        assert torch.equal(first[3].weight, second[3].weight), first[:2]
        assert (first[3].bias is None) == (second[3].bias is None)
        assert first[3].bias is None or torch.equal(first[3].bias, second[3].bias), first[:2]


@given(seed=SEEDS)
@settings(max_examples=6)
def test_the_order_of_the_rows_does_not_matter(build: Build, seed: int) -> None:
    case = build(seed)
    order = torch.randperm(len(case.rows), generator=torch.Generator().manual_seed(seed))
    shuffled = replace(case, rows=case.rows[order], drift=case.drift[order])
    pairs = zip(readouts(case.problem(parts=1), 2), readouts(shuffled.problem(parts=1), 2), strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first[3].weight, second[3].weight, rtol=1e-9, atol=1e-9, msg=str(first[:2]))


@pytest.mark.parametrize("name", sorted(set(COMPENSATORS.names()) - BOUND))
@given(seed=SEEDS, span=st.integers(1, 3))
@settings(max_examples=15)
def test_dropping_one_of_two_twins_is_made_up_for(name: str, seed: int, span: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = 4
    rows = torch.randn(300, half * span, generator=generator)
    twins = torch.cat([rows, rows], 1)
    weight = torch.randn(3, 2 * half * span, generator=generator, dtype=torch.float64)
    statistics = Statistics((Subset(Moments.of(twins[:200])), Subset(Moments.of(twins[200:]))))
    problem = GroupProblem("g", 2 * half, weight, (), statistics, owns_bias=bool(seed % 2))
    keep = torch.arange(half) + half * torch.randint(2, (half,), generator=generator)
    reduction = Reduction.prune(2 * half, keep)
    compensator = COMPENSATORS.get(name)()
    if "anchor" in method_options(type(compensator)):
        compensator = replace(compensator, ridge=1e-6)
    equations = equations_of(problem, reduction)
    assert equations.loss(compensator(problem, reduction).readout) <= 1e-5 * equations.variance


@given(seed=SEEDS, value=st.sampled_from([-3.0, 0.5, 2.0]))
@settings(max_examples=15)
def test_a_dropped_constant_needs_a_bias(build: Build, seed: int, value: float) -> None:
    case = build(seed, spans=(1,))
    case.rows[:, 0] = value
    problem = case.problem(owns_bias=True, drift=False)
    reduction = Reduction.prune(case.units, torch.arange(1, case.units))
    equations = equations_of(problem, reduction)
    level = problem.measured.moments.count * value**2 * float(case.weight[:, 0].square().sum())
    fitted = 0
    for name, cls in COMPENSATORS:
        compensator = cls()
        if name == "grail-plus":
            compensator = replace(compensator, ridge=1e-6)
        readout = compensator(problem, reduction).readout
        if readout.bias is not None:
            fitted += 1
            assert equations.loss(readout) <= 1e-6 * level + 1e-9 * equations.energy, name
    assert fitted >= 3
    assert equations.loss(equations.plain) == pytest.approx(level, rel=1e-9)


@pytest.mark.parametrize("name", sorted(ANCHORED))
@pytest.mark.parametrize("owns_bias", [False, True])
@given(seed=SEEDS, fold=st.booleans())
@settings(max_examples=15)
def test_a_large_ridge_is_plain_with_the_mean_of_what_is_missing(
    build: Build, name: str, owns_bias: bool, seed: int, fold: bool
) -> None:
    case = build(seed)
    problem = case.problem(owns_bias, drift=False, parts=1)
    options = {"anchor": "naive"} if "anchor" in method_options(COMPENSATORS.get(name)) else {}
    readout = COMPENSATORS.get(name)(ridge=1e12, **options)(problem, case.reduction(fold)).readout
    flap = COMPENSATORS.get("bias")()(problem, case.reduction(fold)).readout
    torch.testing.assert_close(readout.weight, flap.weight, rtol=0, atol=1e-6)
    if readout.bias is not None:
        torch.testing.assert_close(readout.bias, flap.bias, rtol=0, atol=1e-6)


@given(seed=SEEDS, owns_bias=st.booleans())
@settings(max_examples=8)
def test_more_freedom_leaves_less_error_on_the_rows_it_was_fitted_on(build: Build, seed: int, owns_bias: bool) -> None:
    """Affine, then uncentred, then plain; a gate is not worse than plain on the rows that it looks at."""
    case = build(seed)
    problem = case.problem(owns_bias, drift=False)
    for chosen, selector in SELECTORS:
        reduction = selector()(problem, len(case.keep)).reduction
        equations = equations_of(problem, reduction)
        plain = equations.loss(equations.plain)
        slack = 1e-9 * equations.energy
        losses = {
            label: equations.loss(compensator(problem, reduction).readout)
            for label, compensator in (
                ("affine", Liar(ridge=1e-9)),
                ("uncentred", Liar(ridge=1e-9, affine=False)),
                ("surgeon", Grail(1e-2, "naive")),
                ("bias", COMPENSATORS.get("bias")()),
            )
        }
        assert losses["affine"] <= min(losses["uncentred"], losses["bias"]) + slack + 1e-6 * plain, chosen
        assert losses["uncentred"] <= losses["surgeon"] + slack + 1e-6 * plain, chosen
        assert max(losses.values()) <= plain + slack, chosen
        told = COMPENSATORS.get("grail-plus")()(problem, reduction).diagnostics
        assert told["held_error"] <= told["plain_held_error"] + 1e-12, chosen


def conv_features(seed: int) -> tuple[nn.Conv2d, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(4, 3, 3, padding=1, bias=False)
    conv.weight.data = torch.randn(conv.weight.shape, generator=generator)
    images = torch.nn.functional.avg_pool2d(torch.randn(6, 4, 8, 8, generator=generator), 3, 1, 1)
    mixing = torch.randn(4, 4, generator=generator)
    return conv, torch.einsum("bchw,dc->bdhw", images, mixing).round(decimals=1)


@pytest.mark.parametrize("name", sorted(set(COMPENSATORS.names()) - BOUND))
@given(seed=SEEDS)
@settings(max_examples=10)
def test_exact_patches_are_never_worse_than_taps_that_share_a_map(name: str, seed: int) -> None:
    conv, images = conv_features(seed)
    reduction = Reduction.prune(4, torch.tensor([1, 3]))
    options = {"ridge": 1e-6} | ({"anchor": "naive"} if "anchor" in method_options(COMPENSATORS.get(name)) else {})
    compensator = COMPENSATORS.get(name)(**options)
    found, problems = {}, {}
    for view in ("shared", "patch"):
        rows = features_of(images, conv, view).flatten(0, 1)
        problems[view] = GroupProblem("g", 4, to_matrix(conv, view), (), Statistics((Subset(Moments.of(rows)),)))
        found[view] = compensator(problems[view], reduction).readout.weight
    assert found["shared"].shape == (27, 2)
    equations = equations_of(problems["patch"], reduction)
    shared = equations.loss(Readout(shared_to_patch(found["shared"], conv)))
    exact = equations.loss(Readout(found["patch"]))
    assert exact <= shared + 1e-5 * equations.energy
    assert exact < equations.loss(equations.plain)
