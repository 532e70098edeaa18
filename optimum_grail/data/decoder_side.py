"""What the decoder of an encoder-decoder reads: the text that its encoder reads, shifted as in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

_SHIFT = "prepare_decoder_input_ids_from_labels"
"""What transformers calls the method that makes a decoder's input of what it shall say."""


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether ``model`` says of itself that a decoder follows its encoder."""
    return isinstance(model, PreTrainedModel) and bool(getattr(model.config, "is_encoder_decoder", False))


def with_decoder_side(model: nn.Module, samples: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The samples of text, for an encoder-decoder with what its decoder reads; of others as they are.

    Each position of the decoder sees the tokens before it and the whole text through the encoder. A model without a
    head has no way to shift: it has to be given ``decoder_input_ids``.

    Args:
        model: the model.
        samples: ``input_ids`` and ``attention_mask``, int64 ``[T]``, and what else the model takes.
    """
    shift: Any = getattr(model, _SHIFT, None) if is_encoder_decoder(model) else None
    if shift is None:
        return [dict(sample) for sample in samples]
    return [
        {
            **sample,
            "decoder_input_ids": shift(labels=sample["input_ids"][None]).squeeze(0),
            "decoder_attention_mask": sample["attention_mask"].clone(),
        }
        for sample in samples
    ]
