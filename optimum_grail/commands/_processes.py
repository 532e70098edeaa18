"""What a launcher (``torchrun``, ``accelerate launch``) has told this process; light, nothing is imported for it."""

from __future__ import annotations

import os

from optimum_grail.errors import ConfigError


def several() -> bool:
    """Whether other processes were started together with this one."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return not several() or os.environ.get("RANK", "0") == "0"


def refuse_several() -> None:
    """For commands that one process does.

    Raises:
        ConfigError: several were started together.
    """
    if several():
        raise ConfigError(
            f"This command runs in one process, and a launcher has started {os.environ['WORLD_SIZE']} of them "
            "(WORLD_SIZE). Run it without torchrun or accelerate launch; `grail compress` is what they can share."
        )
