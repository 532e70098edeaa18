"""Plain modules, which have no transformers config: saved with a table of widths, loaded into a dense copy."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import CheckpointError
from optimum_grail.models.layout import Layout
from optimum_grail.models.resize import narrow_all_
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import current_widths
from optimum_grail.models.table import Table, check_table, entries, read_table, unique_keys

WEIGHTS = "model.safetensors"
LAYERS = "grail_layers.json"


def save_compressed(
    module: nn.Module, directory: str | Path, layout: Layout, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a compressed module without a transformers config: ``model.safetensors`` and ``grail_layers.json``.

    Args:
        module: the compressed module.
        directory: an existing folder.
        layout: the layout before compression.
        provenance: JSON values noted beside the table.
    """
    widths = current_widths(module, layout)
    table: Table = {}
    for group in layout.groups:
        table.setdefault(group.layer, {}).update(entries(group, widths[group.name]))
    folder = Path(directory)
    save_model(module, str(folder / WEIGHTS))
    text = json.dumps({**(provenance or {}), "layers": table}, indent=2)
    (folder / LAYERS).write_text(text + "\n", encoding="utf-8")


def load_compressed_(module: nn.Module, directory: str | Path, spec: ArchitectureSpec | None = None) -> nn.Module:
    """Fill ``module``, built at its dense size, from a folder that :func:`save_compressed` wrote.

    The files are read and checked against a copy without storage first: on an error ``module`` is unchanged.

    Args:
        module: the module at its dense size, on any device.
        directory: the folder.
        spec: the map that the module was compressed with.

    Returns:
        ``module`` itself, narrowed and filled.

    Raises:
        CheckpointError: a file is missing, corrupt or truncated, or does not fit the module.
        ArchitectureError: ``spec`` does not fit the module.
    """
    folder = Path(directory)
    table = read_table(_read_json(folder / LAYERS), LAYERS)
    state = _read_weights(folder / WEIGHTS)
    layout = resolve(module, spec)
    units: dict[str, int] = {}
    if len(layout.owners) == 1:
        units = check_table(layout, layout.owners[0], table, LAYERS)
    elif table:
        raise CheckpointError(f"{LAYERS} describes one stack of layers; this module has {len(layout.owners)}.")
    skeleton = _without_storage(module)
    narrow_all_(skeleton, layout, units)
    full = _complete(skeleton, state, folder / WEIGHTS)
    narrow_all_(module, layout, units)
    module.load_state_dict(full, strict=True)
    return module


def _without_storage(module: nn.Module) -> nn.Module:
    """A copy of ``module`` on the meta device that never copies the values."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): _meta(tensor) for tensor in tensors}
    return copy.deepcopy(module, memo)


def _meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _complete(skeleton: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``state`` with tied tensors under all their names, checked against the shapes that ``skeleton`` expects."""
    expected = skeleton.state_dict(keep_vars=True)
    present = {id(expected[name]): name for name in state if name in expected}
    full = {}
    for name, tensor in expected.items():
        source = name if name in state else present.get(id(tensor))
        if source is None:
            raise CheckpointError(f"{path} lacks {name!r}. It belongs to another module, or was written incompletely.")
        if state[source].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {source!r} has shape {tuple(state[source].shape)}, expected {tuple(tensor.shape)} by "
                f"{LAYERS}. The files belong to different models."
            )
        full[name] = state[source]
    unknown = [name for name in state if name not in expected]
    if unknown:
        raise CheckpointError(f"{path} holds {unknown[0]!r}, which the module lacks. It belongs to another module.")
    return full


def _read_json(path: Path) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a key twice
        raise CheckpointError(f"Cannot read {path}: {error}. Expected a folder written by save_pretrained.") from error
    return {} if found is None else found


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}. The file is missing, corrupt or truncated.") from error
