"""The calibration data of a run, and the dtype that its streams are computed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.sources import SELF, load_calibration
from optimum_grail.errors import DataError
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import Precision
from optimum_grail.pipeline.estimate import Estimate
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.streams.memory import available_memory

HEADROOM = 0.8
"""Share of the free memory that a run may plan with."""


def calibration_data(
    model: nn.Module,
    layout: Layout,
    dataset: Any,
    settings: Mapping[str, Any],
    tokenizer: Any = None,
    processor: Any = None,
    progress: Progress | None = None,
) -> CalibrationData:
    """Read the data, or let a causal language model write its own.

    Args:
        model: the dense model.
        layout: its layout, which tells what one sample is.
        dataset: any form of calibration data; ``None`` stands for ``"self"`` where the model can write.
        settings: the resolved configuration.
        tokenizer: for text.
        processor: for images.
        progress: told what is going on.

    Raises:
        DataError: no data was named and the model cannot write any; or the data does not fit.
    """
    causal = isinstance(model, PreTrainedModel) and bool(model.can_generate())
    if dataset is None and not causal:
        raise DataError(
            f"{type(model).__name__} needs calibration data: name it with --dataset (calibration_dataset=). "
            "Only causal language models can write their own."
        )
    own = dataset is None or (isinstance(dataset, str) and dataset == SELF)
    progress = progress or Silent()
    if not own:  # writing is a phase of its own, which tells of itself
        progress.message("Reading calibration data")
    inputs = {stack.spec.main_input for stack in layout.stacks}
    return load_calibration(
        model,
        SELF if dataset is None else dataset,
        tokenizer=tokenizer,
        processor=processor,
        config_name=settings["dataset_config_name"],
        split=settings["split"],
        text_column=settings["text_column"],
        image_column=settings["image_column"],
        label_column=settings["label_column"],
        num_samples=settings["num_samples"],
        seqlen=settings["seqlen"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        causal=causal,
        progress=progress,
        main_input=cast(Any, "pair" if len(inputs) > 1 else inputs.pop()),
    )


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
