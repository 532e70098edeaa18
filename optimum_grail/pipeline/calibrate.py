"""The calibration data of a run, and the dtype that its streams are computed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.calibration.batches import CalibrationData
from optimum_grail.calibration.sources import load_calibration
from optimum_grail.errors import DataError
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import Precision
from optimum_grail.pipeline.estimate import Estimate, available_memory

HEADROOM = 0.8
"""Share of the free memory that a run may plan with."""


def calibration_data(
    model: nn.Module,
    layout: Layout,
    dataset: Any,
    settings: Mapping[str, Any],
    tokenizer: Any = None,
    processor: Any = None,
) -> CalibrationData:
    """Read the data, or let a causal language model write its own.

    Args:
        model: the dense model.
        layout: its layout, which tells what one sample is.
        dataset: any form of calibration data; ``None`` stands for ``"self"`` where the model can write.
        settings: the resolved configuration.
        tokenizer: for text.
        processor: for images.

    Raises:
        DataError: no data was named and the model cannot write any; or the data does not fit.
    """
    require_data(model, dataset)
    inputs = {stack.spec.main_input for stack in layout.stacks}
    return load_calibration(
        model,
        "self" if dataset is None else dataset,
        tokenizer=tokenizer,
        processor=processor,
        config_name=settings["dataset_config_name"],
        split=settings["split"],
        text_column=settings["text_column"],
        image_column=settings["image_column"],
        num_samples=settings["num_samples"],
        seqlen=settings["seqlen"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        causal=_is_causal(model),
        main_input=cast(Any, "pair" if len(inputs) > 1 else inputs.pop()),
    )


def require_data(model: nn.Module, dataset: Any) -> None:
    """Refuse to go without a dataset where the model cannot write its own.

    Raises:
        DataError: says how to name one.
    """
    if dataset is None and not _is_causal(model):
        raise DataError(
            f"{type(model).__name__} needs calibration data: name it with --dataset (calibration_dataset=). "
            "Only causal language models can write their own."
        )


def _is_causal(model: nn.Module) -> bool:
    return isinstance(model, PreTrainedModel) and bool(model.can_generate())


def choose_dtype_(model: nn.Module, cost: Estimate, native: Precision) -> str | None:
    """Keep float32 streams if they fit the free memory, else compute in the checkpoint's dtype and say so.

    The drift of the residual stream is a small difference of large numbers: bfloat16 would drown it.
    """
    free = available_memory(next(model.parameters()).device)
    if free is None or cost.memory < HEADROOM * free or native.main == torch.float32:
        return None
    native.restore_(model)
    return (
        f"Float32 streams need {cost.memory / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: computed in "
        f"{native.main} instead. Fewer samples (--num-samples) or tokens (--seqlen) would fit."
    )
