"""Evaluate a saved model: load the class that wrote it, read the data, measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from optimum_grail.checkpoints.loading import Loading, load_config, model_class
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.rows import Rows
from optimum_grail.errors import ConfigError, DataError, StatisticsError
from optimum_grail.evaluation.corpus import relation
from optimum_grail.evaluation.metrics import METRICS, Measured, Metric, Readers
from optimum_grail.evaluation.sets import columns_of, named_sets, reading_of
from optimum_grail.report.progress import Progress
from optimum_grail.report.report import REPORT_FILE, Report

if TYPE_CHECKING:
    from optimum_grail.data.foreign import Config, DataSource, EvaluationSets


def evaluate_path(
    model_path: str | Path,
    dataset: EvaluationSets,
    metric: str,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    config_name: str | None = None,
    split: str | None = None,
    seqlen: int | None = None,
    num_samples: int | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    perturb: str | None = None,
    reference: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model of a folder or of the Hub; everything that can be wrong is checked before weights are read.

    Args:
        model_path: dense or compressed checkpoint.
        dataset: any form that calibration data takes, or several by name
            (:func:`optimum_grail.evaluation.sets.named_sets`); the split is ``test``, else ``validation``, else
            ``train``. A word may tell how it is read: ``"NAME:split=validation,text_column=body"``.
        metric: ``perplexity``, ``accuracy``, ``spearman`` or ``retrieval``.
        text_column: see the metric, as for all columns and sizes; None leaves the metric's default.
        text_pair_column: second sentence.
        image_column: images.
        label_column: label or score.
        config_name: configuration of a Hub dataset.
        split: instead of the default.
        seqlen: window or truncation.
        num_samples: first rows or windows only.
        max_tokens: first tokens only (perplexity).
        batch_size: rows per forward pass.
        perturb: measure on damaged inputs: ``typos``, ``noise``, ``blur`` or ``jpeg``, see
            :mod:`optimum_grail.evaluation.perturbations`.
        reference: the dense model, a folder or a Hub id: also tell how far the model answers as this one does. Of
            causal language models both are in memory then.
        dtype: ``auto`` is the checkpoint's, on CPU never less than float32.
        device: a GPU if there is one by default.
        trust_remote_code: let transformers run code of the repository.
        allow_pickle: read weights from ``pytorch_model.bin`` where there are no safetensors.
        progress: told how far it is; silent by default.

    Returns:
        what the metric gives, and ``metric``, ``model``, ``dataset``; for a compressed checkpoint with a report
        ``corpus``; with a reference its result and the agreement, see :mod:`optimum_grail.evaluation.agreement`. Of
        several sets ``metric``, ``model``, and one such result per set in the list ``sets``.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: an option that the metric does not have, a wrong value, or a reference of another size.
        CheckpointError: the model is missing, out of reach or corrupt.
        ArchitectureError: its class is unknown.
        DataError: the data is missing or unusable.
        StatisticsError: the model's outputs are not numbers.
    """
    asked = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "image_column": image_column,
        "label_column": label_column,
        "seqlen": seqlen,
        "num_samples": num_samples,
        "max_tokens": max_tokens,
        "batch_size": batch_size,
        "perturb": perturb,
    }
    headline = make_metric(metric, asked).headline
    config = load_config(model_path, trust_remote_code)
    kind = model_class(config, trust_remote_code)
    given = named_sets(dataset) or (("", dataset),)
    sets = [_Set.read(name, data, metric, asked, config_name, split) for name, data in given]
    readers = Readers(kind, config, *load_processors(model_path, trust_remote_code))
    for item in sets:
        item.metric.check(readers, item.rows)
    if reference is not None:
        _check_reference(sets[0].metric, config, reference, trust_remote_code)
    loading = Loading(dtype, device, trust_remote_code, allow_pickle)
    dense = [] if reference is None else _measured(reference, sets, readers, loading, progress)
    found = _measured(model_path, sets, readers, loading, progress)
    results = [item.told(model_path, metric, outcome) for item, outcome in zip(sets, found, strict=True)]
    for result, ours, theirs in zip(results, found, dense, strict=False):  # none without a reference
        result |= {
            "reference": str(reference),
            f"reference_{headline}": theirs.result[headline],
            **_agreement(ours, theirs),
        }
    return results[0] if not sets[0].name else {"metric": metric, "model": str(model_path), "sets": results}


