"""Where a model comes from: a Hub id or a folder, and its commit."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not re-exported

from optimum_grail.errors import ConfigError

REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def hub_id(model: str | Path) -> str | None:
    """``model`` if it reads like a Hub id and no such folder exists here, else ``None``.

    An owner is required (``owner/name``): a bare name may as well be a class or a folder that has gone.
    """
    text = str(model)
    return text if REPOSITORY_ID.fullmatch(text) and not os.path.exists(text) else None


def commit_of(model: str, revision: str | None = None) -> str | None:
    """The commit of a model of the Hub that was loaded here, as the cache knows it; ``revision`` if it does not."""
    path = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def local_folder(model: str, revision: str | None = None) -> Path | None:
    """The folder of a model, or its snapshot in the Hub's cache; ``None`` if there is none with a ``config.json``."""
    if hub_id(model) is None:
        return Path(model) if Path(model, "config.json").is_file() else None
    path = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(path).parent if isinstance(path, str) else None


def check_base_model(name: str) -> str:
    """``name`` if it can be a model on the Hub; a bare name is allowed here, since its user calls it one.

    Raises:
        ConfigError: it is a path, or no Hub repository can have that name.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        found = False
    else:
        found = not os.path.exists(name)
    if not found:
        raise ConfigError(
            f"base_model={name!r} is no model on the Hub; expected an id such as 'owner/name'. A path of this machine "
            "would mean nothing to others: leave it out if the base model is not published."
        )
    return name
