"""The hidden states of a stream, one tensor per batch: in memory as a plain list, or in files of a temporary folder."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, MutableSequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimum_grail.checkpoints.work_folders import WorkFolder, temporary_folder
from optimum_grail.errors import OutputError

PREFIX = "optimum-grail-"
_NUMBERS = count()


class _File:
    """One tensor on disk; the file goes with the last stream that refers to it."""

    def __init__(self, path: Path, tensor: Tensor) -> None:
        self.path = path
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        try:
            path.write_bytes(_bytes(tensor.detach().cpu().contiguous()))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _unwritable(path.parent, error) from error
        weakref.finalize(self, path.unlink, missing_ok=True)

    def read(self) -> Tensor:
        """A copy of the tensor, on the device where it was."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                count = file.readinto(_bytes(tensor))
        except OSError:
            count = None
        if count != tensor.nbytes:
            raise OutputError(
                f"The calibration streams in {self.path.parent} were removed or cut off by somebody else while they "
                "were needed. Name another folder with the environment variable TMPDIR, or leave --offload-streams out."
            )
        return tensor.to(self.device)


class OffloadedStates(MutableSequence[Tensor]):
    """Hidden states in files: what is read is a copy, what is set is written at once. Copies share the files.

    Args:
        states: tensors to begin with.
        folder: where the files go; by default a new temporary folder, which disappears with the last copy. Those of
            processes that were killed are removed first.

    Raises:
        OutputError: the folder cannot be written to, or somebody else removed what was in it.
    """

    def __init__(self, states: Iterable[Tensor] = (), folder: WorkFolder | None = None) -> None:
        self._folder = folder or new_folder()
        self._files: list[_File] = []
        self.extend(states)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return self._files[index].read()

    def __setitem__(self, index: Any, state: Any) -> None:
        self._files[index] = self._write(state)

    def __delitem__(self, index: Any) -> None:
        del self._files[index]

    def insert(self, index: int, value: Tensor) -> None:
        """Write ``value`` and refer to it at ``index``."""
        self._files.insert(index, self._write(value))

    def copy(self) -> OffloadedStates:
        """The same states; setting one of the copy's leaves this sequence as it is."""
        found = OffloadedStates(folder=self._folder)
        found._files = list(self._files)
        return found

    def shares(self, other: OffloadedStates, index: int) -> bool:
        """Whether both refer to one file at ``index``."""
        return self._files[index] is other._files[index]

    def _write(self, state: Tensor) -> _File:
        return _File(self._folder.path / f"{next(_NUMBERS)}.bin", state)


def new_folder() -> WorkFolder:
    """A new temporary folder; those of processes that were killed are removed first.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        return temporary_folder(PREFIX)
    except OSError as error:
        raise _unwritable(Path(tempfile.gettempdir()), error) from error


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The calibration streams could not be kept in {folder}: {error.strerror or error}. Name another folder with "
        "the environment variable TMPDIR, or leave --offload-streams out."
    )


States = list[Tensor] | OffloadedStates
"""What a stream is kept in."""


def is_same(one: States, other: States, index: int) -> bool:
    """Whether both sequences hold one and the same state at ``index``, not just an equal one."""
    if isinstance(one, OffloadedStates) and isinstance(other, OffloadedStates):
        return one.shares(other, index)
    return one[index] is other[index]


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.flatten().view(torch.uint8).numpy().data
