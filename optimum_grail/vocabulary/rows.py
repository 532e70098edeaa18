"""The tensors of a model that have a row for every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.checkpoints.loading import load_skeleton
from optimum_grail.errors import ArchitectureError, GrailError
from optimum_grail.vocabulary.plan import VocabularyPlan

OF_OTHERS = ("position", "wpe", "type", "segment", "lang")
"""Parts of the names of embeddings that are not of tokens, whatever their size."""


@dataclass(frozen=True)
class TokenRows:
    """Where a model has a row for every token.

    Args:
        axes: name in the state dict to the axis that counts tokens.
        count: how many rows there are.
        bytes: of one row of all of them, tied ones counted once.
        rest: bytes of all other parameters.
    """

    axes: Mapping[str, int]
    count: int
    bytes: int
    rest: int


def token_rows(path: str | Path) -> TokenRows:
    """Find them in a model without loading its weights: they are what transformers resizes.

    Args:
        path: folder or Hub id.

    Raises:
        CheckpointError: as :func:`optimum_grail.checkpoints.loading.load_skeleton`.
        ArchitectureError: quantized; several configurations in one; no embedding of tokens; one that transformers does
            not resize, or that is left as it is while others are.
    """
    model = load_skeleton(path)
    config = model.config
    if vars(config).get("quantization_config") is not None:
        raise ArchitectureError(f"{str(path)!r} is quantized. Make the vocabulary smaller first and quantize then.")
    if config.get_text_config() is not config:
        raise ArchitectureError(
            f"{type(model).__name__} consists of several models with a configuration each, and which of their ids are "
            "tokens is not known here. Leave its vocabulary whole."
        )
    try:
        count = int(model.get_input_embeddings().weight.shape[0])
        axes = resize_(model, count + 1)
    except GrailError:
        raise
    except Exception as error:  # NotImplementedError, AttributeError, whatever a class has to say to a resize
        raise ArchitectureError(
            f"transformers does not resize the embedding of {type(model).__name__} ({error}). Leave its "
            "vocabulary whole."
        ) from error
    _check(model, axes, count)
    width = torch.empty(0, dtype=config.dtype).element_size() if config.dtype is not None else 4
    parameters = dict(model.named_parameters())
    of_tokens = {name for name in parameters if name in axes}
    row = sum(parameters[name].numel() // (count + 1) for name in of_tokens)
    rest = sum(parameter.numel() for name, parameter in parameters.items() if name not in of_tokens)
    return TokenRows(axes, count, row * width, rest * width)


def resize_(model: Any, rows: int) -> dict[str, int]:
    """Give a transformers model an embedding of ``rows`` rows; the axis of every tensor whose shape that changed."""
    before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.resize_token_embeddings(rows, mean_resizing=False)
    axes = {}
    for name, tensor in model.state_dict().items():
        different = [axis for axis, (old, new) in enumerate(zip(before[name], tensor.shape, strict=True)) if old != new]
        if different:
            (axes[name],) = different
    return axes


def _check(model: nn.Module, axes: Mapping[str, int], count: int) -> None:
    for name, module in model.named_modules():
        alike = isinstance(module, nn.Embedding) and module.num_embeddings == count
        if alike and f"{name}.weight" not in axes and not any(word in name for word in OF_OTHERS):
            raise ArchitectureError(
                f"{name} of {type(model).__name__} has {count:,} rows as the embedding of tokens has, and transformers "
                "leaves it as it is when that is resized. Leave the vocabulary whole."
            )


@torch.no_grad()
def gather_(model: Any, axes: Mapping[str, int], plan: VocabularyPlan) -> None:
    """Leave a model the rows of the tokens that stay, bit by bit as they were, and rows of zeros after them.

    Args:
        model: of transformers.
        axes: of :class:`TokenRows`.
        plan: which tokens stay.
    """
    kept = torch.tensor(plan.kept)
    state = model.state_dict()
    chosen: dict[str, Tensor] = {name: state[name].index_select(axis, kept) for name, axis in axes.items()}
    model.resize_token_embeddings(plan.rows, mean_resizing=False)
    for name, tensor in model.state_dict().items():
        if name in axes:
            tensor.zero_()
            tensor.narrow(axes[name], 0, len(kept)).copy_(chosen[name])


def size(rows: TokenRows, count: int) -> int:
    """Bytes of the model's parameters with ``count`` rows."""
    return rows.bytes * count + rows.rest
