"""Which rows are asked for, and for which model: what travels from the configuration to the batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.config.mixture import Mixture, mixture_of
from optimum_grail.config.source import GENERAL, SELF
from optimum_grail.data import text
from optimum_grail.data.batches import Batch, SampleKind
from optimum_grail.data.decoder_side import is_encoder_decoder
from optimum_grail.data.genres import GENRES
from optimum_grail.errors import DataError
from optimum_grail.models.residence import is_offloaded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from optimum_grail.config.config import GrailConfig
    from optimum_grail.data.foreign import DataSource, Processor, Tokenizer
    from optimum_grail.models.layout import Layout


DEFAULT_TEXT: Mapping[str, float] = MappingProxyType({GENERAL: 2.0, SELF: 1.0})
"""What a causal language model is calibrated on where nothing else is named: sources and their weights. Of all mixtures
tried on a real model the one whose damage is least on texts of other origins (docs/adr/0011)."""
WINDOW = 512
"""Most tokens of a sample where no length is asked for: many short windows tell more than a few long ones."""


@dataclass(frozen=True, eq=False)
class DataRequest:
    """Calibration rows as they were asked for.

    Args:
        dataset: what :func:`optimum_grail.data.rows.read_rows` reads, ``"self"``, or a mixture, as
            :func:`optimum_grail.config.mixture.mixture_of` reads it; ``None`` for what :meth:`filled` puts in its
            place, and for ``"self"`` where nothing does.
        config_name: configuration of a Hub dataset.
        split: default ``train``, or the only one.
        text_column: default ``text``, ``sentence1`` …, or the first column of strings.
        image_column: default the first column of images, image bytes or paths.
        label_column: column (or entry of ready-made samples) with the classes; by default none are read.
        num_samples: windows or rows to use, >= 1; fewer rows than that are a note, fewer windows an error.
        seqlen: default min(512, the model's positions, the tokenizer's limit).
        batch_size: default 32 rows, for text as many as make 2048 tokens.
        seed: of every random choice.

    Raises:
        DataError: ``num_samples`` or ``batch_size`` is below 1.
        ConfigError: a wrong mixture.
    """

    dataset: DataSource | None = None
    config_name: str | None = None
    split: str | None = None
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    num_samples: int = 128
    seqlen: int | None = None
    batch_size: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.num_samples < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise DataError(
                f"num_samples={self.num_samples}, batch_size={self.batch_size}: expected at least 1. Raise the number."
            )
        mixture_of(self.dataset)

    @classmethod
    def of(cls, config: GrailConfig, dataset: DataSource | None = None) -> DataRequest:
        """What ``config`` asks for; ``dataset`` stands in the place of its own."""
        return cls(
            dataset=config.dataset if dataset is None else dataset,
            config_name=config.dataset_config_name,
            split=config.split,
            text_column=config.text_column,
            image_column=config.image_column,
            label_column=config.label_column,
            num_samples=config.num_samples,
            seqlen=config.seqlen,
            batch_size=config.batch_size,
            seed=config.seed,
        )

    def filled(self, recipient: Recipient) -> DataRequest:
        """With :data:`DEFAULT_TEXT` where a causal language model was given no data; without a tokenizer, or with fewer
        samples than the general corpus has genres, it writes all of the text itself. A model whose weights are on disk
        would be read once for every token: it gets the general corpus alone."""
        able = recipient.causal and recipient.main_input == "text" and recipient.tokenizer is not None
        if self.dataset is not None or not able or self.num_samples <= len(GENRES):
            return self
        return replace(self, dataset=GENERAL if is_offloaded(recipient.model) else dict(DEFAULT_TEXT))

    @property
    def mixture(self) -> Mixture | None:
        """The sources and their weights; ``None`` for one data set read as it is."""
        return mixture_of(self.dataset)

    @property
    def own(self) -> bool:
        """Whether the model writes all of its text itself."""
        if (mixture := self.mixture) is not None:
            return all(source.name == SELF for source in mixture.sources)
        return self.dataset is None or (isinstance(self.dataset, str) and self.dataset == SELF)


@dataclass(frozen=True, eq=False)
class Recipient:
    """The model that the rows are for.

    Args:
        model: tells positions and input names, and writes the text for ``"self"``.
        tokenizer: for text.
        processor: an image processor, or a processor that contains one, for images.
        causal: text becomes windows of exactly ``seqlen`` tokens instead of one padded sample per row.
        main_input: what a sample is.
    """

    model: nn.Module
    tokenizer: Tokenizer | None = None
    processor: Processor | None = None
    causal: bool = False
    main_input: SampleKind = "text"

    @classmethod
    def of(
        cls, model: nn.Module, layout: Layout, tokenizer: Tokenizer | None = None, processor: Processor | None = None
    ) -> Recipient:
        """``model``, whose layout tells what one sample is."""
        causal = isinstance(model, PreTrainedModel) and bool(model.can_generate()) and not is_encoder_decoder(model)
        inputs = {stack.spec.main_input for stack in layout.stacks}
        return cls(model, tokenizer, processor, causal, cast(SampleKind, "pair" if len(inputs) > 1 else inputs.pop()))

    @property
    def config(self) -> Any:
        """The model's config, or ``None``."""
        return getattr(self.model, "config", None)

    @property
    def name(self) -> str:
        """What messages call the model."""
        return getattr(self.config, "name_or_path", "") or type(self.model).__name__

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            DataError: there is none; the message tells what the model folder lacks.
        """
        if self.tokenizer is None:
            raise DataError(
                f"Text must be tokenized, but {self.name!r} has no tokenizer (tokenizer.json is missing). "
                "Put the tokenizer's files into the model folder, pass tokenizer=…, or give tokenized data."
            )
        return self.tokenizer

    def length(self, asked: int | None) -> int:
        """Tokens per sample, if ``asked`` for so many.

        Raises:
            DataError: as :func:`optimum_grail.data.text.default_seqlen`.
        """
        return text.default_seqlen(self.config, self.tokenizer, asked, WINDOW)

    def outline(self, request: DataRequest) -> Batch | None:
        """All samples as one batch without content (ids of 0, int64 ``[num_samples, seqlen]`` in the memory of a single
        row), where their sizes are known before there is any data: for text that the model writes or that windows are
        cut from; else ``None``."""
        known = request.own or request.mixture is not None or isinstance(request.dataset, str | Path)
        if not self.causal or self.main_input != "text" or not known:
            return None
        row = torch.zeros(1, self.length(request.seqlen), dtype=torch.int64)
        return Batch({"input_ids": row.expand(request.num_samples, -1)}, "fit")
