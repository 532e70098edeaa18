"""NumPy transcriptions of published readouts against ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.core.elimination import eliminate


def close(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("alpha", [1e-5, 1e-3, 1e-1])
def test_grail_pruning(sample: Any, alpha: float) -> None:
    """``B = G_{:,P} (G_PP + λI)⁻¹``, ``λ = α mean diag G_PP``, ``W' = W B``: no bias, nothing anchored."""
    kept = sample.columns
    g = sample.gram[np.ix_(kept, kept)]
    b = np.linalg.solve(g + alpha * np.diag(g).mean() * np.eye(len(kept)), sample.gram[kept]).T
    readout = Grail(alpha)(sample.problem(owns_bias=True), sample.reduction).readout
    close(readout.weight, sample.w @ b)
    assert readout.bias is None


@pytest.mark.parametrize("alpha", [1e-5, 1e-3, 1e-1])
def test_grail_folding(sample: Any, alpha: float) -> None:
    """``B = G Rᵀ (R G Rᵀ + λI)⁻¹`` with the averaging ``R``."""
    r, _ = sample.averaging
    g = r @ sample.gram @ r.T
    b = sample.gram @ r.T @ np.linalg.inv(g + alpha * np.diag(g).mean() * np.eye(len(g)))
    close(Grail(alpha)(sample.problem(), sample.folding).readout.weight, sample.w @ b)


@pytest.mark.parametrize("alpha", [1e-4, 1e-1])
def test_fold_anchor(sample: Any, alpha: float) -> None:
    """``B = (G Rᵀ + λMᵀ)(R G Rᵀ + λI)⁻¹``: the ridge pulls towards plain folding."""
    r, m = sample.averaging
    g = r @ sample.gram @ r.T
    ridge = alpha * np.diag(g).mean()
    b = (sample.gram @ r.T + ridge * m.T) @ np.linalg.inv(g + ridge * np.eye(len(g)))
    readout = sample.equations(sample.folding).fit(alpha, "mean", "naive", False).at(0.0)
    close(readout.weight, sample.w @ b)
    close(sample.equations(sample.folding).plain.weight, sample.w @ m.T)


@pytest.mark.parametrize("damping", [1e-4, 1e-1])
def test_optimal_brain_surgeon_is_ridge_towards_plain_pruning(sample: Any, damping: float) -> None:
    """``W_P + W_D M_DP M_PP⁻¹ = W_P - W_D [(M⁻¹)_DD]⁻¹ (M⁻¹)_DP`` for the damped ``M``."""
    kept, gone = sample.columns, sample.others
    m = sample.gram + damping * np.diag(np.diag(sample.gram))
    ridge = sample.w[:, kept] + sample.w[:, gone] @ m[np.ix_(gone, kept)] @ np.linalg.inv(m[np.ix_(kept, kept)])
    q = np.linalg.inv(m)
    surgeon = sample.w[:, kept] - sample.w[:, gone] @ np.linalg.solve(q[np.ix_(gone, gone)], q[np.ix_(gone, kept)])
    np.testing.assert_allclose(ridge, surgeon, rtol=1e-9, atol=1e-9)
    readout = sample.equations(sample.reduction).fit(damping, "diagonal", "naive", False).at(0.0)
    close(readout.weight, surgeon)


def test_greedy_updates_end_in_the_refitted_weights(sample: Any) -> None:
    """Removing unit after unit with ``V -= V_S Q_SS⁻¹ Q_S,:`` leaves what one ridge solve gives for the same units."""
    damping, span = 1e-3, sample.span
    m = sample.gram + damping * np.diag(np.diag(sample.gram))
    order = eliminate(torch.from_numpy(sample.w), torch.from_numpy(sample.gram), sample.units, 4, damping).order
    v, q = sample.w.copy(), np.linalg.inv(m)
    for unit in order.tolist():
        strip = slice(unit * span, (unit + 1) * span)
        rows = np.linalg.solve(q[strip, strip], q[strip])
        v, q = v - v[:, strip] @ rows, q - q[:, strip] @ rows
    keep = np.setdiff1d(np.arange(sample.units), order.numpy())
    chosen = type(sample)(sample.s, sample.x, sample.w, sample.p, span, keep, sample.clusters)
    readout = chosen.equations(chosen.reduction).fit(damping, "diagonal", "naive", False).at(0.0)
    close(readout.weight, v[:, chosen.columns])


def test_flap_bias_is_the_limit_of_a_large_ridge(sample: Any) -> None:
    """``b' = b + W_D μ_D`` and untouched columns."""
    mean = sample.s.mean(0)
    readout = sample.equations(sample.reduction).fit(1e13, "diagonal", "naive", True).at(0.0)
    close(readout.weight, sample.w[:, sample.columns])
    close(readout.bias, sample.w[:, sample.others] @ mean[sample.others])


