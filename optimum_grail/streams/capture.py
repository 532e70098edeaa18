"""What the blocks of every stack are called with, recorded stack by stack, so that blocks can be run one at a time.

A stack's blocks are passed by while it is recorded: only what leads to the first of them is computed. That is as good
as a true forward pass as long as nothing in front of a stack depends on another stack's blocks. Where something does
(a language model that is fed by an image encoder), the stacks before it really run. Which stacks those are is found out
by comparing one sample with a true forward pass, and whatever still differs then is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ArchitectureError, GrailError
from optimum_grail.streams.calls import Call, difference, on_device, same
from optimum_grail.streams.hooks import Reached, as_put_out, first, hooked, note_parts, patched_forward
from optimum_grail.streams.language_head import run_blocks
from optimum_grail.streams.states import OffloadedStates, States

Stacks = Mapping[str, Sequence[str]]
"""Stack name to the paths of its blocks, in order."""
TOLERANCE = 1e-4
"""Two runs of the same stacks may differ by so much of the norm: not every kernel adds up in a fixed order."""


@dataclass
class Captured:
    """What the blocks of one stack see: the first block's input per batch, and each block's call per batch.

    Args:
        hidden: ``[B, T, C]`` or ``[B, C, H, W]`` per batch.
        calls: by path of the block, per batch.
    """

    hidden: States = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=dict)

    def add(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Note a call of the block at ``path``, and return its hidden state."""
        hidden, call = Call.of(path, args, kwargs)
        if not self.calls or path == next(iter(self.calls)):
            self.hidden.append(hidden.clone())
        self.calls.setdefault(path, []).append(call)
        return hidden


@dataclass(frozen=True)
class Order:
    """In which order the stacks of a model can be walked through.

    Args:
        free: those that are called with nothing that other stacks put out.
        fed: the others, first called first.
    """

    free: tuple[str, ...]
    fed: tuple[str, ...] = ()

    @property
    def feeding(self) -> frozenset[str]:
        """Stacks whose output may reach that of the model through others: all before the last one that is fed."""
        return frozenset((*self.free, *self.fed)[:-1] if self.fed else ())


@torch.no_grad()
def capture(
    model: nn.Module,
    stacks: Stacks,
    batches: Sequence[Batch],
    *,
    offload: bool = False,
    order: Order | None = None,
) -> dict[str, Captured]:
    """Record what the blocks of ``stacks`` are called with.

    Args:
        model: in eval mode.
        stacks: those to record; the model's other blocks just run.
        batches: calibration batches; their inputs are moved to the model's device. Of a portion, a process may have
            none.
        offload: keep the hidden states in files.
        order: of these stacks, if it is known already.

    Returns:
        what the blocks see, by stack; those that are fed by others come last, in the order of their calls. For all
        others one pass computes embeddings only and costs next to nothing.

    Raises:
        ArchitectureError: as :func:`order_of`.
    """
    order = order or order_of(model, stacks, Portion.of(batches).sample)
    found = _pass_by(model, {name: stacks[name] for name in order.free}, batches, offload)
    for name in order.fed:
        found |= _pass_by(model, {name: stacks[name]}, batches, offload)
    return found


@torch.no_grad()
def order_of(model: nn.Module, stacks: Stacks, batch: Batch) -> Order:
    """Find out with the first sample of ``batch`` how the stacks follow each other, and that they can be recorded.

    Raises:
        ArchitectureError: blocks are not called exactly once; something happens between two blocks of a stack; a cache
            is among their arguments; or what would be recorded is not what a true forward pass shows.
    """
    sample = batch.head()
    truth = _really(model, stacks, sample)
    try:
        found = _pass_by(model, stacks, [sample])
        suspects = [name for name in truth if _unlike(found[name], truth[name], 0.0) is not None]
    except GrailError:
        raise
    except Exception:  # a later stack cannot take what it gets when earlier ones are passed by
        suspects = list(truth)
    for name in suspects:
        try:
            wrong = _unlike(_pass_by(model, {name: stacks[name]}, [sample])[name], truth[name], TOLERANCE)
        except GrailError:
            raise
        except Exception as error:
            wrong = f"a forward pass without them fails ({error})"
        if wrong is not None:
            raise ArchitectureError(
                f"The blocks of stack {name!r} cannot be calibrated one by one: {wrong}. A map has to leave out blocks "
                "that work with more than the hidden state and arguments that are known before the first of them."
            )
    fed = tuple(name for name in suspects if name != next(iter(truth)))
    return Order(tuple(name for name in stacks if name not in fed), fed)


