"""What entered a consumer, kept so that the part of a block that leads to it need not run again.

A block runs several times over the data: for the statistics of each of its groups, and at last to move the stream on.
What is compressed in between lies behind the first consumer: its features stay what they were, less those that went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.reduction import Reduction
from optimum_grail.models.matrix import feature_axis
from optimum_grail.streams.calls import Call
from optimum_grail.streams.hooks import first, given, hooked, patched_forward
from optimum_grail.streams.probe import unrolled
from optimum_grail.streams.states import OffloadedStates, States

WIDEST = 2
"""Features that are kept are at most so many times as wide as the hidden state: those of attention are, those of a
feed-forward layer are not."""


@dataclass(frozen=True)
class Shortcut:
    """A module inside a block that can be passed by once what enters a consumer is known.

    Args:
        path: of the module, inside the block.
        consumer: of the consumer, inside the block.
        behind: whether the module puts out what the consumer puts out; else what enters it.
        parts: things in the tuple that it puts out, the first of them the tensor, the others ``None``; 0: no tuple.
        flat: whether the tokens of all samples enter the consumer one behind the other, ``[B·T, F]``.
    """

    path: str
    consumer: str
    behind: bool
    parts: int
    flat: bool = False

    def forward(self, block: nn.Module, features: Tensor) -> Callable[..., Any]:
        """What stands in for the module's forward."""
        consumer = block.get_submodule(self.consumer)
        features = features.flatten(0, -2) if self.flat else features

        def known(*args: Any, **kwargs: Any) -> Any:
            """The consumer on the known features, or the features themselves."""
            found = consumer(features) if self.behind else features.clone()
            return (found, *[None] * (self.parts - 1)) if self.parts else found

        return known


@torch.no_grad()
def find_shortcut(block: nn.Module, consumer: str, call: Call, hidden: Tensor) -> Shortcut | None:
    """The largest module of ``block`` that can be passed by; ``None`` if there is none. Runs the block once.

    Args:
        block: as it is called on the data.
        consumer: path inside the block.
        call: one batch's.
        hidden: that batch's hidden state.
    """
    entered: list[tuple[Tensor, Tensor]] = []
    left: dict[str, tuple[Any, Tensor]] = {}

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what enters the consumer, and its values."""
        entered.append((given(args, kwargs), given(args, kwargs).clone()))

    def leave(path: str) -> Callable[..., None]:
        """A hook that keeps what a module puts out, and its values."""

        def hook(_: nn.Module, args: object, output: Any) -> None:
            """Later steps may change the tensor in place."""
            if isinstance(first(output), Tensor):
                left[path] = output, first(output).clone()

        return hook

    inner = [(module, leave(path)) for path, module in block.named_modules() if path]
    with hooked(before=[(block.get_submodule(consumer), enter)], after=inner):
        call.run(block, hidden.clone())
    if len(entered) != 1 or consumer not in left:
        return None
    flat = unrolled(entered[0][0], hidden.shape[:-1]) is not entered[0][0]
    for path, (output, values) in reversed(left.items()):  # the outermost modules end last
        parts = len(output) if isinstance(output, tuple) else 0
        if parts > 1 and any(part is not None for part in output[1:]):
            continue
        tensor, inside = first(output), consumer.startswith(f"{path}.")
        if inside and tensor is first(left[consumer][0]) and torch.equal(values, left[consumer][1]):
            return Shortcut(path, consumer, True, parts, flat)
        small = isinstance(block.get_submodule(path), _SMALL)
        if not small and tensor is entered[0][0] and torch.equal(values, entered[0][1]):
            return Shortcut(path, consumer, False, parts, flat)
    return None


_SMALL = (nn.Linear, nn.Dropout, nn.Identity)
"""Modules that are not worth a shortcut, or whose weights may be those that are compressed."""


@dataclass
class Shortcuts:
    """Those of one block, with the features of its consumers.

    Args:
        block: the student's.
        path: of the block in the model.
        offloaded: whether features are kept in files.
        found: by consumer; looked for where missing.
        kept: features by group's name, a batch each, as long as they are not settled.
        columns: of settled groups, the features that are left, int64, or ``None`` for all.
    """

    block: nn.Module
    path: str
    offloaded: bool
    found: dict[str, Shortcut | None] = field(default_factory=dict)
    kept: dict[str, States] = field(default_factory=dict)
    columns: dict[str, tuple[Shortcut, Tensor | None]] = field(default_factory=dict)

    def worthwhile(self, groups: Sequence[ChannelGroup], call: Call, hidden: Tensor) -> list[ChannelGroup]:
        """Those of the groups of one stage whose features nothing of this stage changes, and that are not too wide:
        time is not bought with more memory than the streams take."""
        if not groups:
            return []
        stage = min(group.stage for group in groups)
        return [group for group in groups if group.stage == stage and self._shortcut(group, call, hidden) is not None]

    def _shortcut(self, group: ChannelGroup, call: Call, hidden: Tensor) -> Shortcut | None:
        local = self._local(group)
        features = group.units * group.consumer.span
        module = self.block.get_submodule(local)
        if features > WIDEST * hidden.shape[feature_axis(module)]:
            return None
        if local not in self.found:
            self.found[local] = find_shortcut(self.block, local, call, hidden)
        return self.found[local]

    def keep(self, group: ChannelGroup, features: Tensor) -> None:
        """Keep what entered the consumer on the next batch."""
        states = self.kept.setdefault(group.name, OffloadedStates() if self.offloaded else [])
        states.append(features)

    def settle(self, group: ChannelGroup, reduction: Reduction | None) -> None:
        """From now on runs of the block may use the group's features.

        Args:
            group: one whose features were kept, or not.
            reduction: what was done to it since; ``None``: nothing. Where units were not just selected, the features
                are not what will enter the consumer, and are given up.
        """
        shortcut, columns = self.found.get(self._local(group)), None
        if reduction is not None and reduction.is_selection and reduction.slots:
            span = group.consumer.span
            columns = (reduction.kept[:, None] * span + torch.arange(span)).flatten()
        if shortcut is None or (reduction is not None and columns is None):
            self.kept.pop(group.name, None)
        elif group.name in self.kept:
            self.columns[group.name] = shortcut, columns

    @contextmanager
    def taken(self, index: int) -> Iterator[None]:
        """Runs of the block on batch ``index`` pass by what leads to the settled groups' consumers."""
        with ExitStack() as stack:
            for name, (shortcut, columns) in self.columns.items():
                features = self.kept[name][index]
                if columns is not None:
                    axis = feature_axis(self.block.get_submodule(shortcut.consumer))
                    features = features.index_select(axis, columns.to(features.device))
                known = shortcut.forward(self.block, features)
                stack.enter_context(patched_forward(self.block, {shortcut.path: known}))
            yield

    def _local(self, group: ChannelGroup) -> str:
        return group.consumer.module.removeprefix(self.path + ".")
