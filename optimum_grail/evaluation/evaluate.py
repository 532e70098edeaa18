"""Evaluate a saved model: load the class that wrote it, read the data, measure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optimum_grail.checkpoints.loading import load_config, load_model, model_class
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import ConfigError, StatisticsError
from optimum_grail.evaluation.metrics import METRICS, Metric, Readers
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource


def evaluate_path(
    model_path: str | Path,
    dataset: DataSource,
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
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> dict[str, float | int | str]:
    """Measure a model of a folder or of the Hub; everything that can be wrong is checked before weights are read.

    Args:
        model_path: dense or compressed checkpoint.
        dataset: any form that calibration data takes; the split is ``test``, else ``validation``, else ``train``.
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
        dtype: ``auto`` is the checkpoint's, on CPU never less than float32.
        device: a GPU if there is one by default.
        trust_remote_code: let transformers run code of the repository.
        allow_pickle: read weights from ``pytorch_model.bin`` where there are no safetensors.
        progress: told how far it is; silent by default.

    Returns:
        what the metric gives, and ``metric``, ``model``, ``dataset``.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: an option that the metric does not have, or a wrong value.
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
    }
    measure = make_metric(metric, asked)
    config = load_config(model_path, trust_remote_code)
    kind = model_class(config, trust_remote_code)
    rows = measure.read(dataset, config_name=config_name, split=split)
    tokenizer, processor = load_processors(model_path, trust_remote_code)
    measure.check(Readers(kind, config, tokenizer, processor), rows)
    model = load_model(
        model_path, dtype=dtype, device=device, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    if dtype == "auto" and model.device.type == "cpu" and not getattr(model, "is_quantized", False):
        model.float()
    result = measure(model, tokenizer, processor, rows, progress=progress)
    value = result[measure.headline]
    if isinstance(value, float) and value != value:
        raise StatisticsError(
            f"The {measure.headline} of {str(model_path)!r} is not a number. Check its weights for NaN."
        )
    return {"metric": metric, "model": str(model_path), "dataset": rows.source, **result}


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
