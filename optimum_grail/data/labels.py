"""Classes of calibration and evaluation rows: numbers, or names that the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimum_grail.data.text import require_column
from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

    from optimum_grail.data.foreign import Config


def class_numbers(rows: Dataset, column: str, config: Config | None, picked: Sequence[int]) -> Tensor:
    """The classes of some rows, int64 ``[rows]``.

    Labels are class numbers, or names in the model's ``id2label``; where a dataset names its classes and the model
    knows all these names, names count and not numbers.

    Args:
        rows: the dataset.
        column: column of the labels.
        config: the model's config, or ``None``.
        picked: row numbers.

    Raises:
        DataError: no such column, a label that is no class, or one beyond the model's classes.
    """
    require_column(rows, column, "--label-column")
    values = rows.select_columns([column])[list(picked)][column]
    known = {str(name).casefold(): int(number) for number, name in (getattr(config, "id2label", None) or {}).items()}
    names = getattr(rows.features[column], "names", None)
    if names and all(str(name).casefold() in known for name in names):
        values = [None if value is None else names[value] for value in values]
    numbers = [_number(value, known, index, column) for index, value in zip(picked, values, strict=True)]
    classes = getattr(config, "num_labels", None)
    if classes is not None and numbers and not 0 <= min(numbers) <= max(numbers) < classes:
        raise DataError(
            f"Column {column!r} has labels from {min(numbers)} to {max(numbers)}, and the model has {classes} classes. "
            "Choose the data the model was trained for, or another --label-column."
        )
    return torch.tensor(numbers, dtype=torch.int64)


def _number(value: object, known: dict[str, int], index: int, column: str) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        if value.casefold() in known:
            return known[value.casefold()]
        if value.strip().isdigit():
            return int(value)
    raise DataError(
        f"Row {index} of column {column!r} is {value!r}, expected a class number or one of the model's labels "
        f"{list(known)[:10]}. Name the right column with --label-column."
    )
