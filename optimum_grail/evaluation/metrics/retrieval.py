"""Image-text retrieval of a model with two towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import collate, fingerprint_image
from optimum_grail.data.images import encode_images, image_column, image_processor, read_images
from optimum_grail.data.rows import only_inputs
from optimum_grail.data.text import default_seqlen, encode_rows, text_column
from optimum_grail.errors import DataError
from optimum_grail.evaluation.metrics import METRICS
from optimum_grail.evaluation.metrics._metric import (
    Metric,
    batches,
    inference,
    model_dtype,
    need_tokenizer,
    positive,
    table,
    to_device,
)
from optimum_grail.report.progress import Progress

if TYPE_CHECKING:
    from datasets import Dataset

    from optimum_grail.data.foreign import Config, DataSource, Processor, Tokenizer

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

    Raises:
        ConfigError: a number below 1.
    """

    headline: ClassVar[str] = "image_to_text_r10"

    image_column: str | None = None
    text_column: str | None = None
    seqlen: int | None = None
    num_samples: int | None = None
    batch_size: int = 64
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        positive(self, "seqlen", "num_samples", "batch_size", "max_rows")

    def check(
        self,
        model_class: type,
        config: Config | None,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        dataset_rows: DataSource,
    ) -> None:
        """See :class:`Metric`."""
        towers = (getattr(config, "text_config", None), getattr(config, "vision_config", None))
        if None in towers:
            raise DataError(
                f"Retrieval needs a model with a text and an image tower such as CLIPModel, and "
                f"{model_class.__name__} is none. Choose another --metric."
            )
        rows = table(self.read(dataset_rows))
        image_column(rows, self.image_column)
        text_column(rows, self.text_column)
        default_seqlen(config, need_tokenizer(tokenizer, config), self.seqlen)
        image_processor(processor, repr(getattr(config, "name_or_path", "") or model_class.__name__))

    def _count(self, rows: Dataset) -> int:
        return min(len(rows), self.num_samples or self.max_rows, self.max_rows)

    def fingerprints(
        self, tokenizer: Tokenizer | None, dataset_rows: DataSource, config: Config | None = None
    ) -> frozenset[str]:
        """See :class:`Metric`; of the images."""
        rows = table(self.read(dataset_rows))
        column = image_column(rows, self.image_column)
        images = read_images(rows.select_columns([column]), column, range(self._count(rows)))
        return frozenset(map(fingerprint_image, images))

    def __call__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        dataset_rows: DataSource,
        *,
        progress: Progress | None = None,
    ) -> dict[str, float | int | str]:
        """See :class:`Metric`. Keys: image_to_text_r1, …_r10, text_to_image_r1, …_r10, rows, protocol."""
        rows = table(self.read(dataset_rows))
        config = getattr(model, "config", None)
        self.check(type(model), config, tokenizer, processor, rows)
        count = self._count(rows)
        captions = [text or "" for text in rows[:count][text_column(rows, self.text_column)]]
        images, texts = self._embed(model, tokenizer, processor, rows, captions, progress)
        similarity = images @ texts.T
        codes = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        right = torch.tensor([codes[caption] for caption in captions])
        result: dict[str, float | int | str] = {}
        for name, scores in (("image_to_text", similarity), ("text_to_image", similarity.T)):
            result[f"{name}_r1"], result[f"{name}_r10"] = (recall(scores, right, top) for top in (1, 10))
        result["rows"] = count
        result["protocol"] = f"recall at 1 and 10 both ways among {count} rows, any row with an equal caption counts"
        return result

    def _embed(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        rows: Dataset,
        captions: list[str],
        progress: Progress | None,
    ) -> tuple[Tensor, Tensor]:
        column = image_column(rows, self.image_column)
        pictures = rows.select_columns([column])
        length = default_seqlen(model.config, tokenizer, self.seqlen)
        found: list[tuple[Tensor, Tensor]] = []
        with inference(model) as device:
            for chunk in batches(len(captions), self.batch_size, progress=progress, what="retrieval"):
                seen = encode_images(
                    list(read_images(pictures, column, chunk)), image_processor(processor, type(model).__name__)
                )
                encoded = encode_rows([captions[index] for index in chunk], tokenizer, length, pad_to=length)
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
