"""Finished blocks in files: one safetensors file each, under the block's path, complete or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.errors import CheckpointError, OutputError

ENDING = ".safetensors"


@dataclass(frozen=True)
class BlockStore:
    """Tensors and notes by the path of a block. Nothing that was written is ever changed.

    Args:
        folder: where the files are; it is made when the first of them is written.
        owner: names what the blocks belong to; of files with another owner none is read.
        remedy: what to do where a file is damaged.
        room: what to do where the disk is full.
    """

    folder: Path
    owner: str
    remedy: str = "Restore the file."
    room: str = "Free some space."

    def __contains__(self, path: object) -> bool:
        """Whether the block at ``path`` is there."""
        return isinstance(path, str) and self._file(path).is_file()

    def __len__(self) -> int:
        """How many blocks are there."""
        return sum(1 for _ in self.folder.glob(f"*{ENDING}"))

    def put(self, path: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write a block; it is on the disk when this returns.

        Args:
            path: of the block in its model.
            tensors: on any device, of any dtype, by any name.
            notes: JSON values.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        whole = {name: alone(tensor) for name, tensor in tensors.items()}
        head = {"block": path, "owner": self.owner, "notes": json.dumps(notes)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file(path), lambda draft: save_file(whole, draft, head), self.room)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"Block {path!r} cannot be written to {str(self.folder)!r}: {error}.") from error

    def notes(self, path: str) -> dict[str, Any]:
        """The notes of a block: JSON values, which anyone may have written.

        Raises:
            CheckpointError: the file is missing, damaged, or belongs to something else.
        """
        with self._opened(path) as file:
            found = json.loads(file.metadata()["notes"])
        if not isinstance(found, dict):
            raise self._damaged(path, "its notes are no JSON object")
        return found

    def shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """The shapes of a block's tensors, by name; none is read.

        Raises:
            CheckpointError: as :meth:`notes`.
        """
        with self._opened(path) as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read(self, path: str, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of a block's tensors, on the CPU. Compare :meth:`shapes` with what is expected first.

        Raises:
            CheckpointError: as :meth:`notes`, or a tensor is missing.
        """
        with self._opened(path) as file:
            return {name: file.get_tensor(name) for name in names}

    def _file(self, path: str) -> Path:
        return self.folder / (quote(path, safe="") + ENDING)

    @contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        try:
            with safe_open(self._file(path), framework="pt") as file:
                head = file.metadata() or {}
                if (head.get("block"), head.get("owner")) != (path, self.owner):
                    raise self._damaged(path, "it belongs to another block or run")
                yield file
        except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise self._damaged(path, str(error)) from error

    def _damaged(self, path: str, reason: str) -> CheckpointError:
        return CheckpointError(f"{str(self._file(path))!r} cannot be read as block {path!r}: {reason}. {self.remedy}")


def alone(tensor: Tensor) -> Tensor:
    """``tensor`` on the CPU, contiguous, in memory that it shares with no other."""
    found = tensor.detach().cpu().contiguous()
    return found.clone() if found.untyped_storage().nbytes() != found.nbytes else found
