"""Clusters of points that are given by their inner products: k-means and Ward, deterministic for a generator.

Working on the Gram of the points instead of the points makes a round of k-means cost ``O(H²)`` whatever the points'
dimension, and only the Gram is in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 20
"""Most rounds of k-means."""


def kmeans(gram: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Lloyd's k-means from a greedy k-means++ start (Arthur & Vassilvitskii 2007); int64 ``[H]``, see :func:`numbered`.

    Args:
        gram: inner products of the points ``[H, H]``, float64.
        count: number of clusters, 1 to ``H``; none stays empty.
        generator: of the start, on the CPU.
    """
    labels = _distances_to(gram, _start(gram, count, generator)).argmin(1)
    for _ in range(ROUNDS):
        distances = _to_centroids(gram, _filled(labels, gram, count), count)
        found = distances.argmin(1)
        if torch.equal(found, labels):
            break
        labels = found
    return numbered(_filled(labels, gram, count))


def ward(gram: Tensor, count: int) -> Tensor:
    """Agglomerative clustering by Ward's criterion, the least rise of the sum of squares per merge; labels as
    :func:`kmeans`.

    Nearest-neighbour chains with the update of Lance and Williams (Murtagh & Contreras 2012): ``O(H²)`` in all.
    """
    size = len(gram)
    cost = _distances_to(gram, torch.arange(size, device=gram.device)) / 2
    cost.fill_diagonal_(torch.inf)
    weights = torch.ones_like(gram.diagonal())
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < size - 1:
        if not chain:
            chain.append(int(torch.nonzero(weights)[0]))
        here = chain[-1]
        there = int(cost[here].argmin())
        if len(chain) > 1 and cost[here, chain[-2]] <= cost[here, there]:
            there = chain[-2]
        if len(chain) < 2 or there != chain[-2]:
            chain.append(there)
            continue
        del chain[-2:]
        merges.append((float(cost[here, there]), here, there))
        _merge_(cost, weights, here, there)
    merges.sort(key=lambda merge: merge[0])
    return numbered(_connected(size, [pair for _, *pair in merges[: size - count]]).to(gram.device))


def numbered(labels: Tensor) -> Tensor:
    """``labels`` renamed 0, 1, … in order of first appearance; int64 on the CPU."""
    names: dict[int, int] = {}
    return torch.tensor([names.setdefault(label, len(names)) for label in labels.tolist()], dtype=torch.int64)


def _distances_to(gram: Tensor, points: Tensor) -> Tensor:
    """Squared distances ``[H, k]`` of all points to ``points``."""
    diagonal = gram.diagonal()
    return (diagonal[points, None] + diagonal - 2 * gram[points]).clamp_(min=0).T


def _to_centroids(gram: Tensor, labels: Tensor, count: int) -> Tensor:
    """Squared distances ``[H, count]`` of all points to the clusters' means."""
    sizes = torch.bincount(labels, minlength=count).to(gram)
    sums = gram.new_zeros(len(gram), count).index_add_(1, labels, gram)
    within = gram.new_zeros(count).index_add_(0, labels, sums.gather(1, labels[:, None])[:, 0])
    return (gram.diagonal()[:, None] + within / sizes.square() - 2 * sums / sizes).clamp_(min=0)


def _start(gram: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` distinct points: of a few drawn by their squared distance to those chosen before, the one that leaves
    the least sum of distances."""
    chosen = torch.randint(len(gram), (1,), generator=generator).to(gram.device)
    free = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    nearest = _distances_to(gram, chosen)[:, 0]
    trials = 2 + int(math.log(count))
    while len(chosen) < count:
        free[chosen[-1]] = False
        total = torch.where(free, nearest, 0.0).cumsum(0)
        draws = torch.rand(trials, generator=generator, dtype=torch.float64).to(total) * total[-1]
        drawn = torch.searchsorted(total, draws, right=True).clamp(max=len(gram) - 1)
        drawn = drawn[free[drawn]]
        if not len(drawn):  # all points left are copies of chosen ones
            drawn = torch.nonzero(free)[0]
        left = torch.minimum(nearest[:, None], _distances_to(gram, drawn))
        best = left.sum(0).argmin()
        nearest, chosen = left[:, best], torch.cat([chosen, drawn[best, None]])
    return chosen


def _filled(labels: Tensor, gram: Tensor, count: int) -> Tensor:
    """``labels`` with a point moved to each empty cluster: of clusters of several, the farthest from its centroid."""
    sizes = torch.bincount(labels, minlength=count)
    if bool((sizes > 0).all()):
        return labels
    labels = labels.clone()
    own = _to_centroids(gram, labels, count).gather(1, labels[:, None])[:, 0]
    for cluster in torch.nonzero(sizes == 0).flatten().tolist():
        point = int(torch.where(sizes[labels] > 1, own, -1.0).argmax())
        sizes[labels[point]] -= 1
        sizes[cluster] = 1
        labels[point] = cluster
    return labels


def _merge_(cost: Tensor, weights: Tensor, here: int, there: int) -> None:
    """Put the cluster ``there`` into ``here``."""
    first, second, price = float(weights[here]), float(weights[there]), float(cost[here, there])
    row = (weights + first) * cost[here] + (weights + second) * cost[there] - weights * price
    row = row / (weights + first + second)
    row[[here, there]] = torch.inf
    row[weights == 0] = torch.inf
    cost[here], cost[:, here] = row, row
    cost[there], cost[:, there] = torch.inf, torch.inf
    weights[here], weights[there] = first + second, 0.0


def _connected(size: int, edges: list[list[int]]) -> Tensor:
    """A label per point that is equal for connected points; int64."""
    parent = list(range(size))

    def root(point: int) -> int:
        """The representative of a point's set; paths are halved on the way."""
        while parent[point] != point:
            parent[point] = parent[parent[point]]
            point = parent[point]
        return point

    for first, second in edges:
        parent[root(first)] = root(second)
    return torch.tensor([root(point) for point in range(size)], dtype=torch.int64)
