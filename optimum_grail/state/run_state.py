"""The state of one run: written as it goes along, read by the run that goes on with it.

What was measured, and every block, is written once and stays. The hidden states behind the last of these blocks go with
them, and replace those that were kept before: a resumed run begins there. Blocks and hidden states are written as soon
as that costs little beside the run (:mod:`optimum_grail.state.budget`, ``docs/adr/0013``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.checkpoints.block_store import BlockStore
from optimum_grail.checkpoints.output import PREFIX
from optimum_grail.checkpoints.work_folders import Hold
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan
from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.models.layout import Stack
from optimum_grail.models.residence import resident
from optimum_grail.models.restoring import fitted_tensors, restore_
from optimum_grail.report.progress import Progress
from optimum_grail.state.budget import Budget
from optimum_grail.state.folder import new_state, report_mark
from optimum_grail.state.header import REMEDY, Header
from optimum_grail.state.identity import differences, digest
from optimum_grail.state.plans import notes_of, plans_from, tensors_of
from optimum_grail.state.streams import StreamStore
from optimum_grail.streams.blocks import Streams
from optimum_grail.survey.cache import StatisticsCache, Tensors

BLOCKS, MEASURED, STREAMS = "blocks", "measured", "streams"
"""Folders of a state: the blocks that are done; what was measured of the dense model, its own text included; the hidden
states behind the last of these blocks."""
Judge = Callable[[Mapping[str, int], Sequence[str]], float]
"""``(units per group, dropped blocks) -> loss``."""
DAMAGED = "Delete the state's folder and begin anew."


@dataclass(frozen=True)
class _Done:
    """A block that is done and not written yet.

    Args:
        path: of the block.
        plans: what was done to it.
        stack: name of its stack.
        last: whether nothing asks for what leaves it.
    """

    path: str
    plans: Sequence[GroupPlan]
    stack: str
    last: bool

    def size(self, model: nn.Module) -> int:
        """Bytes of what the fit has set in it."""
        return sum(tensor.nbytes for tensor in fitted_tensors(model, self.plans).values())

    def fitted(self, model: nn.Module) -> dict[str, Tensor]:
        """What the fit has set in it; read from files where the block's weights have gone there meanwhile."""
        with resident(model, self.path):
            found = fitted_tensors(model, self.plans)
            return {name: tensor.detach() for name, tensor in found.items()}


