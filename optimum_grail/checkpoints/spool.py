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

from optimum_grail.checkpoints.work_folders import WorkFolder, remove_abandoned
from optimum_grail.errors import OutputError

PREFIX = "optimum-grail-weights-"
_NUMBERS = count()


def weights_folder() -> WorkFolder:
    """A new folder for weights below the temporary one; those of processes that were killed are removed first.

    Raises:
        OutputError: it cannot be made.
    """
    place = tempfile.gettempdir()
    remove_abandoned(place, PREFIX)
    try:
        return WorkFolder(place, PREFIX)
    except OSError as error:
        raise _unwritable(Path(place), error) from error


class Spool:
    """Takes the weights of modules as they are compressed, in the dtypes of the checkpoint.

    The folder disappears with the spool and all that read from it.

    Args:
        dtypes: of the checkpoint's tensors, by name.
        main: dtype of tensors that the checkpoint did not have.
        exact: keep the weights as they come until :meth:`settle_`: they will be computed with before.
    """

    def __init__(self, dtypes: Mapping[str, torch.dtype], main: torch.dtype, exact: bool = False) -> None:
        self._dtypes, self._main, self._exact = dtypes, main, exact
        self._folder: WorkFolder | None = None
        self._kept: list[tuple[dict[str, str], torch.dtype]] = []

    def keep(self, path: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Write the tensors of the module at ``path``, and return what reads them again.

        Raises:
            OutputError: the temporary folder cannot be written to, or is full.
        """
        self._folder = self._folder or weights_folder()
        file = self._folder.path / f"{next(_NUMBERS)}.safetensors"
        index: dict[str, dict[str, str]] = {}
        written: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            final = self._dtypes.get(f"{path}.{name}", self._main) if tensor.is_floating_point() else tensor.dtype
            now = tensor.dtype if self._exact else final
            written[name] = tensor.detach().to("cpu", now).contiguous()
            index[name] = {"safetensors_file": str(file), "weight_name": name, "dtype": _word(now)}
            self._kept.append((index[name], final))
        try:
            save_file(written, file)
        except (OSError, SafetensorError) as error:
            raise _unwritable(file.parent, error) from error
        return _Spooled(index, self._folder)

    def settle_(self) -> None:
        """From now on every tensor is read in the dtype of the checkpoint."""
        for entry, dtype in self._kept:
            entry["dtype"] = _word(dtype)


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
