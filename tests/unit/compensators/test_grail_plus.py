"""The contest of grail-plus: who takes part, who wins, and what is said about it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from optimum_grail.compensators._norm import renormalised
from optimum_grail.compensators.grail_plus import FALLBACK_RIDGE, PUBLISHED, RIDGES, Form, GrailPlus, Trial, _contest
from optimum_grail.core.moments import Moments, Statistics, Subset, TargetMoments
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ConfigError

UNITS, OUTPUTS = 6, 3
KEEP = Reduction.prune(UNITS, torch.tensor([0, 2, 3]))


def rows_of(count: int, seed: int, drift: float = 0.3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(UNITS, UNITS, generator=torch.Generator().manual_seed(9))
    rows = torch.randn(count, UNITS, generator=draw) @ mixing + 0.5
    return rows, drift * (rows[:, :1] + torch.randn(count, OUTPUTS, generator=draw))


def problem(held: bool = True, fit_rows: int = 100, **more: Any) -> GroupProblem:
    parts = []
    for count, seed in ((fit_rows, 1), (40, 2)):
        rows, drift = rows_of(count, seed)
        parts.append(Subset(Moments.of(rows), TargetMoments.of(drift, rows)))
    statistics = Statistics(tuple(parts[: 2 if held else 1]))
    weight = torch.randn(OUTPUTS, UNITS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return GroupProblem("g", UNITS, weight, (), statistics, **{"owns_bias": True, **more})


def equations(case: GroupProblem, part: str) -> NormalEquations:
    found = case.measured
    parts = dict(zip(("fit", "held"), found.subsets, strict=False)) | {"all": Subset(found.moments, found.target)}
    return NormalEquations.of(case.weight, parts[part].moments, parts[part].target, KEEP)


def test_the_winner_has_the_least_held_out_error_and_is_refitted_on_all_rows() -> None:
    case = problem()
    fit, held, everything = (equations(case, part) for part in ("fit", "held", "all"))
    losses = {}
    for ridge in RIDGES:
        family = fit.fit(ridge, "diagonal", "naive", True)
        tau = family.losses(held).best
        losses[held.loss(family.at(tau)) / held.variance] = (ridge, tau)
    found = GrailPlus()(case, KEEP)
    assert found.diagnostics["chosen"] == "fit"
    assert found.diagnostics["held_error"] == pytest.approx(min(losses))
    ridge, tau = losses[min(losses)]
    assert (found.diagnostics["ridge"], found.diagnostics["tau"]) == (ridge, pytest.approx(tau))
    expected = everything.fit(ridge, "diagonal", "naive", True).at(tau)
    torch.testing.assert_close(found.readout.weight, expected.weight)
    assert found.readout.bias is not None and found.diagnostics["affine"] is True
    torch.testing.assert_close(found.readout.bias, expected.bias)
    assert found.diagnostics["fit_error"] == pytest.approx(everything.loss(expected) / everything.variance)
    assert found.diagnostics["plain_error"] == pytest.approx(everything.loss(everything.plain) / everything.variance)
    assert found.diagnostics["plain_held_error"] == pytest.approx(held.loss(held.plain) / held.variance)


def test_plain_pruning_wins_where_every_fit_is_worse_on_held_out_rows() -> None:
    """Held-out rows of independent features: what the fit rows taught does not hold there."""
    case = problem(fit_rows=8)
    draw = torch.Generator().manual_seed(5)
    rows = torch.randn(4000, UNITS, generator=draw)
    zero = TargetMoments.zero(OUTPUTS, UNITS)
    statistics = Statistics((case.measured.subsets[0], Subset(Moments.of(rows), zero)))
    found = GrailPlus()(dataclasses.replace(case, statistics=statistics), KEEP)
    assert found.diagnostics["chosen"] == "plain" and found.diagnostics["affine"] is False
    assert torch.equal(found.readout.weight, case.weight[:, [0, 2, 3]]) and found.readout.bias is None
    assert found.diagnostics["held_error"] == found.diagnostics["plain_held_error"]


def test_without_held_out_rows_the_defaults_are_fitted() -> None:
    case = problem(held=False)
    found = GrailPlus()(case, KEEP)
    assert (found.diagnostics["ridge"], found.diagnostics["tau"]) == (FALLBACK_RIDGE, 1.0)
    assert found.diagnostics["held_error"] is None and found.diagnostics["plain_held_error"] is None
    expected = equations(case, "all").fit(FALLBACK_RIDGE, "diagonal", "naive", True).at(1.0)
    assert torch.equal(found.readout.weight, expected.weight)


@pytest.mark.parametrize("anchor", ["naive", "zero"])
def test_numbers_given_are_used_as_they_are(anchor: Any) -> None:
    case = problem()
    found = GrailPlus(anchor=anchor, ridge=0.5, tau=0.25, affine=False)(case, KEEP)
    assert (found.diagnostics["ridge"], found.diagnostics["tau"]) == (0.5, 0.25)
    assert found.readout.bias is None and found.diagnostics["affine"] is False
    expected = equations(case, "all").fit(0.5, "diagonal", anchor, False).at(0.25)
    torch.testing.assert_close(found.readout.weight, expected.weight)


@pytest.mark.parametrize(
    ("target", "needs"),
    [
        ("residual", {"gram", "held-out", "drift"}),
        ("dense", {"gram", "held-out", "dense"}),
        ("self", {"gram", "held-out"}),
    ],
)
def test_it_asks_for_what_its_target_needs(target: Any, needs: set[str]) -> None:
    assert GrailPlus(target=target).needs == needs
    assert GrailPlus(target=target, gate="sources").needs == needs | {"sources"}
    with pytest.raises(ConfigError, match="'sources' or 'rows'"):
        GrailPlus(gate="words")  # type: ignore[arg-type]


def test_batch_norm_may_be_reestimated_where_that_helps() -> None:
    """Plain readouts shrink the variance; a norm that expects the dense one then amplifies too little."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(300, UNITS, generator=draw)
    weight = torch.randn(OUTPUTS, UNITS, generator=draw, dtype=torch.float64)
    output = rows.double() @ weight.T
    norm = (output.mean(0) + 0.5, 4 * output.var(0), 1e-5)
    statistics = Statistics((Subset(Moments.of(rows)), Subset(Moments.of(rows))))
    case = GroupProblem("g", UNITS, weight, (), statistics, owns_bias=True, norm=norm)
    equations = NormalEquations.of(weight, statistics.subsets[0].moments, None, KEEP)
    forms = list(GrailPlus(target="self")._forms(True))
    labels = [item.label for item in _contest(case, [Trial(equations, equations)], forms, "auto")]
    assert labels.count("batch-norm") == labels.count("fit") == len(RIDGES) and labels[0] == "plain"
    assert GrailPlus(target="self")(case, KEEP).diagnostics["chosen"] == "fit"
    stretched = 0.9 * output + 0.5  # the dense stream varies twice as much as the student's own output
    target = TargetMoments.of(stretched.float(), rows)
    louder = dataclasses.replace(case, statistics=Statistics((Subset(Moments.of(rows), target),) * 2))
    found = GrailPlus(tau=0.0)(louder, Reduction.keep_all(UNITS))
    assert found.diagnostics["chosen"] == "batch-norm"
    assert found.readout.bias is not None and found.diagnostics["fit_error"] < 0.1