def _unlike(found: Captured, truth: Captured, tolerance: float) -> str | None:
    """What differs between two records of one sample, in words."""
    if not same(found.hidden[0], truth.hidden[0], tolerance):
        return "the hidden state that enters them is another than in a true forward pass"
    for path, calls in truth.calls.items():
        one, other = found.calls[path][0], calls[0]
        place = difference(one.args, other.args, "argument", tolerance)
        place = place or difference(one.kwargs, other.kwargs, "argument", tolerance)
        if place is not None:
            return f"{place} of block {path!r} is another than in a true forward pass"
    return None


def _really(model: nn.Module, stacks: Stacks, sample: Batch) -> dict[str, Captured]:
    """What a true forward pass shows, by stack, first called first."""
    owner = {path: name for name, paths in stacks.items() for path in paths}
    found: dict[str, Captured] = {}
    left: dict[str, Tensor] = {}
    broken: list[str] = []

    def enter(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call, and note a block whose input is not the last output of its stack."""
        hidden = found.setdefault(owner[path], Captured()).add(path, args, kwargs)
        last = left.get(owner[path])
        if last is not None and not same(last, hidden):
            broken.append(path)

    def leave(path: str, output: Any) -> None:
        """Keep the output for the next block."""
        note_parts(model.get_submodule(path), output)
        left[owner[path]] = first(output).clone()

    modules = [(model.get_submodule(path), path) for path in owner]
    with hooked(
        before=[(module, lambda _, args, kwargs, path=path: enter(path, args, kwargs)) for module, path in modules],
        after=[(module, lambda _, args, output, path=path: leave(path, output)) for module, path in modules],
    ):
        run_blocks(model, on_device(model, sample))
    _refuse_other_orders(stacks, found, broken, sample)
    return found


def _refuse_other_orders(stacks: Stacks, found: Mapping[str, Captured], broken: list[str], sample: Batch) -> None:
    """Raise unless every block was called once, on what the block before it put out; ``broken`` names some that were
    not."""
    for name, paths in stacks.items():
        for path in paths:
            times = len(found[name].calls.get(path, ())) if name in found else 0
            if times != 1:
                raise never_called(path, name, sample, times)
    for name, seen in found.items():  # blocks that are called in another order follow other blocks than the map says
        broken = broken + [path for path, called in zip(stacks[name], seen.calls, strict=True) if path != called]
    if broken:
        raise ArchitectureError(
            f"The input of block {broken[0]!r} is not the output of the block before it. If something lies "
            "between the lists that hold them (downsampling between stages), set chain='container' in the map; "
            "otherwise give it one block pattern per uninterrupted chain of blocks."
        )


def never_called(path: str, stack: str, batch: Batch, times: int = 0) -> ArchitectureError:
    """The error for a block that ``batch`` does not reach, or reaches more than once."""
    if times > 1:
        return ArchitectureError(
            f"The model called block {path!r} of stack {stack!r} {times} times on one sample. Blocks that are used "
            "more than once in a pass cannot be calibrated: only methods without data can compress them (--selector "
            "magnitude --compensator none --allocation uniform)."
        )
    return ArchitectureError(
        f"The model never called block {path!r} of stack {stack!r} on the calibration data, which has "
        f"{', '.join(batch.inputs)}. Check the map's block pattern, and give every input that the model needs "
        "(images and texts for a model of both)."
    )


def _pass_by(model: nn.Module, stacks: Stacks, batches: Sequence[Batch], offload: bool = False) -> dict[str, Captured]:
    """Run ``model`` over ``batches`` with every block of ``stacks`` replaced by the identity, recording the calls; each
    pass ends when all of them have been called."""
    captured = {name: Captured(OffloadedStates() if offload else []) for name in stacks}
    if not len(batches):
        return {name: replace(captured[name], calls={path: [] for path in paths}) for name, paths in stacks.items()}
    owner = {path: name for name, paths in stacks.items() for path in paths}
    pending: set[str] = set()

    def recorder(path: str) -> Callable[..., Any]:
        """What stands in for the block at ``path``."""
        block = model.get_submodule(path)

        def forward(*args: Any, **kwargs: Any) -> Any:
            """Note the call and pass the hidden state on."""
            hidden = captured[owner[path]].add(path, args, kwargs)
            pending.discard(path)
            if not pending:
                raise Reached
            return as_put_out(block, hidden)

        return forward

    with patched_forward(model, {path: recorder(path) for path in owner}):
        for batch in batches if owner else ():
            pending = set(owner)
            try:
                model(**on_device(model, batch))
            except Reached:
                continue
            path = min(pending)
            raise never_called(path, owner[path], batch)
    return captured
