"""What a configuration asks for, weighed before anything of that size is made.

Numbers in ``config.json`` cost nothing to write: a vocabulary of twenty millions or a hundred thousand layers would be
built before a missing weight is noticed. So counts that become loops are bounded by what the weight files hold, and the
model is built without storage first. When in doubt nothing is refused: loading has the last word.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from optimum_grail.checkpoints.headers import Stored
from optimum_grail.errors import CheckpointError, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAYERS = 1000
"""Layers that any model may have, whatever is stored; more need a stored tensor each."""
LABELS = 10**6
DEPTH = 30
PARTS, PARTS_PER_TENSOR = 10_000, 20
"""Modules and parameters that any model may have, and as many more for every stored tensor."""
PARTS_UNKNOWN = 200_000
"""The same where it is not known what is stored."""
SLACK = 2**28
"""Bytes that any model may take, whatever is stored."""
FACTOR, PACKED = 8, 64
"""Bytes in float32 that a stored byte may become: bfloat16 doubles, a tied weight may count for up to four; and where
the weights are quantized, up to one bit each."""
LARGEST = 2**63 - 1

_COUNTED = re.compile(r"(^|_)(layers?|blocks|depths?|num_labels)$")


def check_numbers(values: Mapping[str, Any], stored: Stored | None, path: str | Path) -> None:
    """Refuse counts in a ``config.json`` that no stored weights can belong to; before its class sees them.

    Args:
        values: what the file holds.
        stored: the weights beside it, if known.
        path: for the message.

    Raises:
        CheckpointError: more layers than stored tensors (and than :data:`LAYERS`), more than :data:`LABELS` classes,
            a whole number of more than 63 bits, or values nested deeper than :data:`DEPTH`.
    """
    layers = max(LAYERS, len(stored.shapes) if stored else 0)
    todo: list[tuple[str, Any, int]] = [(name, value, 1) for name, value in values.items()]
    while todo:
        name, value, depth = todo.pop()
        if isinstance(value, dict | list) and depth > DEPTH:
            raise CheckpointError(
                f"config.json of {str(path)!r} nests the values of {shorten(name)} more than {DEPTH} deep. Restore the "
                "file that was changed."
            )
        if isinstance(value, dict):
            todo += [(str(key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [(name, item, depth + 1) for item in value]
        elif isinstance(value, int):
            counted = _COUNTED.search(name)
            most = LARGEST if counted is None else LABELS if name == "num_labels" else layers
            if value > most:
                raise CheckpointError(
                    f"config.json of {str(path)!r} says {shorten(name)} = {shorten(value, 30)}; expected at most "
                    f"{most:,} with the weights that are stored. Restore the file that was changed."
                )


def build_skeleton(
    build: Callable[[PreTrainedConfig], PreTrainedModel],
    config: PreTrainedConfig,
    stored: Stored | None,
    path: str | Path,
) -> PreTrainedModel:
    """Build a model without storage for its weights, and stop if it has far more parts than are stored.

    Args:
        build: a class of transformers, or what else makes a model of a configuration.
        config: its configuration.
        stored: the weights that shall go into it, if known.
        path: for the message.

    Returns:
        the model, on the meta device.

    Raises:
        CheckpointError: the model has far more parts than stored tensors.
        Exception: whatever the class makes of wrong values.
    """
    most = PARTS + PARTS_PER_TENSOR * len(stored.shapes) if stored and stored.shapes else PARTS_UNKNOWN
    with torch.device("meta"), _at_most(most, path):
        return build(config)


def weighed_skeleton(
    build: Callable[[PreTrainedConfig], PreTrainedModel],
    config: PreTrainedConfig,
    stored: Stored | None,
    path: str | Path,
) -> PreTrainedModel:
    """:func:`build_skeleton` and then, where it is known what is stored, :func:`check_size`; errors as of both."""
    skeleton = build_skeleton(build, config, stored, path)
    if stored is not None and stored.bytes:
        check_size(skeleton, stored, path)
    return skeleton


def check_size(skeleton: nn.Module, stored: Stored, path: str | Path) -> None:
    """Refuse a model that would take far more memory than the files explain.

    Args:
        skeleton: the model on the meta device.
        stored: the weights that shall go into it.
        path: for the message.

    Raises:
        CheckpointError: names a tensor whose shape differs, if there is one.
    """
    tensors = {id(tensor): tensor for tensor in (*skeleton.parameters(), *skeleton.buffers())}
    asked = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    quantized = getattr(getattr(skeleton, "config", None), "quantization_config", None) is not None
    if asked <= SLACK + stored.bytes * (PACKED if quantized else FACTOR):
        return
    state = skeleton.state_dict()
    unlike = [name for name, shape in stored.shapes.items() if name in state and tuple(state[name].shape) != shape]
    example = ""
    if unlike:
        name = max(unlike, key=lambda key: state[key].numel())
        example = (
            f": {name!r} has the shape {stored.shapes[name]}, the configuration asks for {tuple(state[name].shape)}"
        )
    raise CheckpointError(
        f"The weights in {str(path)!r} ({stored.bytes:,} bytes) do not fit config.json, which asks for {asked:,} "
        f"bytes{example}. Restore the file that was changed."
    )


@contextmanager
def _at_most(parts: int, path: str | Path) -> Iterator[None]:
    """Count the modules and parameters that this thread registers, and stop at ``parts``."""
    thread, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, part: object) -> None:
        """Called by torch for every part."""
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > parts:
            raise CheckpointError(
                f"config.json of {str(path)!r} asks for more than {parts:,} modules and parameters, more than any "
                "weights beside it explain. Restore the file that was changed."
            )

    hooks = (register_module_parameter_registration_hook(counted), register_module_module_registration_hook(counted))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
