"""Both streams behind the last block that is done, where keeping them costs little beside the run.

They are a convenience: without them a resumed run passes the batches through the blocks that are done once more, to the
same end. So what cannot be written, read, or afforded is done without.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optimum_grail.checkpoints.atomic import to_disk
from optimum_grail.checkpoints.block_store import alone
from optimum_grail.errors import CheckpointError
from optimum_grail.streams.blocks import Streams
from optimum_grail.streams.states import States

SHARE = 0.03
"""Most of the wall time so far that goes into writing streams."""
RATE = 2e8
"""Bytes a second that a disk is taken to write before that is known."""
DRAFT = "draft"
Heads = dict[str, str]


@dataclass
class StreamStore:
    """The hidden states of one stack behind one of its blocks, one file per batch; older ones go when newer are there.

    Args:
        folder: where they are, made when needed.
        owner: names the run; those of another are none.
        began: when the run did, in seconds of the performance counter.
        spent: seconds that writing has taken.
        rate: bytes a second, as last seen.
    """

    folder: Path
    owner: str
    began: float = field(default_factory=time.perf_counter)
    spent: float = 0.0
    rate: float = RATE

    def put(self, stack: str, block: str, streams: Streams) -> bool:
        """Write what leaves ``block`` of ``stack``, if that is affordable and can be done; whether it was."""
        sides = {"student": streams.student} | ({} if streams.dense is None else {"dense": streams.dense})
        size = sum(len(side) * side[0].nbytes for side in sides.values() if len(side))
        start = time.perf_counter()
        if self.spent + size / self.rate > SHARE * (start - self.began):
            return False
        try:
            self._write(sides, {"owner": self.owner, "stack": stack, "block": block})
        except (OSError, SafetensorError):
            shutil.rmtree(self.folder / DRAFT, ignore_errors=True)
            return False
        finally:
            taken = time.perf_counter() - start
            self.spent, self.rate = self.spent + taken, max(size / max(taken, 1e-9), 1.0)
        return True

    def _write(self, sides: dict[str, States], head: Heads) -> None:
        draft, older = self.folder / DRAFT, self._kept()
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        count = len(sides["student"])
        for index in range(count):
            states = {name: side[index] for name, side in sides.items()}
            strides = json.dumps({name: state.stride() for name, state in states.items()})
            whole = {name: alone(state) for name, state in states.items()}
            file = draft / f"{index}.safetensors"
            save_file(whole, file, {**head, "count": str(count), "strides": strides})
            to_disk(file)
        number = 1 + max((int(path.name) for path in older), default=0)
        draft.rename(self.folder / str(number))
        to_disk(self.folder)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def read_(self, stack: str, streams: Streams) -> str | None:
        """Put what was kept of ``stack`` into ``streams``; returns the block that it leaves, or ``None`` if there is
        nothing of that stack that can be used: ``streams`` is as it was then.

        Raises:
            CheckpointError: a file changed while it was read.
        """
        for folder in self._kept():
            found = None
            with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
                found = self._block(folder, stack, streams)
            if found is not None:
                self._load_(folder, streams)
                return found
        return None

    def _block(self, folder: Path, stack: str, streams: Streams) -> str | None:
        """The block, after comparing all files with the streams that enter the stack."""
        sides = {"student": streams.student} | ({} if streams.dense is None else {"dense": streams.dense})
        blocks = set()
        for index in range(len(streams.student)):
            with safe_open(folder / f"{index}.safetensors", framework="pt") as file:
                head: Heads = file.metadata()
                if (head["owner"], head["stack"], head["count"]) != (self.owner, stack, str(len(streams.student))):
                    return None
                blocks.add(head["block"])
                strides = json.loads(head["strides"])
                for name, side in sides.items():
                    shape, entering = file.get_slice(name).get_shape(), side[index]
                    if len(shape) != entering.dim() or shape[0] != len(entering) or not _fill(shape, strides[name]):
                        return None
        return blocks.pop() if len(blocks) == 1 else None

    def _load_(self, folder: Path, streams: Streams) -> None:
        try:
            for index in range(len(streams.student)):
                with safe_open(folder / f"{index}.safetensors", framework="pt") as file:
                    strides = json.loads(file.metadata()["strides"])
                    streams.student[index] = _laid_out(file.get_tensor("student"), strides["student"], streams.student)
                    if streams.dense is not None:
                        streams.dense[index] = _laid_out(file.get_tensor("dense"), strides["dense"], streams.dense)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"The streams in {str(folder)!r} cannot be read: {error}. Delete them.") from error

    def _kept(self) -> list[Path]:
        """Complete ones, the newest first."""
        return sorted(self._numbered(), key=lambda path: -int(path.name))

    def _numbered(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if path.name.isascii() and path.name.isdigit())


def _fill(shape: list[int], strides: list[int]) -> bool:
    """Whether these strides lay a tensor of that shape out without gaps or overlaps: some order of its axes."""
    if len(shape) != len(strides) or not all(type(step) is int and step > 0 for step in strides):
        return False
    step = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _laid_out(state: Tensor, strides: list[int], beside: States) -> Tensor:
    """``state`` in memory of its own, its axes in the order that they had: kernels may add up in another order
    otherwise."""
    found = torch.empty_strided(state.shape, strides, dtype=state.dtype)
    return found.copy_(state).to(beside[0].device)
