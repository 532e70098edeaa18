"""One block, run again and again on what it was called with, while some of what its layers put out is moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError
from optimum_grail.models.matrix import axes, feature_axis

Move = Callable[[Tensor], Tensor]
"""What becomes of a tensor."""


def first_tensor(value: object) -> Tensor | None:
    """The tensor that ``value`` is or begins with: of a tuple, list or mapping its first one; ``None`` if none."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


def entering(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden state that a module is called with: its first argument that is a tensor."""
    found = first_tensor(args)
    return first_tensor(kwargs) if found is None else found


def is_matrix(module: nn.Module) -> bool:
    """Whether ``module`` can produce or consume: a linear layer, a Conv1D, an ungrouped 2-D convolution."""
    try:
        axes(module)
    except ArchitectureError:
        return False
    return True


@dataclass
class Pass:
    """What one run of the block showed: what entered and left each submodule at its first call, in order of the calls,
    and how often each was called."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    result: Tensor | None = None


class Bench:
    """A block and one call of it.

    Args:
        block: the module, in eval mode.
        args: what it was called with, the hidden state among them.
        kwargs: the same by name.
    """

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.block, self.args, self.kwargs = block, args, dict(kwargs)
        self.reference = Pass()
        self.reference = self.run({})
        called = self.reference.calls
        self.matrices = {
            path: module for path, module in block.named_modules() if called.get(path) == 1 and is_matrix(module)
        }

    def run(self, moves: Mapping[str, Move], frozen: bool = False, entering_by: Move | None = None) -> Pass:
        """Run the block once.

        Args:
            moves: what becomes of the output of some submodules, by path.
            frozen: every other linear layer and convolution puts out what it did at first, so that what is moved is
                seen only where nothing of their kind lies in between.
            entering_by: what becomes of the hidden state that enters.

        Returns:
            what was seen, after the moves.
        """
        seen = Pass()
        with ExitStack() as hooks, torch.no_grad():
            for path, module in self.block.named_modules():
                held = frozen and path in self.matrices
                if path:
                    hooks.callback(module.register_forward_pre_hook(_enter(seen, path), with_kwargs=True).remove)
                    kept = self.reference.outputs[path] if held else None
                    hooks.callback(module.register_forward_hook(_leave(seen, path, moves.get(path), kept)).remove)
            args, kwargs = self._moved(entering_by)
            found = first_tensor(self.block(*args, **kwargs))
        seen.result = None if found is None else found.clone()
        return seen

    def _moved(self, move: Move | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh copies of the hidden state: residual sums may be made in place."""
        state = entering(self.args, self.kwargs)

        def fresh(value: Any) -> Any:
            """The hidden state moved, everything else as it is."""
            if value is not state or state is None:
                return value
            return state.clone() if move is None else move(state.clone())

        return tuple(map(fresh, self.args)), {name: fresh(value) for name, value in self.kwargs.items()}

    def features(self, path: str, tensor: Tensor) -> Tensor:
        """``tensor``, which enters or leaves the module at ``path``, as rows ``[N, features]``."""
        axis = feature_axis(self.block.get_submodule(path))
        return tensor.movedim(axis, -1).flatten(0, -2)

    def changed(self, path: str, seen: Pass) -> Tensor:
        """Which features that enter the module at ``path`` are others than at first: bool ``[features]``."""
        before, after = self.reference.inputs[path], seen.inputs.get(path)
        if after is None or after.shape != before.shape:
            return torch.ones(self.features(path, before).shape[-1], dtype=torch.bool)
        return (self.features(path, after) - self.features(path, before)).abs().amax(0) > 1e-6 * (
            1e-3 + before.abs().max()
        )

    def shaken(self, path: str, rows: Tensor, strength: float = 1.0) -> Move:
        """A move that adds large noise to the features ``rows`` (bool ``[features]``) of what ``path`` puts out;
        ``strength`` multiplies it."""
        axis = feature_axis(self.block.get_submodule(path))

        def move(output: Tensor) -> Tensor:
            """The same noise at every call."""
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=output.dtype)
            size = strength * (3 * output.abs().mean() + 0.1)
            return output + (noise * size).movedim(axis, -1).mul(rows.to(output.dtype)).movedim(-1, axis)

        return move


def _enter(seen: Pass, path: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the call and keep what enters at the first."""
        seen.calls[path] = seen.calls.get(path, 0) + 1
        state = entering(args, kwargs)
        if state is not None and path not in seen.inputs:
            seen.inputs[path] = state.clone()

    return hook


def _leave(seen: Pass, path: str, move: Move | None, kept: Tensor | None) -> Callable[..., Tensor | None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Keep what leaves, moved if that is asked."""
        state = first_tensor(output)
        if state is None:
            return None
        state = state.clone() if kept is None else kept.clone()
        state = state if move is None else move(state)
        seen.outputs.setdefault(path, state.clone())
        return None if kept is None and move is None else state

    return hook
