"""What every metric offers, and the checks that metrics share."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_grail.data.images import image_processor
from optimum_grail.data.rows import Rows, read_rows
from optimum_grail.data.text import default_seqlen
from optimum_grail.errors import ConfigError, DataError
from optimum_grail.evaluation.agreement import Answers
from optimum_grail.evaluation.perturbations import IMAGES, TEXT, check_name
from optimum_grail.models.intact import evaluating
from optimum_grail.models.residence import device_of, no_gradients
from optimum_grail.report.progress import Progress, Silent

if TYPE_CHECKING:
    from datasets import Dataset

    from optimum_grail.data.foreign import Config, DataSource, Processor, Tokenizer

EVALUATION_SPLITS = ("test", "validation", "train")
"""Splits to evaluate on, the first that exists, unless one is named."""


Result = dict[str, float | int | str]
"""What a metric finds, by name."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a metric found out about one model.

    Args:
        result: the numbers.
        answers: what the model answered, to compare another model's answers with; ``None`` where nothing is kept.
    """

    result: Result
    answers: Answers | None = None


@dataclass(frozen=True, eq=False)
class Readers:
    """What turns rows into inputs of a model.

    Args:
        model_class: class of the model.
        config: its configuration, where it has one.
        tokenizer: for text.
        processor: for images.
    """

    model_class: type
    config: Config | None
    tokenizer: Tokenizer | None
    processor: Processor | None

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Tokenizer | None, processor: Processor | None) -> Readers:
        """Those of ``model``."""
        config = model.config if isinstance(model, PreTrainedModel) else None
        return cls(type(model), config, tokenizer, processor)

    @property
    def name(self) -> str:
        """What messages call the model."""
        return str(getattr(self.config, "name_or_path", "") or self.model_class.__name__)

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            DataError: there is none; the message names the model folder.
        """
        if self.tokenizer is None:
            raise DataError(
                f"Text must be tokenized, but {self.name!r} has no tokenizer (tokenizer.json is missing). "
                "Put the tokenizer's files into the model folder."
            )
        return self.tokenizer

    def need_image_processor(self) -> Processor:
        """The image processor.

        Raises:
            DataError: there is none.
        """
        return image_processor(self.processor, repr(self.name))

    def length(self, asked: int | None) -> int:
        """Tokens per sample, if ``asked`` for so many.

        Raises:
            DataError: the model has fewer positions.
        """
        return default_seqlen(self.config, self.tokenizer, asked)


class Metric(ABC):
    """Base of all metrics. Subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        headline: key of the most telling number in the result.
        higher_is_better: whether a larger headline is a better model.
        documents: whether a ``.txt`` file is running text rather than one row per line.
        num_samples: use the first samples only, for an option of that name.
        comparable: field of the configuration in which two models must be equal for their answers to be compared.
    """

    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    documents: ClassVar[bool] = False
    comparable: ClassVar[str]
    num_samples: int | None

    def read(self, dataset: DataSource, *, config_name: str | None = None, split: str | None = None) -> Rows:
        """Read evaluation data of any form that calibration takes, preferring the test split.

        Raises:
            DataError: it is missing, out of reach, unreadable or empty.
        """
        if isinstance(dataset, Rows):
            return dataset
        return read_rows(
            dataset,
            config_name=config_name,
            split=split,
            documents=self.documents,
            prefer=EVALUATION_SPLITS,
        )

    @abstractmethod
    def check(self, readers: Readers, rows: Rows) -> None:
        """Find out what is wrong before any long work.

        Args:
            readers: what turns the rows into inputs of the model.
            rows: as :meth:`read` gives them.

        Raises:
            DataError: columns, tokenizer or processor are missing, or the model is of another kind.
        """

    def count(self, readers: Readers, rows: Rows) -> int:
        """How many samples are measured; arguments as of :meth:`check`."""
        return self.used(rows.data)

    def used(self, data: Sized) -> int:
        """How many of the rows are used: the first ones, up to ``num_samples``."""
        return min(len(data), self.num_samples or len(data))

    @abstractmethod
    def fingerprints(self, readers: Readers, rows: Rows) -> frozenset[str]:
        """Fingerprints of the rows that the metric would use, to compare with those of calibration data; arguments as
        of :meth:`check`."""

    def perturbations(self, readers: Readers) -> tuple[str, ...]:
        """Values of the option ``perturb`` that apply to inputs of the model; none for metrics without that option."""
        return ()

    def check_perturbation(self, name: str | None, readers: Readers) -> None:
        """Refuse a perturbation that does not fit the model's inputs.

        Raises:
            ConfigError: it fits others.
        """
        fitting = self.perturbations(readers)
        if name is not None and name not in fitting:
            raise ConfigError(
                f"The perturbation {name!r} does not apply to what {readers.model_class.__name__} reads. "
                f"Choose {' or '.join(fitting)}."
            )

    @abstractmethod
    def measure(self, model: nn.Module, readers: Readers, rows: Rows, progress: Progress | None) -> Measured:
        """What the call returns, of rows that are read and checked, and the model's answers; arguments as of the call
        and of :meth:`check`."""

    def __call__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None,
        processor: Processor | None,
        dataset_rows: DataSource,
        *,
        progress: Progress | None = None,
    ) -> Result:
        """Measure ``model``.

        Args:
            model: put into eval mode for the time of the call; runs where it is, in its dtype.
            tokenizer: for text.
            processor: for images.
            dataset_rows: a ``datasets.Dataset``, or anything :meth:`read` takes.
            progress: told how far it is; silent by default.

        Returns:
            the numbers (fractions, not percent), the counts of rows or tokens, and ``protocol`` in words.

        Raises:
            DataError: as :meth:`check`, or a row is unusable.
        """
        rows = self.read(dataset_rows)
        readers = Readers.of(model, tokenizer, processor)
        self.check(readers, rows)
        return self.measure(model, readers, rows, progress).result


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradients; the device that the model computes on."""
    with evaluating(model), no_gradients(model):
        yield device_of(model)


def positive(metric: Metric, *names: str) -> None:
    """Check that the named options are None or at least 1.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        value = getattr(metric, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name}={value!r}: expected a whole number of at least 1. Leave it out or raise it.")


def perturbed(name: str | None) -> str:
    """What to add to a protocol about a perturbation."""
    check_name(name)
    return "" if name is None else f", {({**TEXT, **IMAGES})[name]}"


def table(rows: Rows) -> Dataset:
    """The rows as a ``datasets.Dataset``.

    Raises:
        DataError: they are ready-made model inputs.
    """
    if rows.ready:
        raise DataError(
            f"{rows.source} holds model inputs already; this metric needs rows of text or images. Give those."
        )
    return rows.data


def to_device(inputs: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs on ``device``, those of floating point in the model's ``dtype``."""
    return {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device) for key, value in inputs.items()
    }


def model_dtype(model: nn.Module) -> torch.dtype:
    """dtype of the model's first parameter."""
    return next(model.parameters()).dtype


def batches(count: int, size: int, *, progress: Progress | None, what: str) -> Iterator[range]:
    """Ranges of up to ``size`` row numbers below ``count``; ``progress`` is told of every one that is done."""
    progress = progress or Silent()
    progress.start(count, what)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield range(start, stop)
        progress.update(stop - start, what)
    progress.finish()
