"""What a data set holds, as a short key: two that differ never share one, whatever they are called."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optimum_grail.config.source import GENERAL, SELF, Writing, is_general, spell_source
from optimum_grail.data.genres import corpus_digest
from optimum_grail.data.request import DataRequest

_PROCESS = uuid.uuid4().hex
"""The addresses of objects say nothing to other processes."""


def content_key(request: DataRequest) -> str:
    """A hash of everything about ``request`` that decides which batches it gives.

    Lists count by their items, files and folders by name, size and time of change, ``datasets.Dataset`` by its
    fingerprint, text that the model writes by the numbers that shape it, a mixture by its sources and their weights.
    What can be read only once (an iterator, a loader, a stream) counts as itself: as long as the object lives, no other
    has its key.
    """
    fields = {name: value for name, value in vars(request).items() if name != "dataset"}
    if request.own:
        fields = {name: fields[name] for name in ("num_samples", "seqlen", "batch_size", "seed")}
    state = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for part in _content(request):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def content_of(value: object) -> str:
    """A hash of what a data set, or a mapping of such and of plain values, holds, as of :func:`content_key`."""
    state = hashlib.sha256()
    for part in _parts(value):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def _content(request: DataRequest) -> Iterator[bytes]:
    mixture = request.mixture
    if mixture is None:
        yield from _parts(SELF if request.own else request.dataset)
        return
    for source in mixture.sources:
        yield spell_source(source, weighted=True).encode()
        yield from _parts(source.name)
        if is_general(source.name) or (isinstance(source.options, Writing) and source.options.starts == GENERAL):
            yield corpus_digest().encode()


def _parts(value: object) -> Iterator[bytes]:
    """Bytes that tell ``value``, its type first."""
    from datasets import Dataset
    from PIL.Image import Image

    yield type(value).__qualname__.encode()
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from [item.encode()] if isinstance(item, str) else _parts(item)
    elif isinstance(value, str | Path):
        yield str(value).encode()
        yield from _on_disk(Path(value).expanduser())
    elif isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        yield f"{tuple(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Image):
        yield f"{value.size} {value.mode}".encode()
        yield value.tobytes()
    elif isinstance(value, Dataset):
        yield value._fingerprint.encode()
    elif value is None or isinstance(value, bool | int | float | bytes):
        yield repr(value).encode()
    else:
        yield f"{_PROCESS} {id(value)}".encode()


def _on_disk(path: Path) -> Iterator[bytes]:
    """Name, size and time of change of a file, or of every file of a folder; nothing for the id of a Hub data set."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found = file.stat()
            yield f"{file} {found.st_size} {found.st_mtime_ns}".encode()
