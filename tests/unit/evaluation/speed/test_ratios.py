"""Paired ratios, their intervals and what of an ideal is realised."""

from __future__ import annotations

import numpy as np
import pytest

from optimum_grail.evaluation.speed.ratios import Ratio, realised


@pytest.mark.parametrize(
    ("pairs", "rank", "confidence"),
    [(1, 0, 0.0), (2, 0, 0.5), (5, 0, 0.9375), (6, 0, 0.96875), (10, 1, 1 - 22 / 1024), (20, 5, 0.9586)],
)
def test_the_interval_is_made_of_order_statistics(pairs, rank, confidence):
    """The ranks of a sign test, as tables have them."""
    seconds = [float(number) for number in range(1, pairs + 1)]
    found = Ratio.of(seconds[::-1], [1.0] * pairs)
    assert (found.low, found.high) == (seconds[rank], seconds[-1 - rank])
    assert found.median == np.median(seconds)
    assert found.confidence == pytest.approx(confidence, abs=1e-4)


def test_pairs_cancel_what_hits_both():
    """A machine that becomes three times as slow hits both models of a round alike."""
    drift = np.linspace(1, 3, 10)
    found = Ratio.of(list(2.0 * drift), list(drift))
    assert found.median == found.low == found.high == pytest.approx(2.0)
    assert not found.within_noise


def test_an_interval_holds_the_median_as_often_as_it_says():
    draw = np.random.default_rng(0)
    held = [Ratio.of(*draw.lognormal(0, 0.3, (2, 10)).tolist()).within_noise for _ in range(2000)]
    assert 0.97 < np.mean(held) < 0.99  # two of ten left out: 97.9 %


def test_realised_is_a_share_of_the_saving():
    assert realised(2.0, 2.0) == pytest.approx(1.0)
    assert realised(1.0, 2.0) == 0.0
    assert realised(4 / 3, 2.0) == pytest.approx(0.5)  # a quarter of the time for half of the operations
    assert realised(0.8, 2.0) == pytest.approx(-0.5)
    assert realised(1.2, 1.0) is None
