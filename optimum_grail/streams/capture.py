"""Block by block through a model: capture what every block is called with, then run blocks one at a time.

Whatever a block receives beside its hidden state is recorded as it comes (args and kwargs), nothing is listed by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError
from optimum_grail.streams.states import OffloadedStates, States


class _Reached(Exception):
    """Ends a forward pass once everything wanted from it has been seen. Private: real errors are never swallowed."""


@dataclass(frozen=True)
class Call:
    """Everything one block was called with on one batch, but for the hidden state.

    Args:
        args: positional arguments after the hidden state.
        kwargs: keyword arguments.
        name: keyword of the hidden state, or ``None`` if it came first by position.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str | None = None

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's output for ``hidden``."""
        if self.name is not None:
            return first(block(*self.args, **{**self.kwargs, self.name: hidden}))
        return first(block(hidden, *self.args, **self.kwargs))


@dataclass
class Captured:
    """What the blocks of one stack see: the first block's input per batch, and each block's call per batch."""

    hidden: States = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=dict)


def first(output: Any) -> Tensor:
    """The hidden state in a block's output: the output itself, or the first element of a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def patched_forward(model: nn.Module, replacements: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replace the ``forward`` of the modules at these paths, and put everything back on the way out."""
    modules = {path: model.get_submodule(path) for path in replacements}
    saved = {path: module.__dict__.get("forward") for path, module in modules.items()}
    try:
        for path, replacement in replacements.items():
            modules[path].forward = replacement  # type: ignore[method-assign]
        yield
    finally:
        for path, module in modules.items():
            original = saved[path]
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = original  # type: ignore[method-assign]


def _split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    if args:
        return args[0], Call(args[1:], kwargs)
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    rest = {key: value for key, value in kwargs.items() if key != name}
    return kwargs[name], Call((), rest, name)


@torch.no_grad()
def capture(
    model: nn.Module, stacks: Mapping[str, Sequence[str]], batches: Sequence[Batch], *, offload: bool = False
) -> dict[str, Captured]:
    """Run ``model`` once over ``batches`` with every block replaced by the identity, recording the calls.

    Args:
        model: in eval mode.
        stacks: stack name to the paths of its blocks, in order.
        batches: calibration batches; their inputs are moved to the model's device.
        offload: keep the hidden states in files.

    Returns:
        What the blocks see, per stack. Only embeddings are computed: this pass costs next to nothing.
    """
    captured = {name: Captured(OffloadedStates() if offload else []) for name in stacks}
    owner = {path: name for name, paths in stacks.items() for path in paths}
    pending: set[str] = set()

    def recorder(path: str) -> Callable[..., Any]:
        """What stands in for the block at ``path``."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            """Note the call and pass the hidden state on."""
            hidden, call = _split_call(args, kwargs)
            record = captured[owner[path]]
            if path == stacks[owner[path]][0]:
                record.hidden.append(hidden.clone())
            record.calls.setdefault(path, []).append(call)
            pending.discard(path)
            if not pending:
                raise _Reached
            return hidden

        return forward

    with patched_forward(model, {path: recorder(path) for path in owner}):
        for batch in batches:
            pending = set(owner)
            try:
                model(**on_device(model, batch))
            except _Reached:
                continue
            raise ArchitectureError(
                f"The model never called block {min(pending)!r} on the calibration data. Check the map's block pattern "
                "and that the data holds every input the model needs (CLIP: images and texts)."
            )
    return captured


def on_device(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The batch's inputs on the model's device, plus ``use_cache=False`` where the config knows caches."""
    device = next(model.parameters()).device
    inputs: dict[str, Any] = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    config = getattr(model, "config", None)
    if getattr(config, "use_cache", None):
        inputs["use_cache"] = False
    return inputs


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN included: overflowing activations are for the statistics to refuse, in better words."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@torch.no_grad()
def check_chain(model: nn.Module, paths: Sequence[str], batch: Batch) -> None:
    """Verify on the first sample of ``batch`` that each block's input is the previous block's output.

    Raises:
        ArchitectureError: something happens between two blocks, so that running them one by one would be wrong.
    """
    previous: dict[str, Tensor] = {}
    broken: list[str] = []

    def enter(path: str) -> Callable[..., None]:
        """A hook that compares a block's input with the last output."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Note a block whose input is another."""
            hidden = _split_call(args, kwargs)[0]
            last = previous.get("output")
            if last is not None and not _same(last, hidden):
                broken.append(path)

        return hook

    def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep the output for the next block."""
        previous["output"] = first(output).clone()

    handles = []
    for path in paths:
        block = model.get_submodule(path)
        handles += [
            block.register_forward_pre_hook(enter(path), with_kwargs=True),
            block.register_forward_hook(leave),
        ]
    try:
        model(**on_device(model, batch.head()))
    finally:
        for handle in handles:
            handle.remove()
    if broken:
        raise ArchitectureError(
            f"The input of block {broken[0]!r} is not the output of the block before it. Give the map one block "
            "pattern per uninterrupted chain of blocks."
        )
