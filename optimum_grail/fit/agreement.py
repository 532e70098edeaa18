"""That all processes have made the same of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimum_grail.core.plan import GroupPlan
from optimum_grail.errors import ConfigError
from optimum_grail.fit.methods import Methods
from optimum_grail.processes.ranks import Ranks


def check_shareable(methods: Methods, ranks: Ranks) -> None:
    """Refuse, before anything is measured, methods whose rows several processes cannot share.

    Raises:
        ConfigError: the selector trains every block on one sample after the other, or experts of a mixture, or
            channels inside them, go.
    """
    if ranks.count > 1 and methods.in_mixtures:
        raise ConfigError(
            "Several processes cannot share the rows that are sent to the experts of a mixture yet. Run one process, "
            "or leave --experts, --expert-sparsity and --expert-ffn-sparsity out."
        )
    if ranks.count > 1 and methods.selector.tuning_rounds:
        raise ConfigError(
            f"{type(methods.selector).__name__} trains every block on one sample after the other (rounds="
            f"{methods.selector.tuning_rounds}), and several processes cannot share that. Set its rounds to 0, choose "
            "another selector, or run one process."
        )


def agreed(ranks: Ranks, model: nn.Module, path: str, plans: list[GroupPlan]) -> list[GroupPlan]:
    """``plans``, after comparing with the other processes which units of a block stay, and what its consumers have
    become.

    Args:
        ranks: the processes.
        model: with the block at ``path`` compressed.
        path: of the block, for messages.
        plans: what was done to it.

    Raises:
        ProcessError: another process has made something else of it.
    """
    if ranks.count == 1:
        return plans
    found: dict[str, Tensor] = {}
    for plan in plans:
        found[f"units of {plan.group.name}"] = plan.reduction.assignment
        weight = model.get_submodule(plan.group.consumer.module).get_parameter("weight").detach()
        if weight.device.type != "meta" and weight.numel():
            sizes = weight.double().abs()
            found[f"weights of {plan.group.name}"] = torch.stack([sizes.sum(), sizes.square().sum().sqrt()])
    ranks.agreed(f"block {path}", found)
    return plans
