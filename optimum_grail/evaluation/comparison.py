"""The dense and the compressed model on the same evaluation data, in the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData, overlap
from optimum_grail.data.content import content_of
from optimum_grail.data.rows import Rows
from optimum_grail.errors import DataError, StatisticsError
from optimum_grail.evaluation.corpus import COMMONPLACE, relation
from optimum_grail.evaluation.evaluate import default_metric, make_metric
from optimum_grail.evaluation.metrics import Measured, Metric, Readers
from optimum_grail.evaluation.sets import columns_of, named_sets, reading_of
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer


TRIED, TRIAL_SECONDS = 4, 1.0
"""Samples that are measured first to know what all of them will take, and how long the second measurement may be."""


@dataclass(frozen=True)
class Comparison:
    """One metric on one data set.

    Args:
        name: the metric's name.
        metric: the metric.
        rows: the data.
        readers: what turns the data into inputs of the model.
        dataset: what reports call the data.
        perturbation: what is done to the inputs; ``None``: nothing.
        content: tells what the data holds, see :func:`optimum_grail.data.content.content_of`.
    """

    name: str
    metric: Metric
    rows: Rows
    readers: Readers
    dataset: str
    perturbation: str | None = None
    content: Callable[[], str] = str

    @property
    def identity(self) -> list[str]:
        """What decides the result for a given model."""
        return [repr(self.metric), self.dataset, self.content()]

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        dataset: DataSource,
        readers: Readers,
        config: GrailConfig,
        *,
        name: str = "",
        limit: int | None = None,
    ) -> Comparison:
        """Read the data and check that it fits the model, before any long work.

        Args:
            model: the dense model.
            dataset: any form that calibration data takes.
            readers: of the model.
            config: its ``seqlen`` and columns are the metric's too, where it has them.
            name: what to call the data; by default what names it.
            limit: measure on the first so many rows (windows of text) only.

        Raises:
            DataError: the data is missing or does not fit.
        """
        kind = default_metric(model)
        source, reading = reading_of(dataset)
        fields = {"seqlen": config.seqlen, "text_column": config.text_column, "image_column": config.image_column}
        chosen = {key: value for key, value in fields.items() if key in OPTIONS[kind]} | columns_of(reading)
        metric = make_metric(kind, chosen | ({} if limit is None else {"num_samples": limit}))
        rows = metric.read(source, config_name=reading.config_name, split=reading.split)
        metric.check(readers, rows)
        content = partial(content_of, {"data": source, "config": reading.config_name, "split": reading.split})
        return cls(kind, metric, rows, readers, name or rows.source, content=content)

    def perturbed(self) -> tuple[Comparison, ...]:
        """The same on damaged inputs, once for everything that can be done to them."""
        return tuple(
            dataclasses.replace(
                self, metric=make_metric(self.name, {**vars(self.metric), "perturb": name}), perturbation=name
            )
            for name in self.metric.perturbations(self.readers)
        )

    @cached_property
    def marks(self) -> frozenset[str]:
        """Fingerprints of the rows."""
        return self.metric.fingerprints(self.readers, self.rows)

    def shares(self, data: CalibrationData) -> tuple[float, float]:
        """How much of the calibration data's fingerprints, and of this data's, the other side has too, 0 to 1."""
        if not data.fingerprints:
            return 0.0, 0.0
        shared = overlap(data, self.marks)
        return shared / len(data.fingerprints), shared / max(len(self.marks), 1)

    def warnings(self, data: CalibrationData | None) -> tuple[str, ...]:
        """A warning if calibration and evaluation share rows."""
        ours, theirs = (0.0, 0.0) if data is None else self.shares(data)
        if max(ours, theirs) < COMMONPLACE:
            return ()
        return (
            f"Calibration and evaluation data share rows ({ours:.0%} of the one, {theirs:.0%} of the other): the "
            "result flatters the compressed model. Evaluate on other data.",
        )

    def corpus(self, data: CalibrationData | None) -> str | None:
        """Whether the data is of the calibration data's corpus, see :func:`optimum_grail.evaluation.corpus.relation`;
        ``None`` where nothing was calibrated."""
        return (
            None
            if data is None
            else relation(
                [part.name for part in data.sources] or [data.source], self.rows.source, max(self.shares(data))
            )
        )

    def measure(self, model: nn.Module, what: str, progress: Progress) -> Measured:
        """What the metric finds out about ``model``.

        Args:
            model: the model.
            what: what to call it.
            progress: told before.
        """
        damage = "" if self.perturbation is None else f", {self.perturbation}"
        progress.message(f"Measuring the {what} model: {self.name}{damage} on {self.dataset}")
        return self.metric.measure(model, self.readers, self.rows, progress)

    def seconds(self, model: nn.Module) -> float:
        """What measuring ``model`` will take: as many samples as a second allows are measured, and the time per sample
        holds on."""
        count = self.metric.count(self.readers, self.rows)
        few = min(TRIED, count)
        self._timed(model, few)  # a first pass does not count
        more = min(count, max(few, int(few * TRIAL_SECONDS / self._timed(model, few))))
        return self._timed(model, more) * count / more

    def _timed(self, model: nn.Module, samples: int) -> float:
        """Seconds of measuring the first ``samples`` samples."""
        metric = dataclasses.replace(cast(Any, self.metric), num_samples=samples)
        start = time.perf_counter()
        with contextlib.suppress(DataError):  # too few to make the metric out of: the next time there are more
            metric.measure(model, self.readers, self.rows, None)
        return time.perf_counter() - start

    def row(self, dense: Measured, compressed: Measured, data: CalibrationData | None) -> dict[str, Any]:
        """The report's row, with how far the answers agree.

        Raises:
            StatisticsError: that cannot be told.
        """
        key = self.metric.headline
        row = {
            "metric": key,
            "dataset": self.dataset,
            "higher_is_better": self.metric.higher_is_better,
            "dense": dense.result[key],
            "compressed": compressed.result[key],
            "protocol": compressed.result.get("protocol", ""),
        }
        source = None if self.dataset == self.rows.source else self.rows.source
        known = {"source": source, "corpus": self.corpus(data), "perturbation": self.perturbation}
        return {**row, **{name: value for name, value in known.items() if value is not None}}


@dataclass(frozen=True)
class Comparisons:
    """One metric on every evaluation set, and on damaged inputs where that was asked for.

    Args:
        items: none if no data was given.
    """

    items: tuple[Comparison, ...] = ()

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        dataset: DataSource | None,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        config: GrailConfig,
        robustness: bool = False,
        limit: int | None = None,
    ) -> Comparisons:
        """Read all data and check that it fits the model, before any long work.

        Args:
            model: the dense model.
            dataset: one data set in any form that calibration data takes, or several by name, as
                :func:`optimum_grail.evaluation.sets.named_sets` reads them; ``None``: nothing will be measured.
            tokenizer: for text.
            processor: for images.
            config: as of :meth:`Comparison.prepare`.
            robustness: also measure on damaged inputs.
            limit: first rows (windows of text) only.

        Raises:
            DataError: the data is missing or does not fit, or ``robustness`` without data or for a metric whose inputs
                are never damaged.
        """
        readers = Readers.of(model, tokenizer, processor)
        sets = named_sets(dataset)
        if robustness and not sets:
            raise DataError("robustness measures on damaged evaluation data. Name some with --eval-dataset.")
        found = [Comparison.prepare(model, data, readers, config, name=name, limit=limit) for name, data in sets]
        if robustness and (plain := [item.name for item in found if not item.metric.perturbations(readers)]):
            raise DataError(
                f"robustness is for classifiers and models of embeddings, and {plain[0]} is not measured on damaged "
                "inputs. Leave --robustness out."
            )
        return cls(tuple(part for item in found for part in (item, *(item.perturbed() if robustness else ()))))

    @property
    def sets(self) -> tuple[Comparison, ...]:
        """Those on the data as it is."""
        return tuple(item for item in self.items if item.perturbation is None)

    def warnings(self, data: CalibrationData | None) -> tuple[str, ...]:
        """A warning for every set that shares rows with the calibration data; with several sets it names the set."""
        sets = self.sets
        named = [(f"{item.dataset}: " if len(sets) > 1 else "", item.warnings(data)) for item in sets]
        return tuple(f"{name}{warning}" for name, found in named for warning in found)

    def seconds(self, model: nn.Module) -> float:
        """What measuring ``model`` on all of them will take, see :meth:`Comparison.seconds`."""
        return sum(item.seconds(model) for item in self.items)

    def measure(self, model: nn.Module, what: str, progress: Progress) -> tuple[Measured, ...]:
        """What the metric finds out about ``model`` on every set; arguments as of :meth:`Comparison.measure`."""
        return tuple(item.measure(model, what, progress) for item in self.items)

    def rows(
        self, dense: Sequence[Measured], compressed: Sequence[Measured], data: CalibrationData | None
    ) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
        """The report's evaluation rows, given both results, and why agreement could not be told, where it could not."""
        rows, notes = [], []
        for item, before, after in zip(self.items, dense, compressed, strict=True):
            row = item.row(before, after, data)
            if before.answers is not None and after.answers is not None:
                try:
                    row["agreement"] = after.answers.agreement(before.answers)
                except StatisticsError as error:
                    notes.append(str(error))
            rows.append(row)
        return tuple(rows), tuple(dict.fromkeys(notes))


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "perplexity": ("seqlen", "text_column"),
    "accuracy": ("image_column",),
    "retrieval": ("image_column", "text_column"),
    "spearman": (),
}
