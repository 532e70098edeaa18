"""Top-1 accuracy of a classifier of images or texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from optimum_grail.data.batches import collate, fingerprint_image, fingerprint_text
from optimum_grail.data.images import encode_images, image_column, read_images
from optimum_grail.data.labels import class_numbers
from optimum_grail.data.rows import Rows, only_inputs
from optimum_grail.data.text import encode_rows, text_column
from optimum_grail.errors import DataError
from optimum_grail.evaluation.agreement import Classes
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

    from optimum_grail.data.foreign import Config


@METRICS.register
@dataclass(frozen=True)
class Accuracy(Metric):
    """Fraction of rows whose label has the highest logit.

    Labels are as :func:`optimum_grail.data.labels.class_numbers` reads them.

    Args:
        label_column: column of the labels.
        image_column: default the first column of images; for models of images.
        text_column: default ``text`` or the first column of strings; for models of text.
        seqlen: truncation of texts, default as in calibration.
        num_samples: use the first rows only.
        batch_size: rows per forward pass.
        perturb: measure on damaged inputs, see :mod:`optimum_grail.evaluation.perturbations`.

    Raises:
        ConfigError: a number below 1, or no such perturbation.
    """

    headline: ClassVar[str] = "accuracy"
    comparable: ClassVar[str] = "num_labels"

    label_column: str = "label"
    image_column: str | None = None
    text_column: str | None = None
    seqlen: int | None = None
    num_samples: int | None = None
    batch_size: int = 64
    perturb: str | None = None

    def __post_init__(self) -> None:
        positive(self, "seqlen", "num_samples", "batch_size")
        check_name(self.perturb)

    def perturbations(self, readers: Readers) -> tuple[str, ...]:
        """See :class:`Metric`."""
        return tuple(IMAGES if _sees(readers.model_class) else TEXT)

    def check(self, readers: Readers, rows: Rows) -> None:
        """See :class:`Metric`."""
        data = table(rows)
        self._labels(data, readers.config)
        self.check_perturbation(self.perturb, readers)
        if _sees(readers.model_class):
            image_column(data, self.image_column)
            readers.need_image_processor()
        else:
            text_column(data, self.text_column)
            readers.need_tokenizer()
            readers.length(self.seqlen)

    def _labels(self, rows: Dataset, config: Config | None) -> Tensor:
        """Class numbers, int64 ``[rows]``."""
        return class_numbers(rows, self.label_column, config, range(self.used(rows)))

    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        """See :class:`Metric`; of images where the rows have a column of them, else of texts."""
        data = table(rows)
        used = range(self.used(data))
        if self.text_column is None:
            try:
                column = image_column(data, self.image_column)
            except DataError:
                pass
            else:
                return frozenset(map(fingerprint_image, read_images(data.select_columns([column]), column, used)))
        column = text_column(data, self.text_column)
        return frozenset(fingerprint_text(text or "") for text in data[: len(used)][column])

    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: Progress | None) -> Measured:
        """See :class:`Metric`. Keys: accuracy, correct, rows, protocol."""
        data = table(rows)
        labels = self._labels(data, readers.config)
        found: list[Tensor] = []
        with inference(model) as device:
            for chunk in batches(len(labels), self.batch_size, progress=progress, what="accuracy"):
                inputs = self._inputs(readers, data, chunk)
                logits = model(**to_device(inputs, device, model_dtype(model))).logits
                found.append(logits.argmax(dim=-1).cpu())
        classes = torch.cat(found)
        correct = int((classes == labels).sum())
        result: Result = {
            "accuracy": correct / len(labels),
            "correct": correct,
            "rows": len(labels),
            "protocol": f"top-1 against column {self.label_column!r}, {len(labels)} rows{perturbed(self.perturb)}",
        }
        return Measured(result, Classes(classes))

    def _inputs(self, readers: Readers, rows: Dataset, chunk: range) -> dict[str, Tensor]:
        if _sees(readers.model_class):
            column = image_column(rows, self.image_column)
            pictures = list(read_images(rows.select_columns([column]), column, chunk))
            return encode_images(perturb_images(self.perturb, pictures, chunk), readers.need_image_processor())
        texts = [text or "" for text in rows[chunk.start : chunk.stop][text_column(rows, self.text_column)]]
        tokenizer = readers.need_tokenizer()
        samples = encode_rows(perturb_texts(self.perturb, texts, chunk), tokenizer, readers.length(self.seqlen))
        return collate(only_inputs(samples, readers.model_class), tokenizer.pad_token_id or 0)


def _sees(model_class: type) -> bool:
    return getattr(model_class, "main_input_name", "input_ids") == "pixel_values"
