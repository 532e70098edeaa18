"""What each source gives to the calibration data: a mixture's samples shared out by weight."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimum_grail.config.mixture import Mixture, mixture_of
from optimum_grail.config.source import SELF, Reading, Source, Writing, is_general
from optimum_grail.data.genres import genres_of
from optimum_grail.data.request import DataRequest
from optimum_grail.data.rows import check_path
from optimum_grail.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Part:
    """What one source gives.

    Args:
        dataset: what :func:`optimum_grail.data.rows.read_rows` reads, ``"self"``, or ``"general/GENRE"``.
        request: how many samples, and how they are read.
        name: what messages and reports call the source; ``""`` where it is the only one.
        weight: its weight in the mixture.
        writing: how the model writes these samples, where it does.
    """

    dataset: Any
    request: DataRequest
    name: str = ""
    weight: float = 1.0
    writing: Writing | None = None

    @property
    def own(self) -> bool:
        """Whether the model writes these samples itself."""
        return isinstance(self.dataset, str) and self.dataset == SELF

    @property
    def genre(self) -> bool:
        """Whether the samples are of the general corpus."""
        return bool(self.name) and is_general(self.name)


def parts_of(request: DataRequest) -> tuple[Part, ...]:
    """One part per source, in the order of ``Batch.source``.

    Raises:
        DataError: fewer samples than sources.
        ConfigError, UnknownNameError: as :func:`expanded`.
    """
    mixture = request.mixture
    if mixture is None:
        return (Part(SELF if request.own else request.dataset, request),)
    sources = expanded(mixture)
    counts = shares([source.weight for source in sources], request.num_samples)
    if min(counts) == 0:
        raise DataError(
            f"num_samples={request.num_samples} is fewer than the {len(counts)} sources in {mixture.spelled()}, and "
            f"every source gives at least one sample. Raise --num-samples to {len(counts)}, or name fewer sources."
        )
    return tuple(_part(request, source, count) for source, count in zip(sources, counts, strict=True))


def written_samples(request: DataRequest) -> int:
    """How many samples the model writes itself."""
    return sum(part.request.num_samples for part in parts_of(request) if part.own)


def expanded(mixture: Mixture) -> tuple[Source, ...]:
    """The sources of ``mixture``, the genres of the general corpus in its place.

    Raises:
        ConfigError: a genre that is there beside the whole corpus.
        UnknownNameError: no such genre.
    """
    found: list[Source] = []
    for source in mixture.sources:
        genres = genres_of(source.name) if is_general(source.name) else {source.name: 1.0}
        found += [dataclasses.replace(source, name=name, weight=source.weight * part) for name, part in genres.items()]
    twice = [label for label, times in Counter(source.label for source in found).items() if times > 1]
    if twice:
        raise ConfigError(f"The source {twice[0]!r} is a part of 'general', which is there too. Name one of them.")
    return tuple(found)


def _part(request: DataRequest, source: Source, count: int) -> Part:
    fields: dict[str, Any] = {"num_samples": count}
    if isinstance(source.options, Reading):
        fields |= source.chosen
    writing = source.options if isinstance(source.options, Writing) else None
    return Part(source.name, dataclasses.replace(request, **fields), source.label, source.weight, writing)


def shares(weights: Sequence[float], total: int) -> list[int]:
    """``total`` divided by weight into whole numbers: largest remainders, the first of equal ones; at least 1 each
    where ``total`` suffices for that.

    Args:
        weights: positive.
        total: at least 0.
    """
    least = 1 if total >= len(weights) else 0
    exact = [weight / math.fsum(weights) * total for weight in weights]
    counts = [max(least, math.floor(value)) for value in exact]
    while sum(counts) < total:
        counts[max(range(len(counts)), key=lambda index: exact[index] - counts[index])] += 1
    while sum(counts) > total:  # what the small ones were raised to is taken from those that have most above their due
        counts[min((i for i in range(len(counts)) if counts[i] > least), key=lambda i: exact[i] - counts[i])] -= 1
    return counts


def check_sources(dataset: Any) -> None:
    """Refuse a source that reads like a local path and is none, before a model is loaded; live data passes.

    Raises:
        DataError: names the path.
        ConfigError: a wrong mixture.
        UnknownNameError: no such genre.
    """
    mixture = mixture_of(dataset)
    if mixture is None:
        names = [dataset] if isinstance(dataset, str) else []
    else:
        names = [source.name for source in expanded(mixture) if isinstance(source.options, Reading)]
    for name in names:
        check_path(name)
