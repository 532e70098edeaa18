"""Image-text retrieval of a model with two towers."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import collate, fingerprint_image
from optimum_grail.data.images import encode_images, image_column, read_images
from optimum_grail.data.rows import Rows, only_inputs
from optimum_grail.data.text import encode_rows, text_column
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
    model_dtype,
    perturbed,
    positive,
    table,
    to_device,
)
from optimum_grail.evaluation.perturbations import IMAGES, TEXT, check_name, perturb_images, perturb_texts
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ROWS = 1000


@METRICS.register
@dataclass(frozen=True)
class Retrieval(Metric):
    """Fraction of queries with a right answer among the nearest 1 and 10, image to text and text to image.

    The candidates are all rows used; every row whose caption equals the query's is right.

    Args:
        image_column: default the first column of images.
        text_column: captions; default ``text``, ``caption`` … or the first column of strings.
        seqlen: length that texts are padded to; default the text tower's positions.
        num_samples: use the first rows only; default, and most, ``max_rows``.
        batch_size: rows per forward pass.
        max_rows: most rows.
        perturb: measure on damaged inputs, see :mod:`optimum_grail.evaluation.perturbations`.

    Raises:
        ConfigError: a number below 1, or no such perturbation.
    """

    headline: ClassVar[str] = "image_to_text_r10"
    comparable: ClassVar[str] = "projection_dim"

    image_column: str | None = None
    text_column: str | None = None
    seqlen: int | None = None
    num_samples: int | None = None
    batch_size: int = 64
    max_rows: int = MAX_ROWS
    perturb: str | None = None

    def __post_init__(self) -> None:
        positive(self, "seqlen", "num_samples", "batch_size", "max_rows")
        check_name(self.perturb)

    def perturbations(self, readers: Readers) -> tuple[str, ...]:
        """See :class:`Metric`; of the images, and of the captions."""
        return (*IMAGES, *TEXT)

    def check(self, readers: Readers, rows: Rows) -> None:
        """See :class:`Metric`."""
        towers = (getattr(readers.config, "text_config", None), getattr(readers.config, "vision_config", None))
        if None in towers:
            raise DataError(
                f"Retrieval needs a model with a text and an image tower such as CLIPModel, and "
                f"{readers.model_class.__name__} is none. Choose another --metric."
            )
        data = table(rows)
        image_column(data, self.image_column)
        text_column(data, self.text_column)
        readers.need_tokenizer()
        readers.length(self.seqlen)
        readers.need_image_processor()

    def used(self, data: Sized) -> int:
        """See :class:`Metric`; at most ``max_rows``."""
        return min(super().used(data), self.max_rows)

    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        """See :class:`Metric`; of the images."""
        data = table(rows)
        column = image_column(data, self.image_column)
        images = read_images(data.select_columns([column]), column, range(self.used(data)))
        return frozenset(map(fingerprint_image, images))

    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: Progress | None) -> Measured:
        """See :class:`Metric`. Keys: image_to_text_r1, …_r10, text_to_image_r1, …_r10, rows, protocol."""
        data = table(rows)
        count = self.used(data)
        captions = [text or "" for text in data[:count][text_column(data, self.text_column)]]
        images, texts = self._embed(model, readers, data, captions, progress)
        similarity = images @ texts.T
        codes = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        right = torch.tensor([codes[caption] for caption in captions])
        result: Result = {}
        for name, scores in (("image_to_text", similarity), ("text_to_image", similarity.T)):
            result[f"{name}_r1"], result[f"{name}_r10"] = (recall(scores, right, top) for top in (1, 10))
        result["rows"] = count
        damage = perturbed(self.perturb)
        result["protocol"] = (
            f"recall at 1 and 10 both ways among {count} rows, any row with an equal caption counts{damage}"
        )
        return Measured(result, Embeddings(torch.cat((images, texts))))

    def _embed(
        self, model: nn.Module, readers: Readers, rows: Dataset, captions: list[str], progress: Progress | None
    ) -> tuple[Tensor, Tensor]:
        column = image_column(rows, self.image_column)
        pictures = rows.select_columns([column])
        length, tokenizer, processor = (
            readers.length(self.seqlen),
            readers.need_tokenizer(),
            readers.need_image_processor(),
        )
        found: list[tuple[Tensor, Tensor]] = []
        with inference(model) as device:
            for chunk in batches(len(captions), self.batch_size, progress=progress, what="retrieval"):
                shown = perturb_images(self.perturb, read_images(pictures, column, chunk), chunk)
                said = perturb_texts(self.perturb, captions[chunk.start : chunk.stop], chunk)
                seen = encode_images(shown, processor)
                encoded = encode_rows(said, tokenizer, length, pad_to=length)
                read = collate(only_inputs(encoded, type(model)))
                output = model(**to_device({**read, **seen}, device, model_dtype(model)))
                found.append((output.image_embeds.float().cpu(), output.text_embeds.float().cpu()))
        images, texts = (torch.cat(parts) for parts in zip(*found, strict=True))
        return nn.functional.normalize(images, dim=-1), nn.functional.normalize(texts, dim=-1)


def recall(scores: Tensor, codes: Tensor, top: int) -> float:
    """Fraction of queries with a candidate of their own code among the ``top`` best.

    Args:
        scores: ``[N, N]``, query by candidate.
        codes: int64 ``[N]``; query i and candidate j belong together where their codes are equal.
        top: number of candidates looked at.
    """
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((codes[best] == codes[:, None]).any(dim=1).double().mean())
