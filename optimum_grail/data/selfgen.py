"""Calibration text that a causal language model writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from optimum_grail.config.source import Writing
from optimum_grail.data.drafts import Drafts
from optimum_grail.data.starts import (
    DrawnTokens,
    Starts,
    banned_tokens,
    bos_of,
    chat_starts,
    document_starts,
    ends_of_turn,
    in_order,
)
from optimum_grail.errors import StatisticsError
from optimum_grail.models.intact import evaluating
from optimum_grail.models.residence import no_gradients
from optimum_grail.processes.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from optimum_grail.report.progress import Progress

WRITING = "the model writes its own calibration text, tokens"
CACHE_BYTES = 2**30
"""Default budget for the key-value cache while writing: 1 GiB."""
_OWN_ROWS, _OWN_TOKENS, _OWN_FIRST, _OWN_BATCH = 64, 32, 8, 8


@dataclass(frozen=True, eq=False)
class SelfText:
    """What a model wrote.

    Attributes:
        ids: int64 ``[rows, tokens]``, on the CPU.
        restarts: how many times a row that went round in circles was begun anew.
    """

    ids: Tensor
    restarts: int = 0


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
    writing: Writing | None = None,
    documents: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> SelfText:
    """Let a causal language model write its own calibration rows.

    Every row starts with the BOS token, where the model has one, and a random ordinary token; it goes on by sampling
    from the model's own distribution: temperature 1, nothing cut off. The random token spreads the rows over what the
    model knows: from BOS alone they resemble each other, and many checkpoints have hardly ever seen it. End-of-text and
    other special tokens are never drawn, so every row is full. The global random state is left alone. ``writing`` says
    otherwise; where rows start as chats, the model may end its answer, and another instruction follows.

    Args:
        model: a causal language model; runs on its device in its dtype, sampling is done in float32.
        tokenizer: names the special tokens; without one only the configuration's are known.
        num_samples: rows to write.
        seqlen: tokens per row, the first ones included.
        batch_size: rows written together; by default as many as the cache budget allows.
        seed: the same seed, model and batch size give the same rows.
        progress: told how many tokens are written.
        cache_bytes: budget of the key-value cache, in bytes; bounds ``batch_size``.
        prompts: int64 ``[num_samples, P]``: what the rows begin with, instead of what ``writing`` says.
        writing: how tokens are drawn, what rows begin with, and what happens to rows that go round in circles.
        documents: texts that rows may begin with.
        ranks: processes that each write a part of the rows; all get all of them.

    Raises:
        DataError: the model's vocabulary holds nothing but special tokens, or the starts that ``writing`` names cannot
            be had.
        StatisticsError: the logits are not finite.
    """
    width = max(1, min(num_samples, cache_bytes // max(1, cache_row_bytes(model, seqlen))))
    width = min(width, batch_size) if batch_size else width
    writer = _Writer(model, tokenizer, writing or Writing(), seed, ranks)
    parts: list[SelfText] = []
    try:
        if progress is not None:
            progress.start(num_samples * seqlen, WRITING)
        with evaluating(model), no_gradients(model):
            starts, bos = (writer.starts(documents), writer.bos) if prompts is None else (in_order(prompts), None)
            for start in range(0, num_samples, width):
                parts.append(writer.write(starts, bos, min(width, num_samples - start), seqlen, progress))
    finally:
        if progress is not None:
            progress.finish()
    return SelfText(torch.cat([part.ids for part in parts]).clone(), sum(part.restarts for part in parts))


def cache_row_bytes(model: PreTrainedModel, seqlen: int) -> int:
    """Bytes that the key-value cache takes for one row of ``seqlen`` tokens."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * seqlen * model.dtype.itemsize)


