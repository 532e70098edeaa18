"""What does not depend on the sparsity, measured once: in memory for one process, in a folder for the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from optimum_grail.errors import OutputError

Tensors = Mapping[str, Tensor]
_KEY = "key"


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's class, and of names, types, shapes and values of its parameters and buffers."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class StatisticsCache:
    """Named tensors of one dense model, by everything they depend on.

    Args:
        model: :func:`fingerprint` of the dense model.
        folder: where they outlive the process, one safetensors file each; ``None``: nowhere.
    """

    model: str
    folder: Path | None = None
    _held: dict[str, Tensors] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, folder: str | Path | None = None) -> StatisticsCache:
        """The cache of ``model``; ``folder`` is made if it does not exist.

        Raises:
            OutputError: the folder cannot be made.
        """
        path = None if folder is None else Path(folder)
        if path is not None:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"Cannot make the folder {str(path)!r}: {error}. Name another --stats-cache."
                ) from error
        return cls(fingerprint(model), path)

    def get(self, kind: str, depends: Mapping[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """The tensors ``kind``, computed if they are not there.

        Args:
            kind: what they are, for the file's name.
            depends: JSON values: everything but the model that they depend on.
            compute: makes them.

        A file that is damaged, or that belongs to something else, is written anew.

        Raises:
            OutputError: the folder cannot be written.
        """
        key = json.dumps({"model": self.model, "kind": kind, **depends}, sort_keys=True)
        if key not in self._held:
            found = self._read(kind, key)
            if found is None:
                found = compute()
                self._write(kind, key, found)
            self._held[key] = found
        return self._held[key]

    def _path(self, kind: str, key: str) -> Path | None:
        name = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        return None if self.folder is None else self.folder / name

    def _read(self, kind: str, key: str) -> Tensors | None:
        path = self._path(kind, key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get(_KEY) != key:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def _write(self, kind: str, key: str, tensors: Tensors) -> None:
        path = self._path(kind, key)
        if path is None:
            return
        draft = path.with_suffix(".part")
        try:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, draft, {_KEY: key})
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {str(path)!r}: {error}. Name another --stats-cache.") from error
