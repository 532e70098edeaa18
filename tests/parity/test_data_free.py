"""Folding, COMP's condition and PruneNet's reward against NumPy, scikit-learn and the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans

from optimum_grail.core.clustering import kmeans, ward
from optimum_grail.selectors.comp import Comp
from optimum_grail.selectors.folding import Folding
from optimum_grail.selectors.prunenet import LEAST_DISTANCE, reward, spectrum


def points_of(sample: Any, features: str) -> Any:
    columns = sample.w.reshape(len(sample.w), sample.units, sample.span).transpose(1, 0, 2).reshape(sample.units, -1)
    return {"producer": sample.p, "consumer": columns, "both": np.hstack([sample.p, columns])}[features]


def clusters(labels: Any) -> set[frozenset[int]]:
    return {
        frozenset(np.nonzero(np.asarray(labels) == label)[0].tolist()) for label in set(np.asarray(labels).tolist())
    }


def spread(points: Any, labels: Any) -> float:
    """Sum of squares around the clusters' means."""
    parts = [points[np.asarray(labels) == label] for label in set(np.asarray(labels).tolist())]
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))


@pytest.mark.parametrize("features", ["both", "producer", "consumer"])
@pytest.mark.parametrize("keep", [1, 3, 7])
def test_folding_by_ward(sample: Any, features: Any, keep: int) -> None:
    reduction = Folding("ward", features)(sample.problem(), keep).reduction
    expected = AgglomerativeClustering(keep, linkage="ward").fit_predict(points_of(sample, features))
    assert clusters(reduction.assignment) == clusters(expected)
    sizes = np.bincount(reduction.assignment)
    np.testing.assert_allclose(reduction.weight, 1 / sizes[reduction.assignment])


@pytest.mark.parametrize("seed", range(5))
def test_ward_of_many_points(seed: int) -> None:
    points = np.random.default_rng(seed).standard_normal((60, 5))
    for count in (2, 17, 45):
        expected = AgglomerativeClustering(count).fit_predict(points)
        assert clusters(ward(torch.from_numpy(points @ points.T), count)) == clusters(expected)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_ends_where_lloyd_ends(seed: int) -> None:
    """No point is nearer to another mean, and the spread is about that of another implementation."""
    points = np.random.default_rng(seed).standard_normal((60, 5))
    gram = torch.from_numpy(points @ points.T)
    for count in (2, 10, 45):
        labels = kmeans(gram, count, torch.Generator().manual_seed(seed)).numpy()
        means = np.stack([points[labels == label].mean(0) for label in range(count)])
        assert (((points[:, None] - means) ** 2).sum(2).argmin(1) == labels).all()
        theirs = KMeans(count, n_init=1, random_state=seed).fit(points).inertia_
        assert spread(points, labels) <= 1.25 * theirs


def test_folding_by_kmeans_finds_blobs(sample: Any) -> None:
    centres = 10 * np.eye(7)[:3]
    labels = np.arange(sample.units) % 3
    points = centres[labels] + 0.1 * sample.p
    problem = type(sample)(sample.s, sample.x, sample.w, points, sample.span, sample.keep, sample.clusters).problem()
    assert clusters(Folding(features="producer")(problem, 3).reduction.assignment) == clusters(labels)


@pytest.mark.parametrize("method", ["kmeans", "ward"])
def test_copies_of_one_point_still_fill_every_cluster(method: Any) -> None:
    gram = torch.ones(6, 6, dtype=torch.float64)
    for count in (1, 4, 6):
        labels = ward(gram, count) if method == "ward" else kmeans(gram, count, torch.Generator().manual_seed(0))
        assert sorted(set(labels.tolist())) == list(range(count))


def test_comp(sample: Any) -> None:
    """How much ``‖A⁺‖²_F`` of the damped map ``A = W diag(rms)`` rises when a unit's columns go."""
    a = sample.w * np.sqrt((sample.s**2).mean(0))
    ridge = 1e-2 * np.diag(a @ a.T).mean() * np.eye(len(a))

    def inverse_norm(columns: Any) -> float:
        return float(np.trace(np.linalg.inv(columns @ columns.T + ridge)))

    scores = []
    for unit in range(sample.units):
        rest = np.delete(a, np.s_[unit * sample.span : (unit + 1) * sample.span], 1)
        scores.append(inverse_norm(rest) - inverse_norm(a))
    assert Comp()(sample.problem(), 3).order.tolist() == np.argsort(scores, kind="stable").tolist()


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_prunenet_reward(shape: tuple[int, int]) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    values = np.linalg.svd(rows.numpy(), compute_uv=False)
    np.testing.assert_allclose(spectrum(rows), values[::-1], rtol=1e-9)
    kept = torch.tensor([0, 2, 3, 5, 7])
    part = np.linalg.svd(rows[kept].numpy(), compute_uv=False)
    points = np.concatenate([part, values])
    distance = max(abs((part <= x + 1e-9).mean() - (values <= x + 1e-9).mean()) for x in points)
    assert reward(rows, spectrum(rows), kept) == pytest.approx(1 / distance)
    assert reward(rows, spectrum(rows), torch.arange(shape[0])) == 1 / LEAST_DISTANCE
