"""Whether an evaluation set comes from the corpus that a model was calibrated on, as far as that can be told.

A compressed model is as good as measured on data like its calibration data; how it does elsewhere is told by sets of
other corpora only. Another split of one data set shares no row with it and is the same corpus all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from optimum_grail.config.source import GENERAL, SELF, is_general, split_word
from optimum_grail.data.files import SPLIT_ALIASES

IN = "in corpus"
OUT = "out of corpus"
UNKNOWN = "not known"
COMMONPLACE = 0.02
"""Common share of two sets of fingerprints that says nothing: unrelated stories begin with the same words too."""
_SPLITS = frozenset({*SPLIT_ALIASES, *SPLIT_ALIASES.values()})


def relation(calibration: Sequence[str], evaluation: str, shared: float = 0.0) -> str:
    """``"in corpus"``, ``"out of corpus"``, or ``"not known"``.

    In corpus: at least 2 % of the fingerprints of one side are the other's too; the same Hub id, whatever the
    configuration and split; the same file; one file or folder inside the other; or files whose paths differ by nothing
    but the words for splits (``train``, ``valid``, ``test`` …) and by numbers in the file's name
    (``wikitext-2/valid.parquet`` and ``wikitext-2/test.parquet``).

    Not known: data in memory, which has no name; a local path against a Hub id; files of other names in one folder, or
    of one name in several folders.

    Out of corpus: everything else. So is all data where the model wrote its calibration text itself, or where that was
    the corpus of general text that comes with the package.

    Args:
        calibration: what the report calls the sources that were calibrated on, at least one.
        evaluation: what it calls the evaluation set.
        shared: the larger share of fingerprints in common, 0 to 1.
    """
    if shared >= COMMONPLACE:
        return IN
    found = {_of_two(source, evaluation) for source in calibration}
    if IN in found:
        return IN
    return OUT if found == {OUT} else UNKNOWN


def _of_two(calibration: str, evaluation: str) -> str:
    if calibration == SELF or calibration.startswith((f"{SELF}, ", f"{SELF}:")):
        return OUT
    if is_general(calibration) or is_general(evaluation):
        both = is_general(calibration) and is_general(evaluation)
        return IN if both and (GENERAL in (calibration, evaluation) or calibration == evaluation) else OUT
    if any(name.endswith(" in memory") for name in (calibration, evaluation)):
        return UNKNOWN
    here, there = _path(calibration), _path(evaluation)
    if here is None and there is None:
        ids = [split_word(name)[0].partition(", ")[0].lower() for name in (calibration, evaluation)]
        return IN if ids[0] == ids[1] else OUT
    if here is None or there is None:
        return UNKNOWN
    return _of_paths(here, there)


def _of_paths(here: Path, there: Path) -> str:
    if here.is_relative_to(there) or there.is_relative_to(here):
        return IN
    (folder, name), (other_folder, other_name) = _corpus(here), _corpus(there)
    if (folder, name) == (other_folder, other_name):
        return IN
    return UNKNOWN if folder == other_folder or (name and name == other_name) else OUT


def _path(source: str) -> Path | None:
    """The file or folder that a report's ``PATH, CONFIG, SPLIT`` or ``PATH:key=value`` begins with; ``None``: it is an
    id of the Hub."""
    parts = [source] if os.path.exists(os.path.expanduser(source)) else split_word(source)[0].split(", ")
    for count in range(len(parts), 0, -1):
        path = os.path.expanduser(", ".join(parts[:count]))
        if os.path.exists(path):
            return Path(path).resolve()
    name = parts[0]
    return Path(name).expanduser().resolve() if name.startswith(("/", ".", "~")) or name.count("/") > 1 else None


def _corpus(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of the folders above ``path``, and those of its name: without splits, of the name without numbers."""
    folders = (_words(part, r"[^a-z0-9]+") for part in path.parent.parts)
    stem = path.name if path.is_dir() else re.sub(r"\d+-of-\d+", "", path.stem)
    return tuple(word for words in folders for word in words), tuple(_words(stem, r"[^a-z]+"))


def _words(part: str, between: str) -> Iterable[str]:
    return [word for word in re.split(between, part.lower()) if word and word not in _SPLITS]
