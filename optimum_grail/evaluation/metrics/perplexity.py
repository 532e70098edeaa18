"""Perplexity of a causal language model on running text, in consecutive windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import fingerprint_tokens
from optimum_grail.data.opening import opened, opening_of
from optimum_grail.data.rows import Rows, ready_samples
from optimum_grail.data.text import first_tokens, text_column
from optimum_grail.errors import DataError
from optimum_grail.evaluation.agreement import Listener
from optimum_grail.evaluation.metrics import METRICS
from optimum_grail.evaluation.metrics._metric import Measured, Metric, Readers, Result, batches, inference, positive
from optimum_grail.report.progress import Progress
from optimum_grail.streams.language_head import LanguageHead

_TOKENS_PER_BATCH = {"cpu": 1024}  # what stays in the processor's cache is fastest there
_MANY_TOKENS = 8192
_LOGITS_BYTES = 2**28


@METRICS.register
@dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the mean negative log-likelihood of all predicted tokens, in windows of ``seqlen`` tokens.

    Rows are joined by blank lines and tokenized without special tokens; the windows are consecutive and do not
    overlap, each predicts its tokens 2 to ``seqlen`` (of the Gemma family the first is BOS), and what remains after the
    last full window is left out. Rows of ``input_ids`` of one length are windows already.

    Args:
        text_column: default ``text`` or the first column of strings.
        seqlen: default min(2048, the model's positions, the tokenizer's limit).
        num_samples: use the first windows only.
        max_tokens: use the first tokens only.
        batch_size: windows per forward pass; default as many as make 8192 tokens (1024 on CPU); logits are made in
            slices of 32 MiB.

    Raises:
        ConfigError: a number below 1.
    """

    headline: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    documents: ClassVar[bool] = True
    comparable: ClassVar[str] = "vocab_size"

    text_column: str | None = None
    seqlen: int | None = None
    num_samples: int | None = None
    max_tokens: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        positive(self, "seqlen", "num_samples", "max_tokens", "batch_size")

    def check(self, readers: Readers, rows: Rows) -> None:
        """See :class:`Metric`."""
        can_generate = getattr(readers.model_class, "can_generate", lambda: True)()
        if not can_generate or getattr(readers.config, "is_encoder_decoder", False):
            raise DataError(
                f"Perplexity needs a causal language model, and {readers.model_class.__name__} is none. "
                "Choose another --metric, such as accuracy, spearman or retrieval."
            )
        readers.length(self.seqlen)
        if not rows.ready:
            text_column(rows.data, self.text_column)
            readers.need_tokenizer()

    def windows(self, readers: Readers, rows: Rows) -> Tensor:
        """The token windows, int64 ``[windows, seqlen]``.

        Raises:
            DataError: there is less text than one window.
        """
        if rows.ready:
            return self._ready(rows)
        opening = opening_of(readers.config, readers.need_tokenizer())
        seqlen = readers.length(self.seqlen) - (opening is not None)
        column = text_column(rows.data, self.text_column)
        limits = [limit for limit in (self.max_tokens, self.num_samples and self.num_samples * seqlen) if limit]
        ids = first_tokens(rows.data, column, readers.need_tokenizer(), min(limits, default=None))
        count = len(ids) // seqlen
        if count == 0:
            raise DataError(
                f"{rows.source} gives {len(ids)} tokens, less than one window of seqlen={seqlen}. "
                f"Give more text, or choose --seqlen {max(len(ids), 2)} or less."
            )
        return opened(ids[: count * seqlen].view(count, seqlen), opening)

    def count(self, readers: Readers, rows: Rows) -> int:
        """Windows."""
        return len(self.windows(readers, rows))

    def _ready(self, rows: Rows) -> Tensor:
        samples = [
            sample["input_ids"] for sample in ready_samples(rows.data, ("input_ids",), self.num_samples or 2**31)
        ]
        lengths = sorted({len(sample) for sample in samples})
        if len(lengths) > 1 or lengths[0] < 2:
            raise DataError(
                f"The tokenized rows have lengths from {lengths[0]} to {lengths[-1]}; expected one length of at least "
                "2 for all. Give text, or windows of one length."
            )
        return torch.stack(samples)

    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        """See :class:`Metric`; of running text, so windows cut at other places are recognised."""
        return fingerprint_tokens(self.windows(readers, rows))

    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: Progress | None) -> Measured:
        """See :class:`Metric`. Keys: perplexity, loss (nats per token), tokens, predicted_tokens, windows, protocol."""
        windows = self.windows(readers, rows)
        with inference(model) as device:
            head = LanguageHead.of(model, {"input_ids": windows[:1, :2].to(device), "use_cache": False})
            listener = Listener(head)
            loss = self._loss(model, windows, listener, progress)
            answers = listener.answers()
        count, seqlen = windows.shape
        begun = "no special tokens" if opening_of(readers.config, readers.tokenizer) is None else "BOS before each"
        result: Result = {
            "perplexity": math.exp(loss) if loss < 700 else loss if math.isnan(loss) else math.inf,
            "loss": loss,
            "tokens": windows.numel(),
            "predicted_tokens": count * (seqlen - 1),
            "windows": count,
            "protocol": f"rows joined by a blank line, {begun}, {count} consecutive windows of {seqlen} "
            "tokens, exp of the mean negative log-likelihood of all predicted tokens",
        }
        return Measured(result, answers)

    def _loss(self, model: nn.Module, windows: Tensor, listener: Listener, progress: Progress | None) -> float:
        seqlen = windows.shape[1]
        total = torch.zeros((), dtype=torch.float64)
        with inference(model) as device:
            size = self.batch_size or self._batch(model, windows[:1, :2].to(device), seqlen, listener.head)
            for chunk in batches(len(windows), size, progress=progress, what="perplexity"):
                ids = windows[chunk.start : chunk.stop].to(device)
                for logits, following in _predictions(model, ids, listener):
                    picked = logits.gather(1, following[:, None]).squeeze(1)
                    total += (logits.logsumexp(dim=1) - picked).sum(dtype=torch.float64).cpu()
        return float(total / (len(windows) * (seqlen - 1)))

    @staticmethod
    def _batch(model: nn.Module, few: Tensor, seqlen: int, head: LanguageHead | None) -> int:
        """Windows per forward pass; where logits cannot be made in slices, those of the windows have to fit."""
        most = max(1, _TOKENS_PER_BATCH.get(few.device.type, _MANY_TOKENS) // seqlen)
        if head is not None:
            return most
        vocabulary = model(input_ids=few, use_cache=False).logits.shape[-1]
        return max(1, min(most, _LOGITS_BYTES // (4 * seqlen * vocabulary)))


def _predictions(model: nn.Module, ids: Tensor, listener: Listener) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits at all positions but the last of windows, float32 ``[N, vocabulary]``, and the tokens that follow; in
    slices, where the model has a head that can be asked by itself."""
    head, following = listener.head, ids[:, 1:].flatten()
    if head is None:
        yield model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float(), following
        return
    entering = head.entering({"input_ids": ids, "use_cache": False})[:, :-1].flatten(0, 1)
    listener.hear(entering)
    for rows, tokens in head.slices(entering, following):
        yield head.logits(rows), tokens
