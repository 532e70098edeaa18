"""FLAP's scores against a NumPy transcription of the authors' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optimum_grail.core.fluctuation import fluctuation
from optimum_grail.selectors.flap import Flap


def flap_scores(sample: Any, metric: str) -> Any:
    """``standarlization(metric)`` per layer; attention squares the metric and averages a head's features."""
    values = {
        "ifv": sample.s.var(0),
        "wifv": sample.s.var(0) * (sample.w**2).sum(0),
        "wifn": (np.abs(sample.w) * np.sqrt((sample.s**2).mean(0))[None]).mean(0),
    }[metric]
    if sample.span > 1:
        values = values**2
    values = (values - values.mean()) / values.std(ddof=1)
    return values.reshape(-1, sample.span).mean(1)


@pytest.mark.parametrize("metric", ["wifv", "wifn", "ifv"])
def test_flap(sample: Any, metric: Any) -> None:
    expected = flap_scores(sample, metric)
    problem = sample.problem()
    np.testing.assert_allclose(fluctuation(problem, metric), expected, rtol=1e-9, atol=1e-12)
    for keep in (1, 4, sample.units):
        kept = np.sort(np.argsort(-expected)[:keep])
        assert Flap(metric)(problem, keep).reduction.kept.tolist() == kept.tolist()


def test_a_constant_feature_does_not_fluctuate(sample: Any) -> None:
    sample.s[:, : sample.span] = 3.0
    assert int(fluctuation(sample.problem(), "ifv").argmin()) == 0
    sample.s[:] = 3.0
    assert not fluctuation(sample.problem(), "ifv").any()
