"""Writing a model for another engine by the name of the target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_grail.config.building import method_options
from optimum_grail.config.spelling import coerce, parse_method
from optimum_grail.errors import ConfigError, did_you_mean
from optimum_grail.export.contract import Exported, Target
from optimum_grail.export.targets import TARGETS
from optimum_grail.report.progress import Progress


def build_target(spelling: str | Mapping[str, Any], **options: Any) -> Target:
    """The target that ``spelling`` names.

    Args:
        spelling: its name or its engine's, ``NAME``, ``NAME:key=value,...`` or ``{"name": NAME, key: value}``.
        options: win over those of ``spelling``.

    Raises:
        UnknownNameError: no target of that name.
        ConfigError: the target has no such option, or refuses its value.
    """
    name, given = parse_method(spelling)
    entry = next((target for _, target in TARGETS if target.engine == name), None) or TARGETS.get(name)
    fields = method_options(entry)
    values = {}
    for key, value in {**given, **options}.items():
        if key not in fields:
            raise ConfigError(
                f"The export target {name!r} has no option {key!r}.{did_you_mean(key, fields)} It has: "
                f"{', '.join(fields) or 'none'}."
            )
        try:
            values[key] = coerce(value, fields[key][0])
        except ConfigError as error:
            raise ConfigError(f"{key} of the export target {name!r} is {error}") from None
    return entry(**values)


def export_model(
    model: str | Path,
    output: str | Path,
    to: str | Mapping[str, Any] | Target = "gguf",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a model for another engine, completely or not at all.

    Args:
        model: folder or Hub id of a model, compressed or not.
        output: the file or folder to be.
        to: name of a target, with options as methods have them (``"gguf:type=q8_0"``), or the target itself.
        overwrite: whether an older file there may be replaced.
        progress: told how far it is.

    Raises:
        GrailError: as of the target.
    """
    target = to if isinstance(to, Target) else build_target(to)
    return target(model, output, overwrite, progress)
