"""Calibration text that a causal language model writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from optimum_grail.errors import DataError, StatisticsError
from optimum_grail.models.intact import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from optimum_grail.data.foreign import Config
    from optimum_grail.report.progress import Progress

WRITING = "the model writes its own calibration text, tokens"
CACHE_BYTES = 2**30
"""Default budget for the key-value cache while writing: 1 GiB."""


class _FixedLayer(DynamicLayer):
    """A cache layer that writes into memory taken once; growing by concatenation costs most of the time otherwise."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values after those that are there; returns all of them."""
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys, self._values = self._room(key_states), self._room(value_states)
        end = start + key_states.shape[-2]
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def _room(self, states: Tensor) -> Tensor:
        return states.new_empty(*states.shape[:2], self.capacity, states.shape[3])


def generate_self_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    num_samples: int,
    seqlen: int,
    batch_size: int | None = None,
    seed: int = 42,
    progress: Progress | None = None,
    cache_bytes: int = CACHE_BYTES,
    prompts: Tensor | None = None,
) -> Tensor:
    """Let a causal language model write its own calibration rows.

    Every row starts with the BOS token, where the model has one, and a random ordinary token; it goes on by sampling
    from the model's own distribution: temperature 1, nothing cut off. The random token spreads the rows over what the
    model knows: from BOS alone they resemble each other, and many checkpoints have hardly ever seen it. End-of-text and
    other special tokens are never drawn, so every row is full. The global random state is left alone.

    Args:
        model: a causal language model; runs on its device in its dtype, sampling is done in float32.
        tokenizer: names the special tokens; without one only the configuration's are known.
        num_samples: rows to write.
        seqlen: tokens per row, the first one included.
        batch_size: rows written together; by default as many as the cache budget allows.
        seed: the same seed, model and batch size give the same rows.
        progress: told how many tokens are written.
        cache_bytes: budget of the key-value cache, in bytes; bounds ``batch_size``.
        prompts: int64 ``[num_samples, P]``: what the rows begin with, instead of a random token.

    Returns:
        int64 ``[num_samples, seqlen]`` on the CPU.

    Raises:
        DataError: the model's vocabulary holds nothing but special tokens.
        StatisticsError: the logits are not finite.
    """
    width = max(1, min(num_samples, cache_bytes // max(1, cache_row_bytes(model, seqlen))))
    width = min(width, batch_size) if batch_size else width
    banned = _banned_tokens(model, tokenizer)
    generator = torch.Generator(device=banned.device).manual_seed(seed)
    parts: list[Tensor] = []
    try:
        if progress is not None:
            progress.start(num_samples * seqlen, WRITING)
        with evaluating(model), torch.inference_mode():
            for start in range(0, num_samples, width):
                rows = min(width, num_samples - start)
                if prompts is None:
                    first = _first_tokens(model, tokenizer, rows, banned, generator)
                else:
                    first = prompts[start : start + rows].to(banned.device)
                parts.append(_write(model, first, seqlen, banned, generator, progress).cpu())
    finally:
        if progress is not None:
            progress.finish()
    return torch.cat(parts).clone()


def cache_row_bytes(model: PreTrainedModel, seqlen: int) -> int:
    """Bytes that the key-value cache takes for one row of ``seqlen`` tokens."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * seqlen * model.dtype.itemsize)


def _banned_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Tensor:
    """Boolean mask over the vocabulary: special tokens, and rows of the embedding that no token uses."""
    embedding = model.get_input_embeddings()
    size = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else model.config.vocab_size
    device = embedding.weight.device
    special = {*_ids(model.config), *_ids(model.generation_config)}
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids)
        special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(range(len(tokenizer), size))
    banned = torch.zeros(size, dtype=torch.bool, device=device)
    banned[[index for index in special if index < size]] = True
    if bool(banned.all()):
        raise DataError(
            f"All {size} tokens of the vocabulary are special ones, so the model cannot write calibration text. "
            "Check that tokenizer and model belong together, or give --dataset."
        )
    return banned


def _ids(config: Config | None) -> list[int]:
    found: list[int] = []
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return [index for index in found if index >= 0]


def _first_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    rows: int,
    banned: Tensor,
    generator: torch.Generator,
) -> Tensor:
    bos = tokenizer.bos_token_id if tokenizer is not None else None
    bos = model.config.get_text_config().bos_token_id if bos is None else bos
    start = torch.multinomial((~banned).float().expand(rows, -1), 1, generator=generator)
    if isinstance(bos, int) and 0 <= bos < len(banned):
        return torch.cat([torch.full_like(start, bos), start], 1)
    return start


def _write(
    model: PreTrainedModel,
    first: Tensor,
    seqlen: int,
    banned: Tensor,
    generator: torch.Generator,
    progress: Progress | None,
) -> Tensor:
    text = first.new_empty(len(first), seqlen)
    token = first[:, :seqlen]
    written = token.shape[1]
    text[:, :written] = token
    cache = _cache(model, seqlen)
    bias = torch.zeros(len(banned), device=banned.device).masked_fill_(banned, -torch.inf)
    if progress is not None:
        progress.update(token.numel(), WRITING)
    for position in range(written, seqlen):
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = _draw(output.logits[:, -1].float() + bias, generator)
        text[:, position : position + 1] = token
        if progress is not None:
            progress.update(len(first), WRITING)
    return text


def _cache(model: PreTrainedModel, seqlen: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    # windowed and recurrent layers keep their own kind: they do not grow without limit
    cache.layers = [_FixedLayer(seqlen) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token per row from ``softmax(logits)``, by inverting the cumulative sum in float64; int64 ``[B, 1]``.

    ``torch.multinomial`` draws a random number per token of the vocabulary, which costs more than the model here.

    Raises:
        StatisticsError: the logits are not finite.
    """
    summed = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    if not bool(torch.isfinite(summed[:, -1]).all()):  # one NaN or Inf among the logits makes the whole row NaN
        raise StatisticsError(
            "The model's logits are not finite while it writes its own text. "
            "Check the weights for NaN or Inf, or load the model in float32."
        )
    point = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64, device=logits.device)
    # below the total, so that rounding never leads past the last possible token
    return torch.searchsorted(summed, point * summed[:, -1:] * (1 - 2**-40), right=True)
