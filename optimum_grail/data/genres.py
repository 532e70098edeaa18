"""The corpus of general text that comes with the package, by genre."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

from optimum_grail.config.source import GENERAL
from optimum_grail.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from datasets import Dataset

GENRES: Mapping[str, float] = MappingProxyType(
    {
        "fiction": 3.0,
        "reference": 3.0,
        "news": 2.0,
        "dialogue": 2.0,
        "instruction": 2.0,
        "code": 2.0,
        "mathematics": 1.0,
        "languages": 1.0,
    }
)
"""The genres, and how they share the weight of ``general``."""


def genres_of(name: str) -> dict[str, float]:
    """The sources that ``general`` stands for, or the one genre that ``name`` is, and their shares, which add up to 1.

    Raises:
        UnknownNameError: no such genre.
    """
    if name == GENERAL:
        return {f"{GENERAL}/{genre}": share / sum(GENRES.values()) for genre, share in GENRES.items()}
    genre = name.removeprefix(f"{GENERAL}/")
    if genre not in GENRES:
        raise UnknownNameError.among("genre of the general corpus", genre, GENRES)
    return {name: 1.0}


def read_genre(name: str) -> Dataset:
    """The documents of the corpus (``general``) or of one genre (``general/GENRE``): columns text, genre and source.

    Raises:
        UnknownNameError: no such genre.
    """
    asked = {part.removeprefix(f"{GENERAL}/") for part in genres_of(name)}
    rows = _rows()
    return rows.select([index for index, found in enumerate(rows["genre"]) if found in asked])


def read_general(name: str, config_name: str | None = None, split: str | None = None) -> Dataset:
    """What :func:`read_genre` gives, of a name that may have been meant for something with parts.

    Raises:
        DataError: a configuration or a split is asked for.
        UnknownNameError: no such genre.
    """
    if config_name is not None or split is not None:
        raise DataError(
            f"{name!r} is the corpus that comes with the package, and has neither splits nor configurations, but "
            f"{split or config_name!r} is asked for. Leave it out, or name a folder {name!r} as './{name}'."
        )
    return read_genre(name)


def documents() -> list[str]:
    """All documents of the corpus."""
    return list(_rows()["text"])


@functools.cache
def corpus_digest() -> str:
    """sha256 (hex) of the corpus's file."""
    return hashlib.sha256(_file().read_bytes()).hexdigest()


def _rows() -> Dataset:
    import io

    import pyarrow.parquet
    from datasets import Dataset

    return Dataset(pyarrow.parquet.read_table(io.BytesIO(_file().read_bytes())))


def _file() -> Traversable:
    return files("optimum_grail.data").joinpath("corpora").joinpath("general.parquet")
