"""Statistics in files: what was measured of a wide group, read when a method looks at it and let go of afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimum_grail.checkpoints.work_folders import WorkFolder
from optimum_grail.core.moments import Moments, Subset, TargetMoments
from optimum_grail.errors import OutputError
from optimum_grail.streams.states import new_folder

LARGE = 2**26
"""Bytes of second moments from which on they go to files."""
_NUMBERS = count()


class FiledSubsets(Sequence[Subset]):
    """Subsets in files of a temporary folder that goes with them; each is read whenever it is looked at.

    Args:
        subsets: taken one at a time, so that the first are in files before the next are asked for.

    Raises:
        OutputError: the folder cannot be written to, or somebody else removed what was in it.
    """

    def __init__(self, subsets: Iterable[Subset]) -> None:
        self._folder: WorkFolder = new_folder()
        self._files: list[tuple[Path, int, torch.device]] = []
        for subset in subsets:
            self._files.append(self._written(subset))

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Subset]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        path, rows, device = self._files[index]
        try:
            tensors = load_file(path, device=str(device))
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"The statistics in {path.parent} were removed by somebody else while they were needed ({error}). Name "
                "another folder with the environment variable TMPDIR."
            ) from error
        moments = Moments(rows, tensors["total"], tensors["gram"], _target(tensors, "offset"))
        return Subset(moments, _target(tensors, "target"))

    def _written(self, subset: Subset) -> tuple[Path, int, torch.device]:
        moments, path = subset.moments, self._folder.path / f"{next(_NUMBERS)}.safetensors"
        tensors = {"total": moments.total, "gram": moments.gram}
        for name, target in (("offset", moments.offset), ("target", subset.target)):
            if target is not None:
                tensors |= {f"{name}.{part}": value for part, value in vars(target).items()}
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"The statistics could not be kept in {path.parent}: {error}. Name another folder with the environment "
                "variable TMPDIR, or load the model into memory (--no-low-memory)."
            ) from error
        return path, moments.count, moments.gram.device


def _target(tensors: dict[str, Tensor], name: str) -> TargetMoments | None:
    parts = {part: tensors.get(f"{name}.{part}") for part in ("total", "cross", "energy")}
    total, cross, energy = parts["total"], parts["cross"], parts["energy"]
    if total is None or cross is None or energy is None:
        return None
    return TargetMoments(total, cross, energy)