class _Writer:
    """One model and how it writes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        writing: Writing,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.tokenizer, self.writing, self.ranks = model, tokenizer, writing, ranks
        self.ends = ends_of_turn(model, tokenizer) if writing.starts == "chat" else []
        self.banned = banned_tokens(model, tokenizer)
        self.banned[[index for index in self.ends if index < len(self.banned)]] = False
        self.generator = torch.Generator(device=self.banned.device).manual_seed(seed)
        bos = bos_of(model, tokenizer, len(self.banned))
        self.bos = None if writing.starts == "chat" else bos  # a chat template brings its own

    def starts(self, documents: Sequence[str]) -> Starts:
        """What rows begin with."""
        if self.writing.starts == "chat":
            return chat_starts(self.tokenizer, self.generator)
        if self.writing.starts == "general":
            return document_starts(documents, self.tokenizer, self.generator)
        plain = DrawnTokens((~self.banned).float(), self.generator)
        return DrawnTokens(self._frequencies(plain), self.generator) if self.writing.starts == "frequent" else plain

    def _frequencies(self, plain: Starts) -> Tensor:
        """How likely the model writes each token, float32 ``[vocabulary]``: the mean over what it says after every
        token of a little text of its own, the beginnings left out. A count of so few tokens would be too coarse."""
        text = self.write(plain, self.bos, _OWN_ROWS, _OWN_TOKENS).ids
        total = torch.zeros(len(self.banned), device=self.banned.device)
        for part in text.split(_OWN_BATCH):
            logits = self.model(input_ids=part.to(total.device), use_cache=False).logits[:, _OWN_FIRST:].float()
            total += logits.masked_fill(self.banned, -torch.inf).softmax(dim=-1).sum(dim=(0, 1))
        return total

    def write(
        self, starts: Starts, bos: int | None, count: int, seqlen: int, progress: Progress | None = None
    ) -> SelfText:
        """Write ``count`` rows. Of several processes each runs the model on some of them and all know what stands in
        every row, so that beginnings and draws are the same for any number of processes."""
        drafts = Drafts(starts, self.writing.loops == "restart", self.ends)
        text = drafts.begin(count, seqlen, bos, self.banned.device)
        token = text[:, : drafts.given()]
        own, cache = self.ranks.share(count), _cache(self.model, seqlen)
        bias = torch.zeros(len(self.banned), device=text.device).masked_fill_(self.banned, -torch.inf)
        if progress is not None:
            progress.update(token.numel(), WRITING)
        for position in range(token.shape[1], seqlen):
            points = torch.rand(count, 1, generator=self.generator, dtype=torch.float64, device=text.device)
            drawn = points[:0].long()
            if len(own):
                mine = slice(own.start, own.stop)
                output = self.model(input_ids=token[mine], past_key_values=cache, use_cache=True)
                logits = output.logits[:, -1].float() / self.writing.temperature + bias
                drawn = _draw(_nucleus(logits, self.writing.top_p), points[mine])
            token = drafts.put(position, torch.cat(self.ranks.collected("tokens of its own text", drawn)))
            if progress is not None:
                progress.update(count, WRITING)
        return SelfText(text.cpu(), drafts.restarts)


def _cache(model: PreTrainedModel, seqlen: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    # windowed and recurrent layers keep their own kind: they do not grow without limit
    cache.layers = [_FixedLayer(seqlen) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """``logits`` with -inf for all tokens but the likeliest that together have at least the probability ``top_p``."""
    if top_p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
    before[:, 0] = 0
    return torch.full_like(logits, -torch.inf).scatter(-1, order, ordered.masked_fill(before >= top_p, -torch.inf))


def _draw(logits: Tensor, points: Tensor) -> Tensor:
    """One token per row from ``softmax(logits)``, by inverting the cumulative sum at ``points`` ``[B, 1]``, float64 in
    [0, 1); int64 ``[B, 1]``.

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
    # below the total, so that rounding never leads past the last possible token
    return torch.searchsorted(summed, points * summed[:, -1:] * (1 - 2**-40), right=True)
