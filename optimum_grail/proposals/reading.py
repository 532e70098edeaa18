"""Map files: Python modules with ``SPECS``. They are code, and run only where the user names one."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ArchitectureError, ConfigError


def read_maps(path: str | Path) -> tuple[ArchitectureSpec, ...]:
    """Run a map file and return its ``SPECS``.

    Args:
        path: a Python file; its code runs in this process.

    Raises:
        ConfigError: there is no such file.
        ArchitectureError: its code fails, or it defines no specs that serve model types.
    """
    place = Path(path).expanduser()
    if not place.is_file() or place.suffix != ".py":
        raise ConfigError(
            f"The map {str(path)!r} is no Python file; expected one with SPECS, as `optimum-cli grail inspect "
            "--propose -o map.py` writes it."
        )
    try:
        found = runpy.run_path(str(place)).get("SPECS")
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        raise ArchitectureError(
            f"The map {str(path)!r} does not run: {type(error).__name__}: {str(error)[:300]}. Correct the file."
        ) from error
    specs = (found,) if isinstance(found, ArchitectureSpec) else found
    if not isinstance(specs, (tuple, list)) or not specs or not all(isinstance(s, ArchitectureSpec) for s in specs):
        raise ArchitectureError(
            f"The map {str(path)!r} defines no SPECS; expected a tuple of one ArchitectureSpec or more. Correct it."
        )
    if any(not spec.model_types for spec in specs):
        raise ArchitectureError(
            f"A spec of the map {str(path)!r} serves no model type. Set model_types to the config's model_type."
        )
    return tuple(specs)


@contextmanager
def serving_maps(path: str | Path | None) -> Iterator[None]:
    """Let the maps of a file serve their model types for a while, whatever serves them otherwise; nothing for ``None``.

    Raises:
        ConfigError, ArchitectureError: as :func:`read_maps` says.
    """
    with ExitStack() as served:
        for spec in () if path is None else read_maps(path):
            served.enter_context(ARCHITECTURES.serving(spec))
        yield
