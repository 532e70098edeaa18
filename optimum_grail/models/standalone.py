"""Whether plain transformers can load a model: its stock class is built from the config as it will be saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def misfit(model: PreTrainedModel, config: PreTrainedConfig) -> str:
    """How the class that plain transformers builds from ``config`` differs from ``model``; empty if it does not.

    The config is read back from the text that is saved, without what this package notes in it, so nothing here narrows
    what the stock class builds. It is built without storage.

    Args:
        model: a compressed model.
        config: what is to be saved as its config.

    Returns:
        the first tensor that is missing, unknown or of another shape, or why the class cannot be built.
    """
    kind: Any = getattr(transformers, type(model).__name__, type(model))
    try:
        saved = type(config).from_dict(_without_notes(json.loads(config.to_json_string())))
        with torch.device("meta"):
            stock = kind(saved).state_dict()
    except Exception as error:  # configs and classes have exceptions of many kinds for values that they refuse
        return str(error).strip().partition("\n")[0][:200] or type(error).__name__
    ours = model.state_dict()
    for name in (*ours, *stock):
        shapes = [tuple(state[name].shape) if name in state else None for state in (ours, stock)]
        if shapes[0] != shapes[1]:
            return (
                f"{name} is {shapes[0] or 'absent'}, and {kind.__name__} builds {shapes[1] or 'nothing of that name'}"
            )
    return ""


def _without_notes(value: object) -> Any:
    """The values of a config, and of those inside it, without ``grail_config``."""
    if isinstance(value, list):
        return [_without_notes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_notes(item) for key, item in value.items() if key != "grail_config"}
