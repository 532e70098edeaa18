"""The optimal brain surgeon's family against transcriptions that invert afresh at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optimum_grail.core.problem import GroupProblem
from optimum_grail.selectors.leverage import Leverage
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.osscar import Osscar, gains, support
from optimum_grail.selectors.schur import Schur
from optimum_grail.selectors.slimgpt import Slimgpt
from optimum_grail.selectors.ziplm import Ziplm


def strip(units: Any, span: int) -> Any:
    return (np.asarray(units, int)[:, None] * span + np.arange(span)).ravel()


def mean_damped(sample: Any, damping: float = 1e-2) -> Any:
    return sample.gram + damping * np.diag(sample.gram).mean() * np.eye(len(sample.gram))


def surgeon_costs(w: Any, h: Any, span: int, left: list[int]) -> dict[int, float]:
    """``tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)`` of every unit that is left, with the weights refitted on those."""
    cols = strip(left, span)
    q, v = np.linalg.inv(h[np.ix_(cols, cols)]), refit(w, h, span, left)
    found = {}
    for place, unit in enumerate(left):
        s = strip([place], span)
        found[unit] = float(np.trace(v[:, s] @ np.linalg.inv(q[np.ix_(s, s)]) @ v[:, s].T))
    return found


def refit(w: Any, h: Any, span: int, left: list[int]) -> Any:
    cols = strip(left, span)
    return w @ h[:, cols] @ np.linalg.inv(h[np.ix_(cols, cols)])


def loss(w: Any, h: Any, span: int, left: list[int]) -> float:
    """The damped loss of dropping all but ``left``: ``‖W - V‖²`` in the metric ``H``."""
    gap = w.copy()
    gap[:, strip(left, span)] -= refit(w, h, span, left)
    return float(np.trace(gap @ h @ gap.T))


def eliminate(w: Any, h: Any, span: int, sizes: list[int]) -> list[int]:
    left, order = list(range(w.shape[1] // span)), []
    for size in sizes:
        costs = surgeon_costs(w, h, span, left)
        gone = sorted(costs, key=lambda unit: costs[unit])[:size]
        order += gone
        left = [unit for unit in left if unit not in gone]
    return order


def test_obs_at_once(sample: Any) -> None:
    h = sample.gram + 1e-3 * np.diag(np.diag(sample.gram))
    costs = surgeon_costs(sample.w, h, sample.span, list(range(sample.units)))
    expected = sorted(costs, key=lambda unit: costs[unit])
    assert Obs(greedy=False)(sample.problem(), 3).order.tolist() == expected


def test_ziplm(sample: Any) -> None:
    h = mean_damped(sample)
    selection = Ziplm()(sample.problem(), 2)
    assert selection.order.tolist() == eliminate(sample.w, h, sample.span, [1] * (sample.units - 2))
    whole = np.trace(sample.w @ h @ sample.w.T)
    for gone in range(1, sample.units - 2):
        left = [unit for unit in range(sample.units) if unit not in selection.order[:gone]]
        assert float(selection.curve[gone]) == pytest.approx(loss(sample.w, h, sample.span, left) / whole, rel=1e-9)


def test_slimgpt(sample: Any) -> None:
    """Heads one by one; channels in groups of half of what is still to go: 3, 2 and 1 of 6."""
    sizes = [3, 2, 1] if sample.span == 1 else [1] * 6
    assert Slimgpt(share=0.5).sizes(6, sample.span) == sizes
    h = mean_damped(sample)
    selection = Slimgpt(share=0.5)(sample.problem(), 2)
    assert selection.order.tolist() == eliminate(sample.w, h, sample.span, sizes)
    whole = np.trace(sample.w @ h @ sample.w.T)
    for gone in range(1, 7):
        left = [unit for unit in range(sample.units) if unit not in selection.order[:gone]]
        assert float(selection.curve[gone]) == pytest.approx(loss(sample.w, h, sample.span, left) / whole, rel=1e-9)


def test_osscar(sample: Any) -> None:
    """Backward in steps of 4, then swaps: out go the cheapest, in come those whose return alone gains most."""
    w, h, span = sample.w, mean_damped(sample), sample.span
    dropped = eliminate(w, h, span, [4, 1])
    count = 3
    for _ in range(20):
        left = [unit for unit in range(sample.units) if unit not in dropped]
        costs, now = surgeon_costs(w, h, span, left), loss(w, h, span, left)
        gains = {unit: now - loss(w, h, span, sorted([*left, unit])) for unit in dropped}
        enter = sorted(gains, key=lambda unit: -gains[unit])[:count]
        leave = sorted(costs, key=lambda unit: costs[unit])[:count]
        trial = [unit for unit in dropped if unit not in enter] + leave
        if loss(w, h, span, [unit for unit in range(sample.units) if unit not in trial]) < now * (1 - 1e-9):
            dropped = trial
        elif (count := count // 2) == 0:
            break
    found = Osscar(step=4)(sample.problem(), 3)
    assert sorted(found.order.tolist()) == sorted(dropped)
    assert Osscar(step=4, rounds=0)(sample.problem(), 3).order.tolist() == eliminate(w, h, span, [4, 1])


def test_osscar_gains(sample: Any) -> None:
    """What a dropped unit's return is worth is the fall of the refitted loss."""
    w, h, span, gone = sample.w, mean_damped(sample), sample.span, [1, 4, 6]
    left = [unit for unit in range(sample.units) if unit not in gone]
    found = support(*map(torch.from_numpy, (w, h, w @ h)), sample.units, torch.tensor(gone))
    assert found.loss == pytest.approx(loss(w, h, span, left), rel=1e-9)
    expected = [loss(w, h, span, left) - loss(w, h, span, sorted([*left, unit])) for unit in gone]
    np.testing.assert_allclose(gains(found, torch.from_numpy(h), torch.from_numpy(w @ h)), expected, rtol=1e-9)


