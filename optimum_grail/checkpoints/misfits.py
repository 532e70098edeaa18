"""What a checkpoint could not fill of a model, refused before anybody computes with random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from optimum_grail.errors import CheckpointError


def refuse_misfit(path: str | Path, misfits: list[tuple[str, Any, Any]]) -> None:
    """Refuse weights of other shapes than the configuration asks for.

    Args:
        path: of the checkpoint, for the message.
        misfits: name, stored and expected shape of each.

    Raises:
        CheckpointError: there are some.
    """
    if misfits:
        name, stored, expected = misfits[0]
        raise CheckpointError(
            f"{len(misfits)} weights in {str(path)!r} do not fit config.json: {name!r} has the shape {tuple(stored)}, "
            f"the configuration asks for {tuple(expected)}. Restore the file that was changed."
        )


def refuse_missing(path: str | Path, missing: list[str], stays: bool) -> None:
    """Refuse a checkpoint that lacks weights; warn where it is only a pooler's.

    Args:
        path: of the checkpoint, for the message.
        missing: names of the weights.
        stays: whether the weights stay on disk, where none can be made up.

    Raises:
        CheckpointError: weights are missing that would be random.
    """
    lost = [name for name in missing if "pooler" not in name]
    if lost:
        raise CheckpointError(
            f"{len(lost)} weights are missing in {str(path)!r}, among them {lost[0]!r}; they would be random. "
            "Fetch or write the checkpoint again."
        )
    if missing and stays:
        raise CheckpointError(
            f"{str(path)!r} has no weights for its pooler, which cannot be made up on disk. Load it into memory "
            "(--no-low-memory), or save it once with a pooler."
        )
    if missing:
        warnings.warn(f"{str(path)!r} has no weights for its pooler; they are random.", stacklevel=4)
