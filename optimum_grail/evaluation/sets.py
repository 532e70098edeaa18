"""The evaluation sets of one run: one data set as it is, or several by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_grail.data.files import LOADERS
from optimum_grail.errors import DataError, shorten


def named_sets(dataset: Any) -> tuple[tuple[str, Any], ...]:
    """Name and data of every set; the name of a single one is empty, since its source names it.

    A mapping from names to data sets is several sets. Everything else is one set in any form that calibration data
    takes; a list of strings is a list of texts, so a list of files is refused instead of being read as short texts.

    Args:
        dataset: one data set, a mapping, or ``None`` for none.

    Raises:
        DataError: an empty mapping, a name that is none, several data sets in a list.
    """
    from datasets import DatasetDict, IterableDatasetDict

    if dataset is None:
        return ()
    if isinstance(dataset, Mapping) and not isinstance(dataset, DatasetDict | IterableDatasetDict):
        if not dataset or not all(isinstance(name, str) and name.strip() for name in dataset):
            raise DataError(
                f"The evaluation sets are named {shorten(list(dataset))}; expected one name or more, each a string, "
                "as in eval_dataset={'books': 'books.txt', 'code': rows}."
            )
        return tuple(dataset.items())
    if isinstance(dataset, list | tuple) and any(map(_is_data_set, dataset)):
        raise DataError(
            f"{shorten(dataset)} is a list, which is one data set of its items, and its items are data sets. Name each "
            "in a mapping, as in eval_dataset={'books': 'books.txt', 'code': 'code.txt'}; for one set, give it alone."
        )
    return (("", dataset),)


def by_spelling(sources: Sequence[str] | None) -> Any:
    """What a flag that takes several sources means: none, the only one as it is, or each by its own spelling.

    Raises:
        DataError: a source is named twice.
    """
    if not sources:
        return None
    if len(sources) == 1:
        return sources[0]
    if len(set(sources)) < len(sources):
        twice = next(source for source in sources if sources.count(source) > 1)
        raise DataError(f"The evaluation set {shorten(twice)} is named twice. Name each once.")
    return {source: source for source in sources}


def _is_data_set(item: Any) -> bool:
    """Whether an item of a list is a data set by itself: an object of ``datasets``, a file of rows, a folder."""
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(item, Dataset | DatasetDict | IterableDataset | IterableDatasetDict):
        return True
    if not isinstance(item, str | Path):
        return False
    path = os.path.expanduser(item)
    return os.path.isdir(path) or (Path(path).suffix.lower() in LOADERS and os.path.isfile(path))
