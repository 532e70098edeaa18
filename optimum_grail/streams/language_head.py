"""The head of a language model by itself, so that the logits of many rows are never held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.errors import ArchitectureError
from optimum_grail.models.residence import device_of, resident
from optimum_grail.streams.hooks import Reached, given, hooked, note_parts, passing, patched_forward

LOGITS_BYTES = 2**25
"""Most bytes of one model's logits (float32) at once: 170 rows of 49,152 tokens, 32 of 262,144. The C library gives
tensors of this size back to the system when they are freed; smaller ones it keeps, and the gaps between them add up."""
COPIES = 4
"""Tensors of that size that a loss and its gradient make."""
TOLERANCE = 2e-3
"""Difference of logits, relative to the largest, that rounding may make."""
PROBED = 4
"""Rows at which it is checked that the head, asked by itself, says what the model says."""


@dataclass(frozen=True)
class LanguageHead:
    """What makes logits of hidden states.

    Where a model does something behind its head (caps, scales), the head is asked through the model's own forward with
    its input replaced.

    Args:
        model: a language model.
        vocabulary: logits per row.
        sample: inputs of a short pass.
        blocks: paths of blocks that such a pass leaves out.
        direct: whether the model's logits are what the layer puts out.
    """

    model: PreTrainedModel
    vocabulary: int
    sample: Mapping[str, Any]
    blocks: Sequence[str] = ()
    direct: bool = False

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, sample: Mapping[str, Any], blocks: Sequence[str] = ()) -> LanguageHead | None:
        """The head of ``model``; ``None`` where it has none that can be asked by itself, which is tried on ``sample``.

        Args:
            model: in eval mode.
            sample: inputs of one short pass, on the model's device.
            blocks: paths of blocks whose results do not reach the logits but through the head's input.
        """
        if not isinstance(model, PreTrainedModel) or (module := model.get_output_embeddings()) is None:
            return None
        seen: list[Tensor] = []
        noting = [(model.get_submodule(path), lambda block, args, output: note_parts(block, output)) for path in blocks]
        with hooked(before=[(module, lambda _, args, kwargs: seen.append(given(args, kwargs)))], after=noting):
            output = model(**sample)
        logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else None
        if len(seen) != 1 or logits is None or logits.shape[:-1] != seen[0].shape[:-1]:
            return None
        head = cls(model, logits.shape[-1], sample, tuple(blocks))
        said, rows = logits.flatten(0, -2)[:PROBED].float(), seen[0].flatten(0, -2)[:PROBED]
        ways = (way for way in (replace(head, direct=True), head) if alike(way.logits(rows), said))
        return next(ways, None)

    @property
    def module(self) -> nn.Module:
        """The layer that the logits come out of; the model's own of this moment."""
        module: nn.Module = self.model.get_output_embeddings()
        return module

    def entering(self, inputs: Mapping[str, Any]) -> Tensor:
        """What enters the head ``[B, T, features]`` when the model runs on ``inputs``; the run ends there."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Note the head's input."""
            seen.append(given(args, kwargs))
            raise Reached

        with suppress(Reached), hooked(before=[(self.module, keep)]):
            self.model(**inputs)
        if not seen:
            raise ArchitectureError(f"{type(self.model).__name__} did not call its head on {', '.join(inputs)}.")
        return seen[0]

    def logits(self, rows: Tensor) -> Tensor:
        """The logits of ``rows`` ``[N, features]``: float32 ``[N, vocabulary]``, on the model's device."""
        if self.direct:
            direct: Tensor = self.module(rows.to(device_of(self.module), next(self.module.parameters()).dtype))
            return direct.float()

        def other(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            """Other hidden states for the head."""
            entering = rows[None].to(given(args, kwargs))
            return ((entering, *args[1:]), kwargs) if args else ((), {**kwargs, next(iter(kwargs)): entering})

        passed = patched_forward(self.model, {path: passing(self.model.get_submodule(path)) for path in self.blocks})
        with passed, hooked(before=[(self.module, other)]):
            logits: Tensor = self.model(**self.sample).logits
        return logits[0].float()

    @property
    def slice(self) -> int:
        """Most rows whose logits are held at once."""
        return max(1, LOGITS_BYTES // (4 * self.vocabulary))

    def slices(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The same slices of several ``[N, ...]``, each so short that its logits fit :data:`LOGITS_BYTES`. The head's
        weights are in memory meanwhile."""
        with resident(self.module, ""):
            yield from zip(*(each.split(self.slice) for each in rows), strict=True)

    def pull(self, rows: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Gradient by ``rows`` ``[N, features]`` of a loss that is a sum over them, made slice by slice.

        Args:
            rows: what enters the head.
            loss: of the logits ``[n, vocabulary]`` of some rows, and of their numbers, int64 ``[n]``.
        """
        parts = []
        for part, numbers in self.slices(rows, torch.arange(len(rows), device=rows.device)):
            part = part.requires_grad_()
            parts.append(torch.autograd.grad(loss(self.logits(part), numbers), part)[0])
        return torch.cat(parts)


def alike(logits: Tensor, expected: Tensor) -> bool:
    """Whether two heads say the same, but for rounding in the precision that they compute in."""
    return bool(((logits - expected).abs() <= TOLERANCE * expected.abs().max()).all())  # never of NaN


def short(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that are text and nothing else, cut to the first tokens of one sample: enough to find a head with,
    whatever its vocabulary. Others as they are."""
    ids = inputs.get("input_ids")
    tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
    if ids is None or any(tensor.shape != ids.shape for tensor in tensors):
        return dict(inputs)
    others = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    words = {name: inputs[name][:1, :PROBED] for name in ("input_ids", "decoder_input_ids") if name in inputs}
    return {**words, **others}


def run_blocks(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """A pass for the sake of what happens in the blocks: it ends where a language model would make logits."""
    module = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None

    def stop(*_: object) -> None:
        """End the pass."""
        raise Reached

    with suppress(Reached), hooked(before=[] if module is None else [(module, stop)]):
        model(**inputs)
