"""Writing a planned file: the only place that touches the disk, and that knows the package ``gguf``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.errors import CheckpointError, ConfigError, OutputError
from optimum_grail.export.gguf.plan import Entry, Plan, Value
from optimum_grail.export.gguf.types import LARGEST

if TYPE_CHECKING:
    from gguf import GGUFWriter


def need_library() -> None:
    """Find out whether files can be written.

    Raises:
        ConfigError: the package ``gguf`` is not installed.
    """
    if find_spec("gguf") is None:
        raise ConfigError("Writing GGUF needs the package gguf: pip install 'optimum-grail[gguf]'.")


def write_file(plan: Plan, read: Callable[[str], Tensor], path: Path, done: Callable[[], None]) -> None:
    """Write a file, complete or not at all. One tensor is in memory at a time.

    Args:
        plan: the file.
        read: gives a stored tensor by its name.
        path: where to; an older file stays until the new one is complete.
        done: called after every tensor.

    Raises:
        CheckpointError: weights are not finite, or beyond what their type can hold.
        OutputError: the disk is full, or the place cannot be written.
    """

    def write(draft: Path) -> None:
        """Header, keys and tensors, one after the other."""
        from gguf import GGMLQuantizationType, GGUFWriter

        writer = GGUFWriter(draft, plan.architecture)
        try:
            for name, value in plan.keys.items():
                _add_(writer, name, value)
            for entry in plan.entries:
                kind = GGMLQuantizationType[entry.type.upper()]
                writer.add_tensor_info(entry.name, entry.shape, torch.zeros(0).numpy().dtype, entry.bytes, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for entry in plan.entries:
                writer.write_tensor_data(packed(entry, entry.source.values(read)))
                done()
        finally:
            writer.close()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror}. Choose another place.") from error


def packed(entry: Entry, values: Tensor) -> Any:
    """The numbers of a tensor as the file stores them.

    Args:
        entry: says the type.
        values: float32.

    Returns:
        A NumPy array of ``entry.bytes`` bytes.

    Raises:
        CheckpointError: a number is not finite, or not in the type.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    largest = float(values.abs().max()) if values.numel() else 0.0
    limit = LARGEST[entry.type]
    if not largest <= limit:
        raise CheckpointError(
            f"{entry.name!r} has a weight of {largest:g}; {entry.type} holds finite ones up to {limit:g}. Pass "
            "--type bf16 or f32 if the weights are finite, else restore the checkpoint."
        )
    return quantize(values.contiguous().numpy(), GGMLQuantizationType[entry.type.upper()])


def _add_(writer: GGUFWriter, name: str, value: Value) -> None:
    """Add a key under the type of its value."""
    adders: Mapping[type, Callable[[str, Any], None]] = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    adders[type(value)](name, value)
