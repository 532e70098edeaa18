"""What a model is asked while its graph is traced and when that is checked, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from optimum_grail.errors import ArchitectureError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Kind = Literal["decoder", "encoder", "image"]
BATCH, PAST, NOW, PIXELS = 2, 5, 3, 224
"""Rows, tokens in the cache and tokens behind them while a graph is traced; two or more, so that none is taken for a
constant. Pixels along a side of an image where the configuration names no size."""


@dataclass(frozen=True)
class Sample:
    """Inputs to trace with.

    Args:
        kind: what the model is: a decoder with a cache, an encoder of text, or a model of images.
        inputs: by argument of ``forward``; of a decoder the cache, too.
        dynamic: which axes of each input may have other sizes when the graph runs.
    """

    kind: Kind
    inputs: Mapping[str, Any]
    dynamic: Mapping[str, Any]


def kind_of(config: Any, cls: type, source: object) -> Kind:
    """What a model is, from its configuration and class.

    Args:
        config: of the model.
        cls: its class in transformers.
        source: named in the messages.

    Raises:
        ArchitectureError: an encoder-decoder, or a model of more than one kind of input.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if getattr(config, "is_encoder_decoder", False):
        raise ArchitectureError(
            f"{str(source)!r} is {cls.__name__}, an encoder-decoder, which this target does not take. Run it with "
            "transformers."
        )
    main = getattr(cls, "main_input_name", "input_ids")
    several = [
        name for name in ("text_config", "vision_config", "audio_config") if getattr(config, name, None) is not None
    ]
    if main not in ("input_ids", "pixel_values") or several:
        reason = f"made of parts ({', '.join(several)})" if several else f"and reads {main!r}"
        raise ArchitectureError(
            f"{str(source)!r} is {cls.__name__}, {reason}; this target takes decoders, encoders of text and models of "
            "images. Run it with transformers."
        )
    if main == "pixel_values":
        return "image"
    return "decoder" if cls.__name__ in CAUSAL.values() else "encoder"


def tokens(vocabulary: int, length: int) -> Tensor:
    """Some token numbers ``[BATCH, length]``, int64, all over the vocabulary."""
    return (torch.arange(BATCH * length).view(BATCH, length) * 7919 + 5) % vocabulary


def images(config: Any, rows: int = 1) -> Tensor:
    """Pictures of waves ``[rows, channels, height, width]``, float32 within -1 and 1."""
    size = getattr(config, "image_size", None) or PIXELS
    height, width = (int(size), int(size)) if isinstance(size, int) else map(int, size)
    channels = int(getattr(config, "num_channels", 3))
    values = torch.arange(rows * channels * height * width, dtype=torch.float32)
    return torch.sin(values * 0.37).view(rows, channels, height, width)


def sample_of(model: PreTrainedModel, kind: Kind) -> Sample:
    """Inputs that a model is traced with.

    Args:
        model: in float32 on the CPU; a decoder runs once.
        kind: as of :func:`kind_of`.
    """
    free = torch.export.Dim.AUTO
    text = {0: free, 1: free}
    config: Any = model.config
    if kind == "image":
        sides = {} if getattr(config, "image_size", None) else {2: free, 3: free}
        return Sample(kind, {"pixel_values": images(config, BATCH)}, {"pixel_values": {0: free, **sides}})
    if kind == "encoder":
        ids = tokens(int(config.vocab_size), PAST)
        mask = torch.ones_like(ids)
        return Sample(
            kind, {"input_ids": ids, "attention_mask": mask}, dict.fromkeys(("input_ids", "attention_mask"), text)
        )
    ids, mask = tokens(int(config.vocab_size), PAST + NOW), torch.ones(BATCH, PAST + NOW, dtype=torch.int64)
    with torch.no_grad():
        cache = model(input_ids=ids[:, :PAST], use_cache=True).past_key_values
    inputs = {
        "input_ids": ids[:, PAST:],
        "attention_mask": mask,
        "position_ids": torch.arange(PAST, PAST + NOW).expand(BATCH, -1),
        "past_key_values": cache,
    }
    return Sample(kind, inputs, {**dict.fromkeys(list(inputs)[:3], text), "past_key_values": _cache_axes(cache)})


def _cache_axes(cache: Any) -> list[dict[int, Any]]:
    """Rows and tokens of every tensor of a cache, in the order in which the exporter takes it apart."""
    from transformers.exporters.utils import get_leaf_tensors

    free = torch.export.Dim.AUTO
    return [{0: free, 2: free} if leaf.ndim == 4 else {} for leaf in get_leaf_tensors(cache).values()]
