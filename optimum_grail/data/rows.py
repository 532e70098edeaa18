"""Whatever a user calls a dataset, read into rows: a ``datasets.Dataset``, or ready-made model inputs."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from optimum_grail.config.source import GENERAL, SELF, is_general
from optimum_grail.data.batches import LABELS
from optimum_grail.data.files import LOADERS, local_arguments, pick_split
from optimum_grail.data.genres import GENRES, read_general
from optimum_grail.errors import DataError, did_you_mean, shorten

if TYPE_CHECKING:
    from optimum_grail.data.foreign import DataSource

_NO_INPUTS = ("labels", "args", "kwargs")
_INPUT_KEYS = ("input_ids", "pixel_values", "inputs_embeds")
_STREAM_ROWS = 2**17


@dataclass(frozen=True, eq=False)
class Rows:
    """A dataset that was found and read.

    Attributes:
        data: a ``datasets.Dataset``; or, where ``ready``, an iterable of mappings from input names to values.
        source: what to call it in reports, as the user wrote it.
        ready: whether the rows are model inputs already.
    """

    data: Any
    source: str
    ready: bool = False


def read_rows(
    dataset: DataSource,
    *,
    config_name: str | None = None,
    split: str | None = None,
    documents: bool = False,
    prefer: tuple[str, ...] = ("train",),
    strings: str = "text",
) -> Rows:
    """Find and read a dataset.

    Args:
        dataset: list of strings, of row dicts or of model inputs; ``datasets.Dataset`` or ``DatasetDict``, streaming
            ones too (the first 131,072 rows); DataLoader or other iterable of dicts; path of a ``.txt``, ``.json``,
            ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file, of a folder of those or of images, or of a folder
            written by ``save_to_disk``; the id of a dataset on the Hub; or ``"general"`` or ``"general/GENRE"``.
        config_name: configuration of a Hub dataset.
        split: by default the first of ``prefer`` that exists, else the only one. Slices such as ``train[:1000]`` work
            for paths and Hub ids.
        documents: a ``.txt`` file is one row (running text) instead of one row per line.
        prefer: names of splits to look for.
        strings: column name for a plain list: ``"text"``, or ``"image"`` for paths and images.

    Raises:
        DataError: not found, out of reach, unreadable, empty, or of no known form.
        UnknownNameError: no such genre.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(dataset, str) and is_general(dataset):
        rows = Rows(read_general(dataset, config_name, split), dataset)
    elif isinstance(dataset, (str, Path)):
        rows = _read_path_or_hub(str(dataset), config_name, split, documents, prefer)
    elif isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        rows = Rows(pick_split(dataset, split, prefer, "the DatasetDict"), f"{type(dataset).__name__} in memory")
    elif isinstance(dataset, (Dataset, IterableDataset)):
        rows = Rows(dataset, f"{type(dataset).__name__} in memory")
    else:
        return _read_memory(dataset, strings)
    data = rows.data
    if isinstance(data, IterableDataset):
        data = Dataset.from_list(list(islice(data, _STREAM_ROWS)))
    if len(data) == 0:
        raise DataError(f"{rows.source} is empty. Choose a dataset with rows, or another split.")
    return Rows(data, rows.source, ready=any(name in data.features for name in _INPUT_KEYS))


def _read_path_or_hub(
    name: str, config_name: str | None, split: str | None, documents: bool, prefer: tuple[str, ...]
) -> Rows:
    from datasets import DatasetDict, load_dataset, load_from_disk

    path = Path(os.path.expanduser(name))
    sliced = split if split is not None and "[" in split else None
    with _reading(name, local=os.path.exists(path)):
        if not os.path.exists(path):
            check_path(name)
            loaded = load_dataset(name, config_name, split=sliced)
        elif path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
            loaded = load_from_disk(str(path))
        else:
            loaded = load_dataset(**local_arguments(path, documents, config_name), split=sliced)
    if isinstance(loaded, DatasetDict):
        loaded = pick_split(loaded, split, prefer, name)
    return Rows(loaded, ", ".join(part for part in (name, config_name, split) if part))


def check_path(name: str) -> None:
    """Refuse what reads like a local path and is none; a Hub id passes, since nothing is asked of the network.

    Raises:
        DataError: names the path.
    """
    path = Path(os.path.expanduser(name))  # os.path: no name is too long for it, and links may go in a circle
    if os.path.exists(path):
        return
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local or path.suffix.lower() in LOADERS:
        raise DataError(f"The dataset path {shorten(name, 200)} does not exist. Check the spelling of the path.")


def _guess(name: str) -> str:
    """Which source that needs no file was probably meant, as a sentence; empty where none is near."""
    return did_you_mean(name, (SELF, GENERAL, *(f"{GENERAL}/{genre}" for genre in GENRES)))


@contextlib.contextmanager
def _reading(name: str, local: bool) -> Iterator[None]:
    import datasets

    silent, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs with a traceback what it raises anyway
    if local:
        datasets.disable_progress_bars()
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        origin = error.__cause__ if local and error.__cause__ is not None else error  # `datasets` wraps what it met
        reason = str(origin).strip().partition("\n")[0] or type(origin).__name__
        if local:
            raise DataError(
                f"The dataset {name!r} cannot be read ({reason}). Check the file and its format; "
                "text, JSON lines, CSV and Parquet files, folders of them and image folders work."
            ) from error
        raise DataError(
            f"{name!r} is neither a local path nor a dataset that the Hub gives ({reason}).{_guess(name)} Check "
            "the id, --dataset-config-name and the network, or give a local file or, for causal language models, "
            "'self'."
        ) from error
    finally:
        datasets.logging.set_verbosity(verbosity)
        if local and not silent:
            datasets.enable_progress_bars()