def _agreement(ours: Measured, theirs: Measured) -> dict[str, float]:
    if ours.answers is None or theirs.answers is None:
        raise StatisticsError("The models have no head whose answers could be compared. Leave the reference out.")
    return ours.answers.agreement(theirs.answers)


@dataclass(frozen=True)
class _Set:
    """One evaluation set, and the metric with the columns that it names; ``name`` is empty for the only one."""

    name: str
    metric: Metric
    rows: Rows

    @classmethod
    def read(
        cls,
        name: str,
        data: DataSource,
        metric: str,
        asked: Mapping[str, Any],
        config_name: str | None,
        split: str | None,
    ) -> _Set:
        """Its own options win over those that were asked for all."""
        source, reading = reading_of(data)
        chosen = make_metric(metric, {**asked, **columns_of(reading)})
        return cls(
            name,
            chosen,
            chosen.read(source, config_name=reading.config_name or config_name, split=reading.split or split),
        )

    def told(self, model_path: str | Path, metric: str, found: Measured) -> dict[str, Any]:
        """The result as a dictionary.

        Raises:
            StatisticsError: it is not a number.
        """
        value = found.result[self.metric.headline]
        if isinstance(value, float) and value != value:
            raise StatisticsError(
                f"The {self.metric.headline} of {str(model_path)!r} is not a number. Check its weights for NaN."
            )
        sources = _calibrated_on(model_path)
        corpus = {"corpus": relation(sources, self.rows.source)} if sources else {}
        named = {"metric": metric, "model": str(model_path), "dataset": self.name or self.rows.source}
        return {**named, **corpus, **found.result}


def _measured(
    path: str | Path, sets: Sequence[_Set], readers: Readers, loading: Loading, progress: Progress | None
) -> list[Measured]:
    """What the metric finds out about one model on every set."""
    model = loading.load(path)
    if loading.dtype == "auto" and model.device.type == "cpu" and not getattr(model, "is_quantized", False):
        model.float()
    return [item.metric.measure(model, readers, item.rows, progress) for item in sets]


def _calibrated_on(folder: str | Path) -> list[str]:
    """The sources that a compressed checkpoint was calibrated on; none for other models, or without a report."""
    if not (Path(folder) / REPORT_FILE).is_file():
        return []
    data = Report.load(folder).calibration
    return [] if data is None else [part.name for part in data.sources] or [data.source]


def _check_reference(metric: Metric, config: Config, path: str | Path, trust_remote_code: bool) -> None:
    """Refuse a reference whose answers cannot be compared.

    Raises:
        ConfigError: its vocabulary, classes or embeddings are of another size.
    """
    other = load_config(path, trust_remote_code)
    name = metric.comparable
    ours, theirs = (
        getattr(item.get_text_config() if name == "vocab_size" else item, name, None) for item in (config, other)
    )
    if ours != theirs:
        raise ConfigError(
            f"The model has {name}={ours}, the reference {str(path)!r} has {name}={theirs}; their answers cannot be "
            "compared. Name the dense model that the model was made from."
        )


def make_metric(name: str, options: dict[str, Any]) -> Metric:
    """Build the metric ``name`` with the options that are not None.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: an option that the metric does not have, or a wrong value.
    """
    kind: Any = METRICS.get(name)
    accepted = [field.name for field in dataclasses.fields(kind)]
    given = {key: value for key, value in options.items() if value is not None}
    unknown = [key for key in given if key not in accepted]
    if unknown:
        raise ConfigError(f"The metric {name!r} has no option {unknown[0]!r}. It takes {', '.join(accepted)}.")
    return kind(**given)


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
