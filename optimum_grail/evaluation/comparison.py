"""The dense and the compressed model on the same evaluation data, in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import CalibrationData, overlap
from optimum_grail.data.rows import Rows
from optimum_grail.errors import DataError
from optimum_grail.evaluation.evaluate import make_metric
from optimum_grail.evaluation.metrics import Metric, Readers
from optimum_grail.evaluation.stopwatch import compare_forward, shape_of
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer

COMMONPLACE = 0.02
"""Common share of two sets of fingerprints that says nothing: unrelated stories begin with the same words too."""


def default_metric(model: nn.Module) -> str:
    """The metric of a model's task, told from its class.

    Raises:
        DataError: the class has no task that a metric measures.
    """
    name = type(model).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "perplexity"
    if "ImageClassification" in name:
        return "accuracy"
    if name.endswith("CLIPModel"):
        return "retrieval"
    if name.endswith("Model"):
        return "spearman"
    raise DataError(
        f"No metric is known for {name}, so --eval-dataset cannot be used with it. Leave it out and measure the saved "
        "checkpoint with `optimum-cli grail evaluate --metric`."
    )


@dataclass(frozen=True)
class Comparison:
    """One metric on one data set, or nothing if no data was given.

    Args:
        name: the metric's name.
        metric: the metric, or ``None``.
        rows: the data, or ``None``.
        readers: what turns the data into inputs of the model, or ``None``.
    """

    name: str = ""
    metric: Metric | None = None
    rows: Rows | None = None
    readers: Readers | None = None

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        dataset: DataSource | None,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        config: GrailConfig,
        limit: int | None = None,
    ) -> Comparison:
        """Read the data and check that it fits the model, before any long work.

        Args:
            model: the dense model.
            dataset: any form that calibration data takes; ``None``: nothing will be measured.
            tokenizer: for text.
            processor: for images.
            config: its ``seqlen`` and columns are the metric's too, where it has them.
            limit: measure on the first so many rows (windows of text) only.

        Raises:
            DataError: the data is missing or does not fit.
        """
        if dataset is None:
            return cls()
        name = default_metric(model)
        fields = {"seqlen": config.seqlen, "text_column": config.text_column, "image_column": config.image_column}
        chosen = {key: value for key, value in fields.items() if key in OPTIONS[name]}
        metric = make_metric(name, chosen | ({} if limit is None else {"num_samples": limit}))
        rows = metric.read(dataset)
        readers = Readers.of(model, tokenizer, processor)
        metric.check(readers, rows)
        return cls(name, metric, rows, readers)

    def warnings(self, data: CalibrationData | None) -> tuple[str, ...]:
        """A warning if calibration and evaluation share rows."""
        if self.metric is None or self.rows is None or self.readers is None or data is None or not data.fingerprints:
            return ()
        marks = self.metric.fingerprints(self.readers, self.rows)
        shared = overlap(data, marks)
        ours, theirs = shared / len(data.fingerprints), shared / max(len(marks), 1)
        if max(ours, theirs) < COMMONPLACE:
            return ()
        return (
            f"Calibration and evaluation data share rows ({ours:.0%} of the one, {theirs:.0%} of the other): the "
            "result flatters the compressed model. Evaluate on other data.",
        )

    def measure(self, model: nn.Module, what: str, progress: Progress) -> dict[str, Any]:
        """The metric's result for ``model``; empty without data.

        Args:
            model: the model.
            what: what to call it.
            progress: told before.
        """
        if self.metric is None or self.rows is None or self.readers is None:
            return {}
        progress.message(f"Measuring the {what} model: {self.name} on {self.rows.source}")
        return self.metric.measure(model, self.readers, self.rows, progress)

    def for_sweep(self, progress: Progress) -> dict[str, Any]:
        """The metric as :class:`optimum_grail.sweep.Sweep` takes it; empty without data."""
        if self.metric is None:
            return {}
        return {
            "measure": lambda model: self.measure(model, "compressed", progress),
            "headline": self.metric.headline,
            "higher_is_better": self.metric.higher_is_better,
        }

    def results(self, dense: Mapping[str, Any], model: nn.Module, progress: Progress) -> tuple[dict[str, Any], ...]:
        """The report's evaluation rows, given the dense result; measures the compressed ``model``."""
        if self.metric is None or self.rows is None:
            return ()
        compressed = self.measure(model, "compressed", progress)
        return (
            {
                "metric": self.metric.headline,
                "dataset": self.rows.source,
                "higher_is_better": self.metric.higher_is_better,
                "dense": dense[self.metric.headline],
                "compressed": compressed[self.metric.headline],
                "protocol": compressed.get("protocol", ""),
            },
        )


@dataclass
class BeforeAndAfter:
    """What a run measures of the dense and then of the compressed model: a metric and the time of a forward pass.

    Args:
        comparison: the metric and its data.
        progress: told before each measurement.
        results: the report's evaluation rows, once both are measured.
        forward: both forward passes, as a report has them.
    """

    comparison: Comparison
    progress: Progress
    results: tuple[dict[str, Any], ...] = ()
    forward: Mapping[str, Any] = field(default_factory=dict)

    def dense(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure what the compressed model is compared with."""
        self._metric = self.comparison.measure(model, "dense", self.progress)
        self._shape = None if data is None else shape_of(model)

    def compressed(self, model: nn.Module, data: CalibrationData | None) -> None:
        """Measure and compare."""
        self.results = self.comparison.results(self._metric, model, self.progress)
        self.forward = compare_forward(self._shape, model, data)


OPTIONS: Mapping[str, tuple[str, ...]] = {
    "perplexity": ("seqlen", "text_column"),
    "accuracy": ("image_column",),
    "retrieval": ("image_column", "text_column"),
    "spearman": (),
}
