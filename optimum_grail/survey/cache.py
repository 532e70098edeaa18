"""Cache of measurements that do not depend on the sparsity: in memory, and in a folder for later processes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.data.batches import LABELS, Batch, digest
from optimum_grail.errors import OutputError
from optimum_grail.models.layout import Layout
from optimum_grail.models.residence import device_of, values_of
from optimum_grail.report.environment import versions
from optimum_grail.survey.signature import signature

Tensors = Mapping[str, Tensor]
_KEY = "key"


def fingerprint(model: nn.Module) -> str:
    """A hash of everything that decides what a model puts out: names, types, shapes and values of its parameters and
    buffers, its configuration, and the classes and settings of its modules."""
    state = hashlib.sha256(_architecture(model))
    _add_values(state, model)
    return state.hexdigest()


def fingerprints(model: nn.Module) -> dict[str, str]:
    """The two halves of :func:`fingerprint`, so that it can be told which of them differs: the ``architecture``, and
    the ``weights``, which the values of buffers count as."""
    weights = hashlib.sha256()
    _add_values(weights, model)
    return {"architecture": hashlib.sha256(_architecture(model)).hexdigest(), "weights": weights.hexdigest()}


def _architecture(model: nn.Module) -> bytes:
    return json.dumps([_config(model), repr(model), _sources(model)]).encode()


def _add_values(state: hashlib._Hash, model: nn.Module) -> None:
    known = {name: _value(tensor) for name, tensor in values_of(model)}  # one at a time: they may be in files
    for name in sorted(known):
        state.update(f"{name} {known[name]}".encode())


def _value(tensor: Tensor) -> str:
    values = hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{tensor.dtype} {tuple(tensor.shape)} {values.hexdigest()}"


def _config(model: nn.Module) -> Any:
    """The config as JSON values without the model's path, but with its attention implementation."""
    if not isinstance(model, PreTrainedModel):
        return None
    values = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    return json.loads(json.dumps([values, model.config._attn_implementation], sort_keys=True, default=str))


def _sources(model: nn.Module) -> dict[str, str]:
    """Of every class of modules a hash of the file it stands in, or of its methods if there is none."""
    found = {}
    for kind in {type(module) for module in model.modules()}:
        try:
            found[f"{kind.__module__}.{kind.__qualname__}"] = _hashed(inspect.getsourcefile(kind) or "")
        except (OSError, TypeError):
            found[f"{kind.__module__}.{kind.__qualname__}"] = signature(kind)
    return dict(sorted(found.items()))


@functools.cache
def _hashed(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def dependencies(model: nn.Module, layout: Layout, batches: Sequence[Batch]) -> dict[str, Any]:
    """JSON values: what every measurement of a dense model depends on beside the model itself.

    Args:
        model: as it is measured: with biases added, in the dtype and on the device of the run.
        layout: of ``model``; the architecture maps are part of it.
        batches: calibration batches; their inputs, labels, splits, sources and order count.
    """
    data = [batch.inputs | ({} if batch.labels is None else {LABELS: batch.labels}) for batch in batches]
    first = next(model.parameters())
    return {
        "layout": signature(layout),
        "data": digest(data),
        "splits": [batch.split for batch in batches],
        "sources": [batch.source for batch in batches],
        "dtype": str(first.dtype),
        "device": device_of(model).type,
        "versions": versions(),
    }


@dataclass
class StatisticsCache:
    """Named tensors of one dense model, by everything they depend on.

    Args:
        model: :func:`fingerprint` of the dense model.
        folder: where they outlive the process, one safetensors file each; ``None``: nowhere.
        remedy: what to do where it cannot be written.
    """

    model: str
    folder: Path | None = None
    remedy: str = "Name another --stats-cache."
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
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda draft: save_file(whole, draft, {_KEY: key}), self.remedy)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"Cannot write {str(path)!r}: {error}. {self.remedy}") from error
