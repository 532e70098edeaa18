"""Spearman correlation between sentence similarity and a human score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from optimum_grail.data.batches import collate, fingerprint_text
from optimum_grail.data.rows import Rows, only_inputs
from optimum_grail.data.text import encode_rows, text_column
from optimum_grail.data.text import require_column as _require
from optimum_grail.errors import DataError
from optimum_grail.evaluation.agreement import Embeddings
from optimum_grail.evaluation.metrics import METRICS
from optimum_grail.evaluation.metrics._metric import (
    Measured,
    Metric,
    Readers,
    Result,
    batches,
    inference,
    perturbed,
    positive,
    table,
)
from optimum_grail.evaluation.perturbations import TEXT, check_name, perturb_texts
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import ArrayLike

    from optimum_grail.data.foreign import Tokenizer

MAX_LENGTH = 128


@METRICS.register
@dataclass(frozen=True)
class Spearman(Metric):
    """Rank correlation of the cosine of two sentence embeddings with a score.

    An embedding is the mean of the last hidden state over the tokens that are not padding.

    Args:
        text_column: first sentence.
        text_pair_column: second sentence.
        label_column: the score, a number.
        seqlen: truncation; default 128, or the model's positions where they are fewer.
        num_samples: use the first rows only.
        batch_size: sentences per forward pass.
        perturb: measure on mistyped sentences, see :mod:`optimum_grail.evaluation.perturbations`.

    Raises:
        ConfigError: a number below 1, or no such perturbation.
    """

    headline: ClassVar[str] = "spearman"
    comparable: ClassVar[str] = "hidden_size"

    text_column: str = "sentence1"
    text_pair_column: str = "sentence2"
    label_column: str = "score"
    seqlen: int | None = None
    num_samples: int | None = None
    batch_size: int = 64
    perturb: str | None = None

    def __post_init__(self) -> None:
        positive(self, "seqlen", "num_samples", "batch_size")
        check_name(self.perturb)

    def perturbations(self, readers: Readers) -> tuple[str, ...]:
        """See :class:`Metric`."""
        return tuple(TEXT)

    def check(self, readers: Readers, rows: Rows) -> None:
        """See :class:`Metric`."""
        data = table(rows)
        self.check_perturbation(self.perturb, readers)
        _require(data, self.text_column, "--text-column")
        text_column(data, self.text_column)
        _require(data, self.text_pair_column, "--text-pair-column")
        text_column(data, self.text_pair_column)
        self._scores(data)
        readers.need_tokenizer()
        self._length(readers)

    def _length(self, readers: Readers) -> int:
        chosen = readers.length(self.seqlen)
        return chosen if self.seqlen is not None else min(MAX_LENGTH, chosen)

    def _scores(self, rows: Dataset) -> np.ndarray:
        _require(rows, self.label_column, "--label-column")
        values = rows[: self.used(rows)][self.label_column]
        try:
            scores = np.asarray([float(value) for value in values])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Column {self.label_column!r} holds {rows.features[self.label_column]}, expected a number in every "
                "row. Name the column of scores with --label-column."
            ) from error
        if len(scores) < 2 or not np.isfinite(scores).all() or np.ptp(scores) == 0:
            raise DataError(
                f"Column {self.label_column!r} needs at least two different finite scores in {len(scores)} rows. "
                "Choose other data."
            )
        return scores

    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        """See :class:`Metric`; of both sentences."""
        data = table(rows)
        used = data[: self.used(data)]
        return frozenset(
            fingerprint_text(text or "") for name in (self.text_column, self.text_pair_column) for text in used[name]
        )

    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: Progress | None) -> Measured:
        """See :class:`Metric`. Keys: spearman (nan where all similarities are equal), rows, protocol."""
        data = table(rows)
        scores = self._scores(data)
        used = data[: len(scores)]
        length = self._length(readers)
        texts = [text or "" for name in (self.text_column, self.text_pair_column) for text in used[name]]
        texts = perturb_texts(self.perturb, texts, range(len(texts)))
        vectors = self._embed(model, readers.need_tokenizer(), texts, length, progress)
        first, second = vectors.split(len(scores))
        cosine = nn.functional.cosine_similarity(first, second).double().numpy()
        result: Result = {
            "spearman": spearman(cosine, scores),
            "rows": len(scores),
            "protocol": f"cosine of masked-mean embeddings, at most {length} tokens, against column "
            f"{self.label_column!r}, {len(scores)} rows{perturbed(self.perturb)}",
        }
        return Measured(result, Embeddings(vectors))

    def _embed(
        self, model: nn.Module, tokenizer: Tokenizer, texts: list[str], length: int, progress: Progress | None
    ) -> Tensor:
        # sentences of one length go together, so that little is computed for padding; the result does not depend on it
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        base = getattr(model, "base_model", model)
        vectors: list[Tensor] = []
        with inference(model) as device:
            for chunk in batches(len(order), self.batch_size, progress=progress, what="spearman"):
                encoded = encode_rows([texts[order[index]] for index in chunk], tokenizer, length)
                samples = only_inputs(encoded, type(base))
                inputs = {key: value.to(device) for key, value in collate(samples, tokenizer.pad_token_id or 0).items()}
                hidden = getattr(base(**inputs), "last_hidden_state", None)
                if hidden is None:
                    raise DataError(
                        f"Spearman needs a text encoder with a last hidden state, and {type(model).__name__} gives "
                        "none. Choose another --metric."
                    )
                vectors.append(masked_mean(hidden.float(), inputs["attention_mask"]).cpu())
        places = torch.empty(len(order), dtype=torch.int64)
        places[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(vectors)[places]


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where ``mask`` is not 0.

    Args:
        hidden: ``[B, L, H]``.
        mask: ``[B, L]``.

    Returns:
        ``[B, H]``.
    """
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def average_ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, where, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation (the Pearson correlation of average ranks); nan where one side is constant."""
    a, b = average_ranks(first), average_ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")
