"""The evaluation sets of one run: one data set as it is, or several by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_grail.config.source import Reading, Source, is_misread, split_word
from optimum_grail.data.files import LOADERS
from optimum_grail.data.rows import check_path
from optimum_grail.errors import ConfigError, DataError, shorten

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource, EvaluationSets


def named_sets(dataset: EvaluationSets | None) -> tuple[tuple[str, DataSource], ...]:
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


def by_spelling(words: Sequence[str] | None) -> str | dict[str, str] | None:
    """What a flag that takes several evaluation sets means: none, the only one as it is, or each by its own spelling.

    Raises:
        DataError: a set is named twice.
    """
    if not words:
        return None
    if len(words) == 1:
        return words[0]
    if twice := [word for word in words if words.count(word) > 1]:
        raise DataError(f"The evaluation set {shorten(twice[0])} is named twice. Name each once.")
    return {word: word for word in words}


def reading_of(dataset: DataSource) -> tuple[DataSource, Reading]:
    """A data set, and how its rows are read: of ``"NAME:split=test,text_column=body"`` the name and these options, of
    anything else the same with no option. A name that exists as a path is that path.

    Raises:
        ConfigError: no such option, or a weight, which an evaluation set has not.
    """
    if not isinstance(dataset, str) or os.path.exists(os.path.expanduser(dataset)) or not is_misread(dataset):
        return dataset, Reading()
    name, values = split_word(dataset)
    source = Source.of(name, values)
    if "weight" in values or not isinstance(source.options, Reading):
        raise ConfigError(
            f"{shorten(dataset)} is no evaluation set: expected NAME or NAME:key=value,... with the keys "
            f"{', '.join(vars(Reading()))}; weights belong to calibration data."
        )
    return name, source.options


def columns_of(reading: Reading) -> dict[str, str]:
    """The columns that ``reading`` names."""
    return {name: value for name, value in vars(reading).items() if name.endswith("_column") and value is not None}


def check_sets(words: Sequence[str] | None) -> None:
    """Refuse words of an evaluation flag that cannot be data sets, before a model is loaded.

    Raises:
        DataError: a path that is not there, or a set named twice.
        ConfigError: as :func:`reading_of`.
    """
    by_spelling(words)
    for word in words or ():
        check_path(str(reading_of(word)[0]))


def _is_data_set(item: object) -> bool:
    """Whether an item of a list is a data set by itself: an object of ``datasets``, a file of rows, a folder."""
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(item, Dataset | DatasetDict | IterableDataset | IterableDatasetDict):
        return True
    if not isinstance(item, str | Path):
        return False
    path = os.path.expanduser(item)
    return os.path.isdir(path) or (Path(path).suffix.lower() in LOADERS and os.path.isfile(path))
