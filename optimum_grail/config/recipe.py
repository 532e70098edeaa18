"""A configuration's file: JSON or YAML, a run's report, or the folder of either; and the keys that it may hold."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import yaml
from packaging.version import InvalidVersion, Version

from optimum_grail.config.options import BY_NAME
from optimum_grail.errors import ConfigError, did_you_mean, shorten
from optimum_grail.report.report import REPORT_FILE

METHOD = "grail"
CONFIG_FILE = "grail_config.json"
STAMP = "optimum_grail_version"
"""Key of the version that wrote a file."""
CARRIED = frozenset({"layers", "how_to_load", "widths", "base_model", "base_model_revision"})
"""Keys that a saved checkpoint's table adds to the configuration: kept in ``extra``."""


def stamped(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as a file holds them: with the version that writes it, or the newer one that its keys come from."""
    return {STAMP: version("optimum-grail"), **values}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a configuration's file, unchecked.

    Args:
        path: a JSON or YAML file of configuration fields, a run's ``grail_report.json``, or a folder with
            ``grail_config.json`` or a report in it, such as a compressed checkpoint or a card's.

    Raises:
        ConfigError: nothing readable there, or something else than a configuration; the message names the file.
    """
    place = Path(path)
    if os.path.isdir(place):  # a pathlib.Path would stumble over a name that is too long
        found = [place / name for name in (CONFIG_FILE, REPORT_FILE) if (place / name).is_file()]
        if not found:
            raise ConfigError(f"The folder {str(path)!r} holds neither {CONFIG_FILE} nor {REPORT_FILE}.")
        place = found[0]
    try:
        values = _parsed(place)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration {str(place)!r}: {error}.") from error
    except RecursionError:
        raise ConfigError(f"The configuration {str(place)!r} is nested too deep; it holds flat fields.") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"The configuration {str(place)!r} holds a {type(values).__name__}; expected a JSON object, or fields of "
            "the form `sparsity: 0.3` in YAML."
        )
    return _configuration({str(key): value for key, value in values.items()}, place)


def _parsed(place: Path) -> Any:
    """What the file holds. YAML's numbers without a dot (``1e-3``) are words; they are read as the field reads them."""
    text = place.read_text(encoding="utf-8")
    if place.suffix.lower() not in (".yaml", ".yml"):
        try:
            return json.loads(text)
        except ValueError as error:  # numbers of thousands of digits included
            raise ConfigError(f"The configuration {str(place)!r} is not JSON: {error}.") from error
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"The configuration {str(place)!r} uses aliases (*name); write the value itself.")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"The configuration {str(place)!r} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        return values
    words = {key for key, value in values.items() if isinstance(value, str) and key in BY_NAME}
    return {key: BY_NAME[key].parse(value) if key in words else value for key, value in values.items()}


def _configuration(values: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The configuration in a file's values: themselves, or a report's.

    Raises:
        ConfigError: they are something else.
    """
    if "parameters_before" in values and isinstance(values.get("config"), dict):
        versions = values.get("versions")
        written = versions.get("optimum-grail") if isinstance(versions, dict) else None
        return {STAMP: written, **values["config"]}
    if {"model_type", "architectures"} & set(values):
        raise ConfigError(
            f"{str(place)!r} is a model's config.json, not a grail configuration. Name a file of fields such as "
            f"sparsity and preset, or the {CONFIG_FILE} or {REPORT_FILE} of an earlier run."
        )
    known = {*BY_NAME, *CARRIED, STAMP, "version", "quant_method"}
    if values and not known & set(values) and not any(did_you_mean(key, BY_NAME) for key in values):
        raise ConfigError(
            f"{str(place)!r} is no grail configuration: it has none of its fields ({_some(values)} instead). "
            "`optimum-cli grail compress --help` lists them."
        )
    return dict(values)


def split_keys(values: Mapping[str, Any], live: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields among ``values``, and what else a configuration carries along.

    Args:
        values: of a file, a dictionary, or keyword arguments.
        live: names that are no fields, but taken.

    Returns:
        ``(fields, extra)``; ``extra`` holds what a checkpoint's table adds, and keys that this version does not know
        from a file of a newer one.

    Raises:
        ConfigError: another method's configuration, or a key that is no field, unless a newer version wrote it; a
            value of such a key that is no JSON.
    """
    rest = dict(values)
    method = rest.pop("quant_method", METHOD)
    if method != METHOD:
        raise ConfigError(
            f"quant_method is {shorten(method)}; a GrailConfig has 'grail'. This is another method's configuration."
        )
    written = [rest.pop(key, None) for key in (STAMP, "version")]
    newer = next((word for word in written if _is_newer(word)), None)
    fields = {key: rest.pop(key) for key in tuple(rest) if key in BY_NAME or key in live}
    unknown = sorted(set(rest) - CARRIED)
    if unknown and newer is None:
        raise ConfigError(
            f"Unknown key {shorten(unknown[0])} in a grail configuration.{did_you_mean(unknown[0], BY_NAME)} "
            "`optimum-cli grail compress --help` lists the fields."
        )
    if unknown:
        note = f"optimum-grail {newer} wrote this configuration; what this version does not know is kept: "
        warnings.warn(f"{note}{_some(unknown)}.", UserWarning, stacklevel=3)
        rest[STAMP] = newer
    try:
        return fields, cast(dict[str, Any], json.loads(json.dumps(rest)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{_some(rest)} of a grail configuration must be JSON values: {error}.") from None


def _some(keys: Iterable[object]) -> str:
    names = [str(key)[:80] for key in keys]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_newer(word: object) -> bool:
    try:
        return isinstance(word, str) and Version(word) > Version(version("optimum-grail"))
    except InvalidVersion:
        return False
