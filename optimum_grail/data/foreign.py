"""Short names for what comes from other libraries; for annotations only, so that nothing is imported for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

    from optimum_grail.data.rows import Rows

    Config: TypeAlias = PreTrainedConfig
    """A model's configuration."""
    Tokenizer: TypeAlias = PreTrainedTokenizerBase
    """A tokenizer."""
    Processor: TypeAlias = BaseImageProcessor | ProcessorMixin
    """An image processor, or a processor of several kinds of input."""
    DataSource: TypeAlias = (
        str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict | Rows | Iterable[object]
    )
    """Whatever a user calls a data set; see :func:`optimum_grail.data.rows.read_rows`."""
    EvaluationSets: TypeAlias = DataSource | Mapping[str, DataSource]
    """One evaluation set, or several by name; see :func:`optimum_grail.evaluation.sets.named_sets`."""