def test_osscar_swaps_mend_a_bad_step(sample: Any) -> None:
    """All at once takes units that stand in for each other; a swap never leaves more loss, and here less."""
    twins = np.concatenate([sample.s, sample.s[:, : 4 * sample.span]], 1)
    w = np.concatenate([sample.w, sample.w[:, : 4 * sample.span]], 1)
    wide = type(sample)(twins, twins, w, np.ones((12, 2)), sample.span, sample.keep, sample.clusters)
    h = mean_damped(wide)
    losses = []
    for rounds in (0, 20):
        kept = Osscar(step=8, rounds=rounds)(wide.problem(), 4).reduction.kept.tolist()
        losses.append(loss(w, h, sample.span, kept))
    assert losses[1] <= losses[0] + 1e-9
    assert sample.span > 1 or losses[1] < 0.99 * losses[0]


def test_leverage(sample: Any) -> None:
    score = np.diag(sample.gram @ np.linalg.inv(mean_damped(sample))).reshape(-1, sample.span).sum(1)
    assert Leverage()(sample.problem(), 3).order.tolist() == np.argsort(score).tolist()


@pytest.mark.parametrize("affine", [False, True])
def test_schur_conditional(sample: Any, affine: bool) -> None:
    centre = sample.s - sample.s.mean(0) * affine
    gram = centre.T @ centre
    q, span = np.linalg.inv(gram + 1e-3 * np.diag(np.diag(gram))), sample.span
    score = [np.trace(np.linalg.inv(q[np.ix_(s, s)])) for s in (strip([unit], span) for unit in range(sample.units))]
    selection = Schur("conditional")(sample.problem(owns_bias=affine), 3)
    assert selection.order.tolist() == np.argsort(score).tolist()


def test_schur_pivoted(sample: Any) -> None:
    """Pick the unit of largest conditional second moment given those picked."""
    g, span, picked = sample.gram, sample.span, []
    for _ in range(4):
        score = {}
        for unit in set(range(sample.units)) - set(picked):
            s, p = strip([unit], span), strip(picked, span)
            rest = g[np.ix_(s, s)] - g[np.ix_(s, p)] @ np.linalg.solve(g[np.ix_(p, p)], g[np.ix_(p, s)])
            score[unit] = np.trace(rest)
        picked.append(max(score, key=lambda unit: score[unit]))
    assert Schur()(sample.problem(), 4).reduction.kept.tolist() == sorted(picked)


def test_published_elimination_is_not_centred(sample: Any) -> None:
    bare, owning = sample.problem(False), sample.problem(True)
    for selector in (Ziplm(), Slimgpt(), Osscar()):
        orders = [selector(problem, 2).order.tolist() for problem in (bare, owning)]
        assert isinstance(bare, GroupProblem) and orders[0] == orders[1]
