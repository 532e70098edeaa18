"""Sizes that contradict each other: one may be asked for, or several of single kinds of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_grail.config.budgets import BUDGETS, TARGETS, UNIT_BUDGETS
from optimum_grail.errors import ConfigError


def check_sizes(values: Mapping[str, Any]) -> None:
    """Refuse sizes that exclude each other.

    Args:
        values: of the configuration's fields, by name.

    Raises:
        ConfigError: more than one size, but for those of single kinds; one that is counted in something else than
            ``budget`` says; or a number of experts that rounding would change.
    """
    given = {name: values[name] for name in BUDGETS if values[name] is not None}
    alone = [name for name in given if name in ("sparsity", *TARGETS)]
    if alone and len(given) > 1:
        other = next(name for name in given if name != alone[0])
        raise ConfigError(
            f"{alone[0]}={given[alone[0]]} and {other}={given[other]} contradict each other: sparsity is a "
            "fraction of the blocks, target_parameters and target_bytes are sizes of the whole model, and "
            f"{', '.join(UNIT_BUDGETS)} are sizes of one kind. Give one or the other."
        )
    for target, budget in TARGETS.items():
        if target in given and values["budget"] not in (None, budget):
            raise ConfigError(
                f"{target}={given[target]} and budget={values['budget']} contradict each other: a size is counted in "
                f"{budget}. Leave budget out, or give sparsity, which is a fraction of it."
            )
    meant = values["expert_ffn_sparsity"] is None  # else it is the channels that are rounded
    _check_experts(values["experts"], values["expert_sparsity"], (meant and values["round_to"]) or 1)


def _check_experts(experts: int | None, sparsity: float | None, round_to: int) -> None:
    if experts is not None and sparsity is not None:
        raise ConfigError(f"experts={experts} and expert_sparsity={sparsity} contradict each other. Give one.")
    if experts is not None and experts % round_to:
        raise ConfigError(
            f"experts={experts} is no multiple of round_to={round_to}. Give a multiple, or leave round_to out."
        )
