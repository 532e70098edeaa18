"""Both streams behind a block of a stack, in files: what a fit needs, beside the blocks before, to go on from there."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optimum_grail.checkpoints.atomic import is_full, to_disk
from optimum_grail.checkpoints.block_store import alone
from optimum_grail.errors import CheckpointError, OutputError
from optimum_grail.streams.blocks import Streams
from optimum_grail.streams.states import States

DRAFT = "draft"


@dataclass(frozen=True)
class StreamStore:
    """The hidden states of every stack behind one of its blocks, a file per batch; older ones go once newer are there.

    Args:
        folder: where they are, made when needed.
        owner: names the run; those of another are none.
        room: what to do where the disk is full.
    """

    folder: Path
    owner: str
    room: str

    def put(self, stack: str, block: str, streams: Streams) -> None:
        """Write what leaves ``block`` of ``stack``.

        Raises:
            OutputError: it cannot be written; what was written before is still there.
        """
        draft = self._of(stack) / DRAFT
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self._write(draft, {"owner": self.owner, "stack": stack, "block": block}, streams)
            older = self._kept(stack)
            draft.rename(draft.with_name(str(1 + max((int(path.name) for path in older), default=0))))
            to_disk(draft.parent)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            reason = "the disk is full" if is_full(error) else str(error)
            raise OutputError(f"The streams cannot be kept in {str(self.folder)!r}: {reason}. {self.room}") from error
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def forget(self, stack: str) -> None:
        """Remove what was kept of ``stack``."""
        shutil.rmtree(self._of(stack), ignore_errors=True)

    def _write(self, folder: Path, head: dict[str, str], streams: Streams) -> None:
        sides = _sides(streams)
        for index in range(len(streams.student)):
            states = {name: side[index] for name, side in sides.items()}
            strides = json.dumps({name: state.stride() for name, state in states.items()})
            file = folder / f"{index}.safetensors"
            whole = {name: alone(state) for name, state in states.items()}
            save_file(whole, file, {**head, "count": str(len(streams.student)), "strides": strides})
            to_disk(file)

    def read_(self, stack: str, streams: Streams) -> str | None:
        """Put what was kept of ``stack`` into ``streams``; returns the block that it leaves, or ``None`` where nothing
        that was kept can be used, and ``streams`` is as it was.

        Raises:
            CheckpointError: a file changed while it was read.
        """
        for folder in self._kept(stack):
            found = None
            with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
                found = self._block(folder, stack, streams)
            if found is not None:
                self._load_(folder, streams)
                return found
        return None

    def _block(self, folder: Path, stack: str, streams: Streams) -> str | None:
        """The block, after comparing all files with the streams that enter the stack."""
        blocks, count = set[str](), len(streams.student)
        for index in range(count):
            with safe_open(folder / f"{index}.safetensors", framework="pt") as file:
                head = file.metadata()
                if (head["owner"], head["stack"], head["count"]) != (self.owner, stack, str(count)):
                    return None
                blocks.add(head["block"])
                strides = json.loads(head["strides"])
                for name, side in _sides(streams).items():
                    shape, entering = file.get_slice(name).get_shape(), side[index]
                    if len(shape) != entering.dim() or shape[0] != len(entering) or not _fill(shape, strides[name]):
                        return None
        return blocks.pop() if len(blocks) == 1 else None

    def _load_(self, folder: Path, streams: Streams) -> None:
        try:
            for index in range(len(streams.student)):
                with safe_open(folder / f"{index}.safetensors", framework="pt") as file:
                    strides = json.loads(file.metadata()["strides"])
                    for name, side in _sides(streams).items():
                        side[index] = _laid_out(file.get_tensor(name), strides[name], side[index])
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(f"The streams in {str(folder)!r} cannot be read: {error}. Delete them.") from error

    def _of(self, stack: str) -> Path:
        return self.folder / (quote(stack, safe="").replace(".", "%2E") or "stack")

    def _kept(self, stack: str) -> list[Path]:
        """Complete ones, the newest first."""
        home = self._of(stack)
        found = (
            [path for path in home.iterdir() if path.name.isascii() and path.name.isdigit()] if home.is_dir() else []
        )
        return sorted(found, key=lambda path: -int(path.name))


def _sides(streams: Streams) -> dict[str, States]:
    return {"student": streams.student} | ({} if streams.dense is None else {"dense": streams.dense})


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


def _laid_out(state: Tensor, strides: list[int], entering: Tensor) -> Tensor:
    """``state`` in memory of its own, its axes in the order that they had: kernels may add up in another order
    otherwise. On the device and in the dtype of what entered the stack."""
    if state.dtype != entering.dtype:
        raise ValueError(f"a state is {state.dtype}, expected {entering.dtype}")
    return torch.empty_strided(state.shape, strides, dtype=state.dtype).copy_(state).to(entering.device)
