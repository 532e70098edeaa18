"""One file per refit; a refit changes what is left of the producers."""

from __future__ import annotations

from optimum_grail.core.contracts import Refit
from optimum_grail.registry import Registry

REFITS: Registry[type[Refit]] = Registry("refit", __name__, "`optimum-cli grail list refits` describes them.")
