"""Named combinations of methods: what ``--preset`` means. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from optimum_grail.errors import UnknownNameError


@dataclass(frozen=True)
class Preset:
    """A named combination of methods.

    Args:
        name: what the user writes.
        summary: one line on what it does.
        needs: one line on what has to be at hand.
        values: the configuration fields it sets; a field the user sets wins over it.
    """

    name: str
    summary: str
    needs: str
    values: Mapping[str, str]


def _preset(name: str, summary: str, needs: str, **values: str) -> Preset:
    return Preset(name, summary, needs, MappingProxyType(values))


_CALIBRATION = "calibration data"

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _preset(
                "grail-plus",
                "Greedy exact elimination, consumers refitted to the dense residual stream, one width per kind "
                "chosen by measured damage. The default.",
                _CALIBRATION,
                selector="obs",
                compensator="grail-plus",
                allocation="balanced",
                within_block="sequential",
            ),
            _preset(
                "grail",
                "GRAIL as published: Wanda scores, every consumer refitted to the full features by ridge regression.",
                _CALIBRATION,
                selector="wanda",
                compensator="grail",
                allocation="uniform",
                within_block="joint",
            ),
            _preset(
                "wanda",
                "Plain pruning by weight times activation norm; nothing is refitted.",
                _CALIBRATION,
                selector="wanda",
                compensator="none",
                allocation="uniform",
                within_block="joint",
            ),
            _preset(
                "magnitude",
                "Plain pruning by weight norm; nothing is refitted.",
                "no data",
                selector="magnitude",
                compensator="none",
                allocation="uniform",
                within_block="joint",
            ),
            _preset(
                "magnitude+grail",
                "Pruning by weight norm, every consumer refitted to the full features by ridge regression.",
                _CALIBRATION,
                selector="magnitude",
                compensator="grail",
                allocation="uniform",
                within_block="joint",
            ),
        )
    }
)

DEFAULT_PRESET = "grail-plus"


def get_preset(name: str) -> Preset:
    """Return the preset called ``name``.

    Raises:
        UnknownNameError: no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise UnknownNameError.among("preset", name, PRESETS, "`optimum-cli grail list presets` describes them.")
    return PRESETS[name]
