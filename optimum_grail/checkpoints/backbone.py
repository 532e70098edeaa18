"""Checkpoints of a backbone whose config names a class with a head: sentence encoders often keep that of their
pretraining."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_grail.checkpoints.headers import Stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def backbone_class(model: PreTrainedModel | None, stored: Stored | None, path: str | Path) -> type[Any] | None:
    """The class of the backbone of ``model``, if that is all that is stored; it warns then.

    Args:
        model: as the config describes it; its values are not looked at. ``None`` where it is not known.
        stored: the weights of the checkpoint, if known.
        path: for the warning.

    Returns:
        ``None`` where the checkpoint holds a head, or names its tensors as within the whole model; and for models that
        write text, which are nothing without their head.
    """
    if model is None or stored is None or not stored.shapes or model.base_model is model or model.can_generate():
        return None
    inside = f"{model.base_model_prefix}."
    names = list(model.state_dict())
    heads = [name for name in names if not name.startswith(inside)]
    found = [name for name in names if name.startswith(inside) and name.removeprefix(inside) in stored.shapes]
    if not heads or not found or any(name.startswith(inside) or name in heads for name in stored.shapes):
        return None
    kind = type(model.base_model)
    warnings.warn(
        f"config.json of {str(path)!r} names a {type(model).__name__}, but only a {kind.__name__} is stored, which is "
        "loaded.",
        stacklevel=4,
    )
    return kind
