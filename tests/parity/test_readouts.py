"""NumPy transcriptions of the readouts that other papers fit: bias, interpolation, one scale per unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimum_grail.compensators.bias import Bias
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.liar import Liar
from optimum_grail.compensators.mask_scale import LARGEST, MaskScale

Array = NDArray[np.float64]


def close(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=tolerance, atol=tolerance)


def test_flap_bias(sample: Any) -> None:
    """``b' = b + W_D μ_D``; where there is no bias, or none is wanted, plain pruning."""
    gone = sample.others
    readout = Bias()(sample.problem(owns_bias=True), sample.reduction).readout
    close(readout.weight, sample.w[:, sample.columns])
    close(readout.bias, sample.w[:, gone] @ sample.s.mean(0)[gone])
    for compensator, owns in ((Bias(), False), (Bias(affine=True), False), (Bias(affine=False), True)):
        readout = compensator(sample.problem(owns_bias=owns), sample.reduction).readout
        assert readout.bias is None
        close(readout.weight, sample.w[:, sample.columns])


def test_bias_of_a_folding_keeps_the_mean(sample: Any) -> None:
    readout = Bias()(sample.problem(owns_bias=True), sample.folding).readout
    average, member = sample.averaging
    close(readout.weight, sample.w @ member.T)
    close(readout.bias, (sample.w - sample.w @ member.T @ average) @ sample.s.mean(0))


def test_liar(sample: Any) -> None:
    """``x_D ≈ Q x_P + p`` by least squares; ``W' = W_P + W_D Q``, ``b' = b + W_D p``."""
    kept, gone = sample.columns, sample.others
    design = np.column_stack([sample.s[:, kept], np.ones(len(sample.s))])
    solution = np.linalg.lstsq(design, sample.s[:, gone], rcond=None)[0]
    readout = Liar(ridge=1e-13)(sample.problem(owns_bias=True), sample.reduction).readout
    close(readout.weight, sample.w[:, kept] + sample.w[:, gone] @ solution[:-1].T, 1e-6)
    close(readout.bias, sample.w[:, gone] @ solution[-1], 1e-6)


def test_liar_damped(sample: Any) -> None:
    """``Q = C_DP (C_PP + λ diag C_PP)⁻¹``: the damping weakens the interpolation, not the columns that stay."""
    kept, gone = sample.columns, sample.others
    c = (sample.s - sample.s.mean(0)).T @ (sample.s - sample.s.mean(0))
    part = c[np.ix_(kept, kept)]
    q = c[np.ix_(gone, kept)] @ np.linalg.inv(part + 0.1 * np.diag(np.diag(part)))
    readout = Liar(ridge=0.1)(sample.problem(owns_bias=True), sample.reduction).readout
    close(readout.weight, sample.w[:, kept] + sample.w[:, gone] @ q)
    close(readout.bias, sample.w[:, gone] @ (sample.s.mean(0)[gone] - q @ sample.s.mean(0)[kept]))


@pytest.mark.parametrize("options", [{"affine": False}, {}])
def test_liar_without_a_bias(sample: Any, options: dict[str, Any]) -> None:
    kept, gone = sample.columns, sample.others
    solution = np.linalg.lstsq(sample.s[:, kept], sample.s[:, gone], rcond=None)[0]
    readout = Liar(ridge=1e-13, **options)(sample.problem(owns_bias=bool(options)), sample.reduction).readout
    close(readout.weight, sample.w[:, kept] + sample.w[:, gone] @ solution.T, 1e-6)
    assert readout.bias is None


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 1.0])
def test_grail_anchored_at_plain_pruning_is_the_surgeons_update(sample: Any, alpha: float) -> None:
    """``W_P + W_D G_DP (G_PP + λI)⁻¹``, ``λ = α mean diag G_PP``, the same as ``W_P - W_D [(M⁻¹)_DD]⁻¹ (M⁻¹)_DP``."""
    kept, gone, g = sample.columns, sample.others, sample.gram
    ridge = alpha * np.diag(g)[kept].mean()
    m = g + ridge * np.eye(len(g))
    expected = sample.w[:, kept] + sample.w[:, gone] @ g[np.ix_(gone, kept)] @ np.linalg.inv(m[np.ix_(kept, kept)])
    q = np.linalg.inv(m)
    surgeon = sample.w[:, kept] - sample.w[:, gone] @ np.linalg.solve(q[np.ix_(gone, gone)], q[np.ix_(gone, kept)])
    readout = Grail(alpha, "naive")(sample.problem(owns_bias=True), sample.reduction).readout
    close(readout.weight, expected)
    close(readout.weight, surgeon)
    assert readout.bias is None


@pytest.mark.parametrize("alpha", [1e-4, 1e-1])
def test_grail_anchored_at_plain_folding(sample: Any, alpha: float) -> None:
    """``B = (G Rᵀ + λMᵀ)(R G Rᵀ + λI)⁻¹``."""
    r, m = sample.averaging
    g = r @ sample.gram @ r.T
    ridge = alpha * np.diag(g).mean()
    b = (sample.gram @ r.T + ridge * m.T) @ np.linalg.inv(g + ridge * np.eye(len(g)))
    close(Grail(alpha, "naive")(sample.problem(), sample.folding).readout.weight, sample.w @ b)


def kwon(sample: Any, drift: Array, damp: float) -> Array:
    """The authors' regression row by row: units' outputs (and a constant for heads) against the teacher's output."""
    units, span = np.sort(sample.keep), sample.span
    outputs = [sample.s[:, u * span : (u + 1) * span] @ sample.w[:, u * span : (u + 1) * span].T for u in units]
    a = np.stack([part.ravel() for part in outputs] + ([np.ones(drift.size)] if span > 1 else []), 1)
    target = (sample.s @ sample.w.T + drift).ravel()
    n, r = a.T @ a, a.T @ target
    r = r - n[:, : len(units)].sum(1)
    change = np.linalg.solve(n @ n + damp**2 * np.eye(len(n)), n @ r)
    return 1 + change[: len(units)]


@pytest.mark.parametrize("damp", [1.0, 300.0])
def test_mask_scale(sample: Any, damp: float) -> None:
    draw = np.random.default_rng(5)
    drift = draw.integers(-8, 9, (len(sample.s), len(sample.w))) / 8 + sample.s[:, :1] / 4
    found = MaskScale(damp)(sample.problem(drift=drift), sample.reduction)
    scale = kwon(sample, drift, damp)
    assert found.diagnostics["chosen"] == "fit" and np.abs(scale - 1).max() > 1e-3
    close(found.readout.weight, sample.w[:, sample.columns] * scale.repeat(sample.span), 1e-6)
    assert found.readout.bias is None


def test_mask_scale_out_of_bounds_is_refused(sample: Any) -> None:
    drift = 30 * sample.s @ sample.w.T
    assert np.abs(kwon(sample, drift, 1.0)).max() > LARGEST
    found = MaskScale()(sample.problem(drift=drift), sample.reduction)
    assert found.diagnostics["chosen"] == "plain"
    close(found.readout.weight, sample.w[:, sample.columns])
