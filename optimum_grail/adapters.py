"""LoRA adapters of the dense model, carried over to the compressed one.

For a layer ``W + s B A``: where the layer produces a group's units, the rows of ``B`` shrink as the rows of ``W`` did,
which is exact. Where it consumes them, ``A`` is itself a consumer: its columns are refitted to what it read,
``A' = argmin Σ‖A h - A' z‖²``, on the features ``h`` of the dense model with the adapter and their kept part ``z``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.calibration.batches import Batch
from optimum_grail.calibration.sources import load_processors
from optimum_grail.config import GrailConfig
from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.moments import Moments, TargetMoments
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.solve import NormalEquations
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.evaluation.evaluate import load_model
from optimum_grail.models.layout import Layout
from optimum_grail.models.precision import cast_
from optimum_grail.models.resolve import resolve
from optimum_grail.output import staged_folder
from optimum_grail.pipeline.calibrate import calibration_data
from optimum_grail.report.progress import Progress, Silent
from optimum_grail.report.report import Report
from optimum_grail.saving import load_reductions

PREFIX = "base_model.model."
RIDGE = 1e-3
PASS_BYTES = 2 << 30
"""Memory for the sums of one pass over the data; more layers than fit take more passes."""


def convert_adapter(
    adapter: str | Path,
    output: str | Path,
    checkpoint: str | Path,
    *,
    base_model: PreTrainedModel | str | Path | None = None,
    dataset: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> None:
    """Write a LoRA adapter for the compressed ``checkpoint``, made from one that was trained on its dense model.

    Args:
        adapter: folder or Hub id of the adapter.
        output: folder to write; complete or absent.
        checkpoint: folder of the compressed model, with its plan.
        base_model: the dense model; by default the one that the checkpoint's report names.
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
    config = _adapter_config(adapter)
    reductions = load_reductions(checkpoint)
    written = GrailConfig.from_pretrained(checkpoint)
    fields = {**written.to_dict(), **settings}
    source = base_model if base_model is not None else Report.load(checkpoint).model
    with staged_folder(output, overwrite) as folder:
        dense = source if isinstance(source, PreTrainedModel) else load_model(source)
        tokenizer, processor = load_processors(checkpoint, False)
        layout = resolve(dense)
        adapted = _attach(dense, adapter)
        touched = _touched(layout, reductions)
        before = get_peft_model_state_dict(adapted)
        data = None
        if _adapted_consumers(before, touched):
            cast_(dense, torch.float32)
            own = None if dense.can_generate() else fields.get("dataset")
            given = own if dataset is None else dataset
            data = calibration_data(dense, layout, given, fields, tokenizer, processor, progress or Silent())
        batches = () if data is None else data.batches
        state = convert_state(adapted, before, touched, reductions, batches)
        config.base_model_name_or_path = str(checkpoint)
        config.revision = None
        config.inference_mode = True
        config.save_pretrained(str(folder))
        save_file(state, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})


def convert_state(
    adapted: nn.Module,
    state: Mapping[str, Tensor],
    groups: Iterable[ChannelGroup],
    reductions: Mapping[str, Reduction],
    batches: Sequence[Batch],
) -> dict[str, Tensor]:
    """The adapter's tensors in the shapes of the compressed model, dtypes kept.

    Args:
        adapted: the dense model with the adapter, a PEFT model.
        state: the adapter's tensors, under PEFT's names.
        groups: the groups that lost units.
        reductions: how each of them shrank.
        batches: data to refit ``lora_A`` of consumers on; without any their columns are only gathered.
    """
    out = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    consumers: dict[str, tuple[Port, Reduction]] = {}
    for group in groups:
        reduction = reductions[group.name]
        for port in sorted(group.producers, key=lambda port: -port.offset):
            for key in (_key(port.module, "lora_B.weight"), _key(port.module, "lora_B.bias")):
                if key in out:
                    out[key] = _rows(out[key], port, reduction)
        key = _key(group.consumer.module, "lora_A.weight")
        if key in out:
            consumers[group.consumer.module] = group.consumer, reduction
            out[key] = _columns(out[key], group.consumer, reduction)
    for path, fitted in _refit(adapted, state, out, consumers, batches):
        port, key = consumers[path][0], _key(path, "lora_A.weight")
        out[key] = _spliced(out[key], port, fitted.shape[1], fitted)
    return out


def _adapter_config(adapter: str | Path) -> PeftConfig:
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