def _read_memory(dataset: DataSource, strings: str) -> Rows:
    from datasets import Dataset

    if isinstance(dataset, (Mapping, bytes)) or not isinstance(dataset, Iterable):
        raise DataError(
            f"A {type(dataset).__name__} is not a dataset: expected a list of strings, of rows or of tokenized dicts, "
            "a datasets.Dataset, a path, a Hub id, 'self', or a mapping from sources to weights."
        )
    source = f"{type(dataset).__name__} in memory"
    if not isinstance(dataset, (list, tuple)):
        return Rows(dataset, source, ready=True)
    if not dataset:
        raise DataError("The list given as dataset is empty. Give at least one sample.")
    source = f"{type(dataset).__name__} of {len(dataset)} in memory"
    first = dataset[0]
    if not isinstance(first, Mapping):
        if isinstance(first, (Tensor, np.ndarray)):
            return Rows(dataset, source, ready=True)
        return Rows(_columns({strings: list(dataset)}, source), source)
    if any(isinstance(value, (Tensor, np.ndarray)) for value in first.values()) or set(first) & set(_INPUT_KEYS):
        return Rows(dataset, source, ready=True)
    with _reading(source, local=True):
        return Rows(Dataset.from_list([dict(row) for row in dataset]), source)


def _columns(columns: dict[str, list[Any]], source: str) -> Any:
    import pyarrow
    from datasets import Dataset

    try:
        return Dataset.from_dict(columns)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        kinds = sorted({type(value).__name__ for values in columns.values() for value in values})
        raise DataError(f"The {source} holds {kinds}, expected strings or rows of one form.") from error


def input_names(model_class: type[nn.Module]) -> tuple[str, ...]:
    """Names of the inputs that a model's ``forward`` takes, the first one first; labels are none.

    A ``forward`` that names none, as that of a wrapper, is taken to pass tokens and pixels on.
    """
    parameters = list(inspect.signature(model_class.forward).parameters)[1:]
    return tuple(name for name in parameters if name not in _NO_INPUTS) or (
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "pixel_values",
    )


def only_inputs(samples: Iterable[Mapping[str, Tensor]], model_class: type[nn.Module]) -> list[dict[str, Tensor]]:
    """The samples without what the model does not take, such as ``token_type_ids`` of a tokenizer not its own."""
    names = set(input_names(model_class))
    return [{key: value for key, value in sample.items() if key in names} for sample in samples]


def ready_samples(
    rows: Iterable[Any], accepted: tuple[str, ...], limit: int, label: str | None = None
) -> list[dict[str, Tensor]]:
    """The first ``limit`` samples of ready-made inputs, without a batch axis.

    Args:
        rows: mappings of tensors, arrays or lists; one sample or one batch each (``input_ids`` 1-D or 2-D,
            ``input_features`` of sounds 2-D or 3-D, ``pixel_values`` and other inputs 3-D or 4-D). A bare tensor, or
            the first entry of a pair as in ``(images, labels)``, is taken as the model's first input.
        accepted: the model's input names, first one first; other entries are left out, as are labels.
        limit: most samples.
        label: entry that holds the classes, of pairs the second; they become the entry ``labels`` of the samples.

    Raises:
        DataError: an entry is no mapping, has no input of the model, or cannot be made a tensor.
    """
    samples: list[dict[str, Tensor]] = []
    for index, row in enumerate(rows):
        if len(samples) >= limit:
            break
        inputs = _as_inputs(row, index, accepted)
        samples += _split_batch(inputs if label is None else {**inputs, LABELS: _label_of(row, index, label)})
    if not samples:
        raise DataError("The dataset yields no samples. Give at least one.")
    return samples[:limit]


def _as_inputs(row: object, index: int, accepted: tuple[str, ...]) -> dict[str, Tensor]:
    if isinstance(row, (tuple, list)) and row and isinstance(row[0], (Tensor, np.ndarray)):
        row = row[0]
    if isinstance(row, (Tensor, np.ndarray)):
        row = {accepted[0]: row}
    if not isinstance(row, Mapping):
        raise DataError(
            f"Dataset item {index} is a {type(row).__name__}, expected a dict of model inputs "
            f"such as {accepted[0]!r}. Give dicts of tensors, or a list of strings."
        )
    inputs = {key: value for key, value in row.items() if key in accepted and value is not None}
    if not inputs:
        raise DataError(
            f"Dataset item {index} has the entries {sorted(map(str, row))}, none of which the model takes: "
            f"{list(accepted)}. Rename them."
        )
    try:
        return {key: torch.as_tensor(value) for key, value in inputs.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Dataset item {index} cannot be made tensors ({error}). Give numbers of one shape.") from error


def _label_of(row: Any, index: int, label: str) -> Tensor:
    pair = isinstance(row, (tuple, list)) and len(row) > 1
    value = row.get(label) if isinstance(row, Mapping) else row[1] if pair else None
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DataError(
            f"Dataset item {index} has {value!r} as {label!r}, expected class numbers. Name the right entry with "
            "label_column, or leave it out."
        )
    return found.long()


def _split_batch(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    name, lead = next(iter(inputs.items()))
    single = (2,) if name in ("inputs_embeds", "input_features") else (1, 3)
    if lead.dim() in single:
        return [inputs]
    if len({len(value) for value in inputs.values()}) > 1:
        sizes = {key: tuple(value.shape) for key, value in inputs.items()}
        raise DataError(f"The inputs of one batch have different first axes: {sizes}. Give each the same batch size.")
    return [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
