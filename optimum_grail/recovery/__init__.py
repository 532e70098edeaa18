"""Recovery: short training of a compressed model on what its dense model says."""

from __future__ import annotations

from optimum_grail.recovery.recipe import Recipe
from optimum_grail.recovery.recover import recover, worsened

__all__ = ["Recipe", "recover", "worsened"]
