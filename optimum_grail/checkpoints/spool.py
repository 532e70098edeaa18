"""Compressed weights that leave memory before the checkpoint is written: safetensors files, found by accelerate."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import torch
from accelerate.utils import OffloadedWeightsLoader
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from optimum_grail.checkpoints.work_folders import WorkFolder, temporary_folder
from optimum_grail.errors import OutputError

PREFIX = "optimum-grail-weights-"
_NUMBERS = count()


def weights_folder() -> WorkFolder:
    """A new folder for weights below the temporary one; those of processes that were killed are removed first.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        return temporary_folder(PREFIX)
    except OSError as error:
        raise _unwritable(Path(tempfile.gettempdir()), error) from error


class Spool:
    """Takes the weights of modules as they are compressed, in the dtypes of the checkpoint.

    Weights that were in memory stay there; the others go to files of a temporary folder, which disappears with the
    spool and all that read from it.

    Args:
        dtypes: of the checkpoint's tensors, by name.
        main: dtype of tensors that the checkpoint did not have.
        exact: keep the weights as they come until :meth:`settle_`: they will be computed with before.
    """

    def __init__(self, dtypes: Mapping[str, torch.dtype], main: torch.dtype, exact: bool = False) -> None:
        self._dtypes, self._main, self._exact = dtypes, main, exact
        self._folder: WorkFolder | None = None
        self._kept: list[tuple[dict[str, str], torch.dtype]] = []
        self._held: list[tuple[dict[str, Tensor], str, torch.dtype]] = []

    def keep(self, path: str, tensors: Mapping[str, Tensor], in_memory: bool) -> Mapping[str, Tensor]:
        """Take the tensors of the module at ``path``.

        Args:
            path: of the module.
            tensors: by their names in it, on any device.
            in_memory: leave them in the CPU's memory.

        Returns:
            what finds them again.

        Raises:
            OutputError: the temporary folder cannot be written to, or is full.
        """
        dtypes = {name: self._dtype(f"{path}.{name}", tensor) for name, tensor in tensors.items()}
        now = {name: tensor.dtype if self._exact else dtypes[name] for name, tensor in tensors.items()}
        given = {name: tensor.detach().to("cpu", now[name]).contiguous() for name, tensor in tensors.items()}
        if not in_memory:
            return self._written(given, dtypes)
        self._held += [(given, name, dtypes[name]) for name in given]
        return given

    def _dtype(self, name: str, tensor: Tensor) -> torch.dtype:
        return self._dtypes.get(name, self._main) if tensor.is_floating_point() else tensor.dtype

    def _written(self, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> Mapping[str, Tensor]:
        self._folder = self._folder or weights_folder()
        file = self._folder.path / f"{next(_NUMBERS)}.safetensors"
        index = {
            name: {"safetensors_file": str(file), "weight_name": name, "dtype": _word(tensor.dtype)}
            for name, tensor in tensors.items()
        }
        self._kept += [(index[name], dtypes[name]) for name in index]
        try:
            save_file(dict(tensors), file)
        except (OSError, SafetensorError) as error:
            raise _unwritable(file.parent, error) from error
        return _Spooled(index, self._folder)

    def settle_(self) -> None:
        """From now on every tensor is read in the dtype of the checkpoint."""
        for entry, dtype in self._kept:
            entry["dtype"] = _word(dtype)
        for tensors, name, dtype in self._held:
            tensors[name] = tensors[name].to(dtype)


class _Spooled(OffloadedWeightsLoader):
    """A loader that keeps the folder of its files alive."""

    def __init__(self, index: Mapping[str, Mapping[str, str]], folder: WorkFolder) -> None:
        super().__init__(index=index)
        self._folder = folder


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unwritable(folder: Path, error: Exception) -> OutputError:
    return OutputError(
        f"The compressed weights could not be kept in {folder}: {error}. Name another folder with the environment "
        "variable TMPDIR, or load the model into memory (--no-low-memory)."
    )