class RunState:
    """A run into one output, so far. On the disk there is nothing of it before there is something to keep.

    Args:
        output: the folder to be, absolute.
        header: what the run is.
        hold: on the state of an interrupted run; ``None``: this run has none yet.
        progress: told what becomes of the state where the run ends early.
    """

    def __init__(self, output: Path, header: Header, hold: Hold | None, progress: Progress) -> None:
        self.output = output
        self.header = header
        self.clock: Callable[[], Mapping[str, float]] = lambda: header.seconds
        self._hold = hold
        self._progress = progress
        self._budget = Budget()
        self._pending = list[_Done]()
        known = None if hold is None else hold.folder / MEASURED
        self._cache = StatisticsCache(digest(header.identity), known, REMEDY)

    @property
    def folder(self) -> Path | None:
        """Where it is; ``None`` as long as there is nothing to keep."""
        return None if self._hold is None else self._hold.folder

    @property
    def blocks(self) -> BlockStore:
        """The blocks that are done.

        Raises:
            OutputError: the state's folder cannot be made.
        """
        owner = digest({**self.header.identity, **self.header.data})
        return BlockStore(self._made() / BLOCKS, owner, DAMAGED, REMEDY)

    def recognise(self, data: Mapping[str, Any]) -> None:
        """Compare what became known of this run with its data with what the interrupted run knew.

        Args:
            data: JSON values, as of :func:`optimum_grail.survey.cache.dependencies`.

        Raises:
            CheckpointError: it was another run; the message names what differs.
        """
        if self.header.data and (found := differences(self.header.data, data)):
            raise refusal(self.folder, found)
        self.header = replace(self.header, data=data)
        if self._hold is not None:
            self._note()

    def get(self, kind: str, depends: Mapping[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """A measurement of the dense model, as :meth:`optimum_grail.survey.cache.StatisticsCache.get`."""

        def measured() -> Tensors:
            """Measure, and see to it that there is a place to keep it."""
            found = compute()
            self._cache.folder = self._made() / MEASURED
            self._note()
            return found

        return self._cache.get(kind, depends, measured)

    def remembered(self, judge: Judge) -> Judge:
        """``judge``, asked only where no run before this one was told what it says."""

        def recall(kept: Mapping[str, int], dropped: Sequence[str]) -> float:
            """The loss of some widths."""
            depends = {"kept": dict(kept), "dropped": list(dropped), "data": self.header.data}
            loss = self.get(
                "rehearsal", depends, lambda: {"loss": torch.tensor(judge(kept, dropped), dtype=torch.float64)}
            )
            return float(loss["loss"])

        return recall

    def done_(self, stack: Stack, streams: Streams | None) -> Collection[str]:
        """Blocks that need not be passed any more, see :class:`optimum_grail.fit.record.Record`."""
        if self._hold is None:
            return ()
        known = [path for path in stack.blocks if path in self.blocks]
        if streams is None:
            return known
        if known and self.blocks.notes(known[-1]).get("last") is True:
            streams.part()
            return stack.blocks
        block = self._streams.read_(stack.name, streams)
        return stack.blocks[: stack.blocks.index(block) + 1] if block in known else ()

    def restore_(self, model: nn.Module, path: str, groups: Sequence[ChannelGroup]) -> list[GroupPlan]:
        """Make the dense block at ``path`` what it was, see :class:`optimum_grail.fit.record.Record`."""
        plans = plans_from(self.blocks, path, groups)
        restore_(model, plans, partial(self._fitted, path))
        return plans

    def _fitted(self, path: str, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = self.blocks.shapes(path)
        for name, place in places.items():
            if shapes.get(name) != tuple(place.shape):
                raise CheckpointError(
                    f"What was kept of block {path!r} cannot be used: {name} has shape {shapes.get(name)}, expected "
                    f"{tuple(place.shape)}. {DAMAGED}"
                )
        return self.blocks.read(path, places)

    def keep(
        self,
        model: nn.Module,
        stack: Stack,
        path: str,
        plans: Sequence[GroupPlan],
        streams: Streams | None,
        last: bool,
    ) -> None:
        """Keep the block at ``path`` and what leaves it, as soon as that costs little beside the run so far, see
        :class:`optimum_grail.fit.record.Record`."""
        if not plans:
            return
        self._pending.append(_Done(path, plans, stack.name, last))
        moving = None if last else streams
        size = sum(done.size(model) for done in self._pending)
        size += 0 if moving is None else moving.nbytes
        if not self._budget.allows(size):
            return
        with self._budget.spending(size):
            for done in self._pending:
                tensors = {**done.fitted(model), **tensors_of(done.plans)}
                self.blocks.put(done.path, tensors, {"plans": notes_of(done.plans), "last": done.last})
            if moving is not None:
                self._streams.put(stack.name, path, moving)
            for done in self._pending:
                if done.last:  # nothing asks for its stack's streams any more
                    self._streams.forget(done.stack)
            self._pending.clear()
            self._note()

    @property
    def _streams(self) -> StreamStore:
        return StreamStore(self._made() / STREAMS, self.blocks.owner, REMEDY)

    def announce(self, folder: Path) -> None:
        """The finished checkpoint in ``folder`` is about to be put in the output's place."""
        if self._hold is not None:
            self.header = replace(self.header, written=report_mark(folder))
            self._note()

    def is_of(self, output: str | Path) -> bool:
        """Whether ``output`` is the folder that the run is to write."""
        return Path(output).expanduser().resolve() == self.output

    def end(self) -> None:
        """The checkpoint is in its place: the state has done its work."""
        if self._hold is not None:
            self._hold.discard(PREFIX)
            self._hold = None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Whatever ends the body before its time, what was kept is told of, and others may go on with it."""
        try:
            yield
        except BaseException:
            if self._hold is not None:
                self._progress.finish()
                self._progress.message(f"Kept in {self.folder}: {self.reached()}. Go on with --resume (resume=True).")
            raise
        finally:
            if self._hold is not None:
                self._hold.release()

    def reached(self) -> str:
        """How far the run got, in words."""
        done = len(self.blocks)
        return f"{done} compressed block{'s' * (done != 1)}" if done else "what was measured before the first block"

    def _note(self) -> None:
        self.header = replace(self.header, seconds=dict(self.clock()))
        self.header.write(self._made())

    def _made(self) -> Path:
        """The folder, made if there is none yet."""
        if self._hold is None:
            try:
                self._hold = new_state(self.output)
            except OSError as error:
                raise OutputError(f"No state can be kept beside {str(self.output)!r}: {error}.") from error
            self._note()
        return self._hold.folder


def refusal(folder: Path | None, found: Sequence[str]) -> CheckpointError:
    """The error for a state of another run; ``found``: what differs, in words."""
    named = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
    return CheckpointError(
        f"The state {str(folder)!r} belongs to another run: {named}. It is left as it is: give that back to go on with "
        "it, or begin anew without --resume."
    )
