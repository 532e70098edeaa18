"""Named combinations of methods: what ``--preset`` means. Each stands in the file of the method at its centre."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from optimum_grail.core.preset import Preset
from optimum_grail.errors import ConfigError, UnknownNameError

DEFAULT_PRESET = "grail-plus"
HOMES = (
    ("optimum_grail.compensators", "COMPENSATORS"),
    ("optimum_grail.selectors", "SELECTORS"),
    ("optimum_grail.allocations", "ALLOCATIONS"),
    ("optimum_grail.refits", "REFITS"),
)
"""Folders of methods and their registries, in the order of the list; imported when presets are first asked for."""


def presets() -> Mapping[str, Preset]:
    """All presets by name, the default first. Imports every method, and torch with them.

    Raises:
        ConfigError: two methods state presets of one name.
    """
    found: dict[str, Preset] = {}
    for folder, registry in HOMES:
        methods: Any = getattr(importlib.import_module(folder), registry)
        for name, method in methods:
            for preset in method.presets:
                if preset.name in found:
                    raise ConfigError(
                        f"The method {name!r} states the preset {preset.name!r}, which is there already. Rename one."
                    )
                found[preset.name] = preset
    order = sorted(found, key=lambda name: name != DEFAULT_PRESET)
    return MappingProxyType({name: found[name] for name in order})


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        UnknownNameError: no such preset; the message names the nearest.
    """
    known = presets()
    if name not in known:
        raise UnknownNameError.among("preset", name, known, "`optimum-cli grail list presets` describes them.")
    return known[name]