def _attach(dense: PreTrainedModel, adapter: str | Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(dense, str(adapter)).eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The adapter {str(adapter)!r} does not fit {type(dense).__name__} {dense.config.name_or_path!r}: "
            f"{str(error).partition(chr(10))[0]} Name the model that it was trained on with base_model "
            "(--base-model)."
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
    return any(_key(group.consumer.module, "lora_A.weight") in state for group in groups)


def _touched(layout: Layout, reductions: Mapping[str, Reduction]) -> list[ChannelGroup]:
    """The groups that lost units.

    Raises:
        CheckpointError: the plan belongs to another model.
    """
    known = {group.name: group for group in layout.groups}
    for name, reduction in reductions.items():
        if name not in known or known[name].units != len(reduction.assignment):
            raise CheckpointError(
                f"The plan names {name!r} with {len(reduction.assignment)} units, which the dense model lacks. Name "
                "the model that was compressed with base_model (--base-model)."
            )
    return [known[name] for name, reduction in reductions.items() if not reduction.is_identity]


def _key(path: str, name: str) -> str:
    return f"{PREFIX}{path}.{name}"


def _spliced(tensor: Tensor, port: Port, width: int, strip: Tensor) -> Tensor:
    """``tensor`` with the ``width`` columns from the port's offset on replaced by ``strip``."""
    left, right = tensor[..., : port.offset], tensor[..., port.offset + width :]
    return torch.cat([left, strip.to(tensor), right], -1).contiguous()


def _columns(tensor: Tensor, port: Port, reduction: Reduction) -> Tensor:
    """Plain pruning (or folding) of columns: where the refit starts from."""
    width = len(reduction.assignment) * port.span
    strip = tensor[..., port.offset : port.offset + width]
    return _spliced(tensor, port, width, reduction.lift_columns(strip, port.span))


def _rows(tensor: Tensor, port: Port, reduction: Reduction) -> Tensor:
    width = len(reduction.assignment) * port.span
    turned = tensor.movedim(0, -1)
    strip = reduction.encode_columns(turned[..., port.offset : port.offset + width], port.span)
    return _spliced(turned, port, width, strip).movedim(-1, 0).contiguous()


def _refit(
    adapted: nn.Module,
    state: Mapping[str, Tensor],
    gathered: Mapping[str, Tensor],
    consumers: Mapping[str, tuple[Port, Reduction]],
    batches: Sequence[Batch],
) -> Iterator[tuple[str, Tensor]]:
    """Path and new strip of ``lora_A`` of every consumer, as many at a time as memory is set aside for."""
    sizes = {path: 8 * (reduction.slots * port.span) ** 2 for path, (port, reduction) in consumers.items()}
    left = list(consumers) if batches else []
    while left:
        chosen: list[str] = []
        while left and (not chosen or sum(sizes[path] for path in [*chosen, left[0]]) <= PASS_BYTES):
            chosen.append(left.pop(0))
        sums = [_Sums(path, *consumers[path], state, gathered) for path in chosen]
        _one_pass(adapted, sums, batches)
        yield from ((each.path, each.solution()) for each in sums)


class _Sums:
    """What one consumer's ``lora_A`` reads, as sums: ``d = A h - A' z`` on ``z``, with ``A'`` the gathered columns."""

    def __init__(
        self, path: str, port: Port, reduction: Reduction, state: Mapping[str, Tensor], gathered: Mapping[str, Tensor]
    ) -> None:
        self.path, self.port, self.reduction = path, port, reduction
        key, slots = _key(path, "lora_A.weight"), reduction.slots * port.span
        self.full = state[key].detach().float()[:, self._strip(len(reduction.assignment))]
        self.start = gathered[key].to(self.full)[:, port.offset : port.offset + slots]
        self.moments = Moments.zero(slots, self.full.device)
        self.target = TargetMoments.zero(len(self.full), slots, self.full.device)
        self.mask: Tensor | None = None

    def _strip(self, units: int) -> slice:
        return slice(self.port.offset, self.port.offset + units * self.port.span)

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add the rows that enter the consumer, padding left out."""
        features = (args[0] if args else next(iter(kwargs.values()))).detach().float()
        if self.mask is not None and self.mask.shape == features.shape[:-1]:
            rows = features[self.mask.to(features.device, torch.bool)]
        else:
            rows = features.flatten(0, -2)
        rows = rows[:, self._strip(len(self.reduction.assignment))].to(self.full.device)
        kept = self.reduction.encode_columns(rows, self.port.span)
        self.moments = self.moments.plus_rows(kept)
        self.target = self.target.plus_rows(rows @ self.full.T - kept @ self.start.T, kept)

    def solution(self) -> Tensor:
        """The refitted strip, ``[r, slots * span]``."""
        self.moments.check(self.path)
        whole = Reduction.keep_all(self.moments.gram.shape[0])
        equations = NormalEquations.of(self.start, self.moments, self.target, whole)
        return equations.fit(RIDGE, "diagonal", "naive", affine=False).at(1.0).weight.cpu()


@torch.inference_mode()
def _one_pass(adapted: nn.Module, sums: Sequence[_Sums], batches: Sequence[Batch]) -> None:
    device = next(adapted.parameters()).device
    with ExitStack() as hooks:
        for each in sums:
            module = adapted.get_submodule(PREFIX + each.path)
            hooks.callback(module.register_forward_pre_hook(each.hook, with_kwargs=True).remove)
        for batch in batches:
            for each in sums:
                each.mask = batch.inputs.get("attention_mask")
            adapted(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
