"""What plain transformers can be told of a model's widths, found out by building its stock class from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedModel

from optimum_grail.errors import ArchitectureError
from optimum_grail.models.standalone import misfit
from optimum_grail.models.stock import sub_configs
from optimum_grail.models.table import read_table

STOCK, PER_LAYER = "stock config", "per_layer_config"
_NOTE = "grail_config"


def plain_config(model: PreTrainedModel) -> tuple[Any, str]:
    """A configuration of which plain transformers builds ``model``, and by which words it says so.

    Args:
        model: a model, compressed or not; it is not changed.

    Raises:
        ArchitectureError: neither one width for all layers nor transformers' per-layer values describe it.
    """
    config: Any = copy.deepcopy(model.config)
    tables = _take_tables_(config)
    reason = misfit(model, config)
    if not reason:
        return config, STOCK
    try:
        for part, table in tables:
            part.per_layer_config = {layer: dict(row) for layer, row in table.items()}
        unsaid = misfit(model, config)
    except Exception as error:  # configuration classes have exceptions of many kinds for values that they refuse
        unsaid = str(error).partition("\n")[0]
    if tables and not unsaid:
        return config, PER_LAYER
    aside = f" ({unsaid[:200]})" if tables and unsaid != reason else ""
    raise ArchitectureError(
        f"Plain transformers {transformers.__version__} cannot be told the widths of this {type(model).__name__}: "
        f"{reason}. Its per_layer_config does not help either{aside}. Compress with "
        "--allocation uniform --standalone, load this one with `import optimum_grail`, or export it to another target."
    )


def _take_tables_(config: Any) -> list[tuple[Any, Mapping[Any, Any]]]:
    """The tables of a configuration and of those inside it, which are taken out of it; they stay noted nowhere."""
    found = []
    for part in (config, *sub_configs(config)):
        note = vars(part).get(_NOTE)
        table = read_table(note, f"{_NOTE} of {type(part).__name__}")
        if note is not None:
            kept = {key: value for key, value in note.items() if key not in ("layers", "how_to_load")}
            setattr(part, _NOTE, kept)
        if table:
            found.append((part, table))
            if part.is_heterogeneous:
                part.per_layer_config = None
    return found