def test_liar_is_affine_least_squares(sample: Any) -> None:
    """``x_D ≈ Q x_P + p`` by least squares; ``W' = W_P + W_D Q``, ``b' = b + W_D p``."""
    kept, gone = sample.columns, sample.others
    design = np.column_stack([sample.s[:, kept], np.ones(len(sample.s))])
    solution = np.linalg.lstsq(design, sample.s[:, gone], rcond=None)[0]
    q, p = solution[:-1].T, solution[-1]
    compensation = GrailPlus(target="self", ridge=1e-12)(sample.problem(owns_bias=True), sample.reduction)
    close(compensation.readout.weight, sample.w[:, kept] + sample.w[:, gone] @ q, 1e-6)
    close(compensation.readout.bias, sample.w[:, gone] @ p, 1e-6)


@pytest.mark.parametrize("affine", [False, True])
def test_dense_hidden_target(sample: Any, affine: bool) -> None:
    """``W' = W (A_{:,P} + λE_Pᵀ)(G_PP + λI)⁻¹`` with ``A = Xᵀ S``; centred, ``b' = b + W (μ_X - B μ_P)``."""
    kept = sample.columns
    centre = sample.s.mean(0) * affine, sample.x.mean(0) * affine
    s, x = sample.s - centre[0], sample.x - centre[1]
    g = s[:, kept].T @ s[:, kept]
    ridge = 1e-2 * np.diag(g).mean()
    b = (x.T @ s[:, kept] + ridge * np.eye(s.shape[1])[:, kept]) @ np.linalg.inv(g + ridge * np.eye(len(kept)))
    drift = (sample.x - sample.s) @ sample.w.T
    readout = sample.equations(sample.reduction, drift).fit(1e-2, "mean", "naive", affine).at(1.0)
    close(readout.weight, sample.w @ b, 1e-5)
    if affine:
        close(readout.bias, sample.w @ (centre[1] - b @ centre[0][kept]), 1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("affine", [False, True])
def test_residual_target(sample: Any, affine: bool, tau: float) -> None:
    """``W' = (Y*ᵀ S_P + λW_P)(G_PP + λI)⁻¹``, ``Y* = S Wᵀ + τ (u - v)``."""
    draw, kept = np.random.default_rng(5), sample.columns
    drift = draw.integers(-8, 9, (len(sample.s), len(sample.w))) / 8 + sample.s[:, :1] / 4
    wanted = sample.s @ sample.w.T + tau * drift
    mean, level = sample.s[:, kept].mean(0) * affine, wanted.mean(0) * affine
    z, y = sample.s[:, kept] - mean, wanted - level
    g = z.T @ z
    ridge = 1e-3 * np.diag(g)
    weight = (y.T @ z + sample.w[:, kept] * ridge) @ np.linalg.inv(g + np.diag(ridge))
    readout = sample.equations(sample.reduction, drift).fit(1e-3, "diagonal", "naive", affine).at(tau)
    close(readout.weight, weight)
    if affine:
        close(readout.bias, level - weight @ mean)


def test_what_the_constant_regressor_gains(sample: Any) -> None:
    """Affine over uncentred: ``N ‖W_D (μ_D - G_DP G_PP⁻¹ μ_P)‖² / (1 - μ_Pᵀ (G_PP/N)⁻¹ μ_P)``."""
    kept, gone, n = sample.columns, sample.others, len(sample.s)
    mean, g = sample.s.mean(0), sample.gram / n
    inverse = np.linalg.inv(g[np.ix_(kept, kept)])
    rest = sample.w[:, gone] @ (mean[gone] - g[np.ix_(gone, kept)] @ inverse @ mean[kept])
    gain = n * (rest @ rest) / (1 - mean[kept] @ inverse @ mean[kept])
    equations = sample.equations(sample.reduction)
    losses = [equations.loss(equations.fit(1e-13, "diagonal", "naive", affine).at(0.0)) for affine in (False, True)]
    assert losses[0] - losses[1] == pytest.approx(gain, rel=1e-5, abs=1e-6 * equations.energy)


def test_an_isotropic_gram_gives_plain_pruning_and_plain_folding(sample: Any) -> None:
    """With ``G = c I`` nothing can be made up for: ``B = E_Pᵀ``, and ``B = Mᵀ`` for averaging."""
    width = sample.s.shape[1]
    rows = np.eye(width) * 2
    flat = type(sample)(rows, rows, sample.w, sample.p, sample.span, sample.keep, sample.clusters)
    assert flat.gram[0, 0] == 4
    close(Grail(0.0)(flat.problem(), flat.reduction).readout.weight, sample.w[:, flat.columns])
    close(Grail(0.0)(flat.problem(), flat.folding).readout.weight, sample.w @ flat.averaging[1].T)
