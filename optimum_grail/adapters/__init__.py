"""LoRA adapters of the dense model, carried over to the compressed one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from optimum_grail.adapters.refit import PREFIX, convert_state, key_of
from optimum_grail.checkpoints.headers import refuse_pickles, stored_weights
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.output import staged_folder
from optimum_grail.checkpoints.plan_file import load_reductions
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.models.intact import evaluating
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import Precision, cast_
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Progress
from optimum_grail.report.report import Report

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

    from optimum_grail.data.foreign import DataSource


def convert_adapter(
    adapter: str | Path,
    output: str | Path,
    checkpoint: str | Path,
    *,
    base_model: PreTrainedModel | str | Path | None = None,
    dataset: DataSource | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: object,
) -> None:
    """Write a LoRA adapter for the compressed ``checkpoint``, made from one that was trained on its dense model.

    Args:
        adapter: folder or Hub id of the adapter.
        output: folder to write; complete or absent.
        checkpoint: folder of the compressed model, with its plan.
        base_model: the dense model; by default the one that the checkpoint's report names. A module is left as it was.
        dataset: any form of calibration data, best of the adapter's task; by default the dense model with the adapter
            writes its own where it can, else the checkpoint's own source is read again.
        overwrite: replace an adapter in ``output``.
        progress: told what is going on.
        settings: fields of :class:`GrailConfig` about data (``num_samples``, ``seqlen``, ...) instead of the
            checkpoint's.

    Raises:
        CheckpointError: the adapter or the plan is missing, or they belong to different models.
        ArchitectureError: the adapter is no plain LoRA of linear layers.
        DataError: the data is missing or does not fit.
        OutputError: ``output`` cannot be written.
    """
    from peft import get_peft_model_state_dict  # seconds, which only those who have an adapter shall wait

    config = _adapter_config(adapter)
    if os.path.isdir(adapter):  # of the Hub's, peft reads pickles as tensors only, and safetensors first
        refuse_pickles(stored_weights(adapter), adapter, allowed=False)
    reductions = load_reductions(checkpoint)
    written = GrailConfig.from_pretrained(checkpoint)
    written.update(**settings, label_column=None)
    report = Report.load(checkpoint)
    source = base_model if base_model is not None else report.model
    with staged_folder(output, overwrite) as folder, ExitStack() as after:
        dense = source if isinstance(source, PreTrainedModel) else load_model(source)
        tokenizer, processor = load_processors(checkpoint, False)
        layout = resolve(dense, experts=True)
        adapted = after.enter_context(_attached(dense, adapter))
        touched = _touched(layout, reductions)
        moves = _moves(layout, report, config)
        before = get_peft_model_state_dict(adapted)
        batches: Sequence[Batch] = ()
        if _adapted_consumers(before, touched):
            cast_(dense, torch.float32)
            own = None if dense.can_generate() else written.dataset
            request = dataclasses.replace(DataRequest.of(written), dataset=own if dataset is None else dataset)
            recipient = Recipient.of(dense, layout, tokenizer, processor)
            batches = load_calibration(recipient, request, progress=progress).batches
        state = _moved(convert_state(adapted, before, touched, reductions, batches), moves)
        config.base_model_name_or_path = str(checkpoint)
        config.revision = None
        config.inference_mode = True
        config.save_pretrained(str(folder))
        save_file(state, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})


def _adapter_config(adapter: str | Path) -> PeftConfig:
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (ValueError, OSError, HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"{str(adapter)!r} is no adapter in reach: {str(error).partition(chr(10))[0]} Name a folder with "
            "adapter_config.json, or a Hub id."
        ) from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    for reason, found in (
        (f"a {kind} adapter", kind != "LORA"),
        ("DoRA, whose magnitudes depend on the whole weight", getattr(config, "use_dora", False)),
        ("applied to bare parameters", bool(getattr(config, "target_parameters", None))),
    ):
        if found:
            raise ArchitectureError(
                f"{str(adapter)!r} is {reason}; only plain LoRA can be carried over. Merge it into the dense model "
                "(merge_and_unload) and compress that."
            )
    return config


@contextmanager
def _attached(dense: PreTrainedModel, adapter: str | Path) -> Iterator[PeftModel]:
    """The dense model with the adapter, in eval mode; afterwards ``dense`` is what it was, dtypes and all."""
    trained = [(parameter, parameter.requires_grad) for parameter in dense.parameters()]
    with evaluating(dense):
        adapted = _attach(dense, adapter)
        precision = Precision.of(dense)
        try:
            yield adapted
        finally:
            precision.restore_(dense)
            adapted.unload()
            for parameter, wanted in trained:
                parameter.requires_grad_(wanted)


def _attach(dense: PreTrainedModel, adapter: str | Path) -> PeftModel:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(dense, str(adapter)).eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The adapter {str(adapter)!r} does not fit {type(dense).__name__} {dense.config.name_or_path!r}: "
            f"{str(error).partition(chr(10))[0]} Name its model with base_model (--base-model)."
        ) from error


def _adapted_consumers(state: Mapping[str, Tensor], groups: Sequence[ChannelGroup]) -> bool:
    """Whether the adapter changes the consumer of any of ``groups``.

    Raises:
        ArchitectureError: it holds something else than linear factors for one of their layers.
    """
    shrunk = {port.module for group in groups for port in (*group.producers, group.consumer)}
    for name, tensor in state.items():
        path, _, factor = name.removeprefix(PREFIX).partition(".lora_")
        whole = not factor and path.rpartition(".")[0] in shrunk
        if whole or (path in shrunk and factor.endswith(".weight") and tensor.dim() != 2):
            raise ArchitectureError(
                f"The adapter holds {name!r}, {'a whole copy of a layer' if whole else 'a convolution'}; only LoRA of "
                "linear layers can be carried over. Merge it into the dense model and compress that."
            )
    return any(key_of(group.consumer.module, "lora_A.weight") in state for group in groups)


def _touched(layout: Layout, reductions: Mapping[str, Reduction]) -> list[ChannelGroup]:
    """The groups that lost units.

    Raises:
        CheckpointError: the plan belongs to another model.
    """
    known = {group.name: group for group in layout.groups}
    for name, reduction in reductions.items():
        if name not in known or not known[name].admits(len(reduction.assignment)):
            raise CheckpointError(
                f"The plan names {name!r} with {len(reduction.assignment)} units, which the dense model lacks. Name "
                "the model that was compressed with base_model (--base-model)."
            )
    return [known[name] for name, reduction in reductions.items() if not reduction.is_identity]


def _moves(layout: Layout, report: Report, config: PeftConfig) -> dict[str, str | None]:
    """Path of every block to its path in the compressed model, ``None`` for a block that was dropped.

    Raises:
        ArchitectureError: blocks were dropped, and the adapter's configuration speaks of numbered layers; or heads have
            lost dimensions inside.
    """
    if report.head_size:
        raise ArchitectureError(
            f"The heads of {report.name} have {report.head_size[1]} of {report.head_size[0]} dimensions, turned into "
            "others; adapters of the dense model are not carried over to that. Merge it into the dense model "
            "(merge_and_unload) and compress that."
        )
    gone = {row.name for row in report.groups if row.units_after == 0}
    dropped = {group.block for group in layout.groups if group.name in gone}
    moves: dict[str, str | None] = {}
    for stack in layout.stacks:
        kept = [path for path in stack.blocks if path not in dropped]
        moves |= dict.fromkeys(stack.blocks) | dict(zip(kept, stack.blocks, strict=False))
    numbered = any(getattr(config, name, None) for name in ("layers_to_transform", "rank_pattern", "alpha_pattern"))
    if dropped and (numbered or isinstance(getattr(config, "target_modules", None), str)):
        raise ArchitectureError(
            f"{len(dropped)} blocks of the model were dropped, and the adapter's configuration numbers layers "
            "(layers_to_transform, rank_pattern, alpha_pattern or a pattern in target_modules). Merge it into the "
            "dense model and compress that."
        )
    return moves


def _moved(state: Mapping[str, Tensor], moves: Mapping[str, str | None]) -> dict[str, Tensor]:
    """``state`` with the blocks at their new places and without those that are gone."""
    out = {}
    for name, tensor in state.items():
        block = next((path for path in moves if name.startswith(f"{PREFIX}{path}.")), None)
        if block is None:
            out[name] = tensor
        elif moves[block] is not None:
            out[f"{PREFIX}{moves[block]}{name.removeprefix(PREFIX + block)}"] = tensor
    return out