def test_renormalising_gives_the_mean_and_variance_that_the_norm_expects() -> None:
    case = problem()
    everything = equations(case, "all")
    mean, var, eps = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([4.0, 0.25, 9.0]), 1e-5
    found = renormalised(Readout(everything.naive), everything, (mean, var, eps))
    rows = torch.cat([rows_of(100, 1)[0], rows_of(40, 2)[0]]).double()[:, [0, 2, 3]]
    output = rows @ found.weight.T + found.bias
    torch.testing.assert_close(output.mean(0), mean.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.var(0, correction=0), var.double(), rtol=1e-3, atol=1e-4)


def source(count: int, seed: int, tie: float) -> Subset:
    """Rows whose first dropped feature follows the first kept one by ``tie``, apart from noise."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, UNITS, generator=draw)
    rows[:, 1] = tie * rows[:, 0] + 0.1 * rows[:, 1]
    return Subset(Moments.of(rows))


def test_what_holds_in_one_source_only_is_not_built_on() -> None:
    """In one source a dropped feature follows a kept one, in the other it does the opposite."""
    case = problem()
    for tie, chosen in ((1.0, "fit"), (-1.0, "plain")):
        crossed = Statistics((source(500, 1, 1.0), source(500, 2, tie)), crossed=True)
        found = GrailPlus(target="self")(dataclasses.replace(case, statistics=crossed), KEEP)
        assert found.diagnostics["chosen"] == chosen
    one = Statistics((source(500, 1, 1.0), source(500, 2, 1.0)))
    assert GrailPlus(target="self")(dataclasses.replace(case, statistics=one), KEEP).diagnostics["held_error"] < 0.8


def test_every_source_is_judged_by_what_is_fitted_on_the_others() -> None:
    case = problem()
    parts = tuple(source(100 * (seed + 1), seed, 1.0 - seed) for seed in range(3))
    found = GrailPlus(target="self", ridge=1e-2)(
        dataclasses.replace(case, statistics=Statistics(parts, crossed=True)), KEEP
    )
    seen = [NormalEquations.of(case.weight, part.moments, None, KEEP) for part in parts]
    pairs = [(seen[1] + seen[2], seen[0]), (seen[0] + seen[2], seen[1]), (seen[0] + seen[1], seen[2])]
    forms = (Form(1e-2, "diagonal", "naive", True), PUBLISHED)
    losses = [sum(judge.loss(form.fit(fit).at(0.0)) / judge.variance for fit, judge in pairs) / 3 for form in forms]
    plain = sum(judge.loss(judge.plain) / judge.variance for _, judge in pairs) / 3
    assert found.diagnostics["plain_held_error"] == pytest.approx(plain)
    assert found.diagnostics["held_error"] == pytest.approx(min(*losses, plain))


def test_the_published_readout_takes_part_where_there_are_several_sources() -> None:
    """A bias fitted on sources of other means is worse than none."""
    case = problem()
    parts = []
    for seed, shift in enumerate((3.0, -3.0)):
        rows = torch.randn(400, UNITS, generator=torch.Generator().manual_seed(seed))
        rows[:, 0] += shift
        rows[:, 1] = rows[:, 0]  # what is dropped equals what is kept, in both sources
        parts.append(Subset(Moments.of(rows + 0.3 * shift)))
    crossed = dataclasses.replace(case, statistics=Statistics(tuple(parts), crossed=True))
    found = GrailPlus(target="self", anchor="zero")(crossed, KEEP)
    assert found.diagnostics["chosen"] == "published" and found.readout.bias is None
