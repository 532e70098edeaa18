"""What a checkpoint's weight files hold, by their headers: names, shapes and bytes. No weight is read or downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import NotASafetensorsRepoError
from safetensors import SafetensorError, safe_open

from optimum_grail.errors import CheckpointError

PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")
"""Names of weights in a format that can hold any object of Python."""


@dataclass(frozen=True)
class Stored:
    """Weights as files hold them.

    Args:
        shapes: of every tensor in safetensors files, by name.
        bytes: of all weight files, pickled ones included.
        pickled: whether there are pickled weights and no others.
    """

    shapes: Mapping[str, tuple[int, ...]]
    bytes: int
    pickled: bool = False


def stored_weights(path: str | Path, revision: str | None = None, token: str | bool | None = None) -> Stored | None:
    """The weights of a folder or Hub model; of the Hub's, the cache is looked at first and then the Hub's headers.

    Returns:
        ``None`` where it is not known: nothing is in reach, or a header is damaged (loading says what is wrong).
    """
    folder = os.path.expanduser(path)
    if os.path.isdir(folder):  # where a pathlib.Path would stumble over a name that is too long
        return _of_folder(Path(folder))
    cached = try_to_load_from_cache(str(path), "config.json", revision=revision)
    found = _of_folder(Path(cached).parent) if isinstance(cached, str) else None
    return found or _of_hub(str(path), revision, token)


def local_weights(path: str | Path) -> Stored | None:
    """The weights of a folder as of :func:`stored_weights`; ``None`` for a model of the Hub, which is not asked."""
    return stored_weights(path) if os.path.isdir(os.path.expanduser(path)) else None


def refuse_pickles(stored: Stored | None, path: str | Path, allowed: bool) -> None:
    """Refuse weights that are pickled, unless they are ``allowed`` by name.

    Raises:
        CheckpointError: the message says how to convert or allow them.
    """
    if stored is not None and stored.pickled and not allowed:
        raise CheckpointError(
            f"The weights of {str(path)!r} are pickled (.bin), a format that can hold code of whoever wrote it. Save "
            "them as safetensors once, or pass allow_pickle=True (--allow-pickle) if you trust the author."
        )


def _of_folder(folder: Path) -> Stored | None:
    """All weight files in ``folder``, whichever of them are read."""
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    if files:
        shapes: dict[str, tuple[int, ...]] = {}
        try:
            for file in files:
                with safe_open(file, framework="pt") as opened:
                    shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return Stored(shapes, sum(file.stat().st_size for file in files))
    pickles = [file for pattern in PICKLES for file in folder.glob(pattern) if file.is_file()]
    return Stored({}, sum(file.stat().st_size for file in pickles), pickled=True) if pickles else None


def _of_hub(name: str, revision: str | None, token: str | bool | None) -> Stored | None:
    try:
        api = HfApi(token=token)
        try:
            files = api.get_safetensors_metadata(name, revision=revision).files_metadata.values()
        except NotASafetensorsRepoError:
            pickles = ("pytorch_model.bin", "pytorch_model.bin.index.json")
            found = any(api.file_exists(name, pickle, revision=revision) for pickle in pickles)
            return Stored({}, 0, pickled=True) if found else None
    except Exception:  # offline, private, missing, damaged: loading says which
        return None
    tensors = {key: tensor for file in files for key, tensor in file.tensors.items()}
    size = sum(end - start for start, end in (tensor.data_offsets for tensor in tensors.values()))
    return Stored({key: tuple(tensor.shape) for key, tensor in tensors.items()}, size)
