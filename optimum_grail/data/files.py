"""Which reader of ``datasets`` fits a local file or folder, which of its files belong to which split, and which split
is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_grail.errors import DataError

LOADERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
"""Readers of single files, by ending."""

SPLIT_ALIASES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Other names of the three usual splits."""

_IMAGES = dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"), "imagefolder")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_PREFERENCE = ("imagefolder", "parquet", "json", "csv", "text")
_SPLITS = ("train", "validation", "test")


def local_arguments(path: Path, documents: bool, config_name: str | None) -> dict[str, Any]:
    """Arguments for ``datasets.load_dataset`` to read a file or folder.

    Splits of a folder are told from the names of its files and subfolders only; ``datasets`` itself also looks at the
    folders above, where a ``test`` in the path would put everything into one split.

    Args:
        path: an existing file or folder.
        documents: a text file is one row instead of one row per line.
        config_name: configuration that the folder's README declares.

    Raises:
        DataError: no file that can be read.
    """
    if path.is_dir() and (config_name is not None or _declares_configs(path / "README.md")):
        return {"path": str(path), "name": config_name}
    if path.is_dir():
        loader, files = _files_of(path)
        splits = split_files(path, files)
    else:
        loader, splits = _loader_of(path), {"train": [str(path)]}
    options: dict[str, Any] = {}
    if loader == "text":
        options = {"sample_by": "document" if documents else "line"}
    elif all(name.lower().endswith(".tsv") for names in splits.values() for name in names):
        options = {"sep": "\t"}
    return {"path": loader, "data_files": splits, **options}


def split_files(folder: Path, files: list[Path]) -> dict[str, list[str]]:
    """Group files by the split that their path inside ``folder`` names; all are ``train`` if none names one."""
    splits: dict[str, list[str]] = {}
    for file in files:
        split = split_of(file.relative_to(folder).with_suffix(""))
        if split is not None:
            splits.setdefault(split, []).append(str(file))
    return splits or {"train": [str(file) for file in files]}


def split_of(path: Path) -> str | None:
    """The split that a word of ``path`` names, outermost folder first; None where there is no such word."""
    for word in re.split(r"[^a-z]+", str(path).lower()):
        name = SPLIT_ALIASES.get(word, word)
        if name in _SPLITS:
            return name
    return None


def pick_split(splits: Mapping[str, Any], split: str | None, prefer: tuple[str, ...], what: str) -> Any:
    """The split asked for, else the first of ``prefer`` that exists, else the only one.

    Raises:
        DataError: no such split, or several and none preferred; the message lists them.
    """
    if split is not None:
        for name in (split, SPLIT_ALIASES.get(split, split)):
            if name in splits:
                return splits[name]
        raise DataError(f"{what} has no split {split!r}, only {sorted(splits)}. Choose one with --split.")
    for name in prefer:
        if name in splits:
            return splits[name]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(f"{what} has the splits {sorted(splits)}. Choose one with --split.")


def _declares_configs(readme: Path) -> bool:
    if not readme.is_file():
        return False
    header = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
    return header is not None and re.search(r"^configs:", header.group(1), flags=re.MULTILINE) is not None


def _loader_of(path: Path) -> str:
    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise DataError(
            f"{str(path)!r} is not a dataset file: expected one of {', '.join(LOADERS)}, or a folder. "
            "Convert the file, or give a datasets.Dataset."
        )
    return loader


def _files_of(folder: Path) -> tuple[str, list[Path]]:
    """The reader that most files of the folder need, and those files."""
    kinds = {**LOADERS, **_IMAGES}
    visible = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    ]
    counts = Counter(kinds[file.suffix.lower()] for file in visible if file.suffix.lower() in kinds)
    if not counts:
        raise DataError(
            f"The folder {str(folder)!r} holds no dataset files: expected images, or files ending in "
            f"{', '.join(LOADERS)}. Name the right folder."
        )
    loader = max(_PREFERENCE, key=lambda name: (counts[name], -_PREFERENCE.index(name)))
    extra = _METADATA if loader == "imagefolder" else ()
    return loader, [file for file in visible if kinds.get(file.suffix.lower()) == loader or file.name in extra]
