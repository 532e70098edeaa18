"""What the groups of a model ask of memory."""

from __future__ import annotations

from torch import nn

from optimum_grail.core.groups import IN_BANKS, ChannelGroup
from optimum_grail.fit.experts import experts_at_once, together
from optimum_grail.models.layout import Layout
from optimum_grail.models.matrix import taps
from optimum_grail.streams.problems import view_of


def features_of(model: nn.Module, layout: Layout, name: str) -> int:
    """Features that are solved for together."""
    group, consumer = layout.group(name), model.get_submodule(layout.group(name).consumer.module)
    if group.kind == "experts":
        return group.units * taps(consumer) if together(model, group) else taps(consumer)
    if group.kind == "expert-channels":
        return group.copies * group.units if together(model, group) else group.units
    return group.units * group.consumer.span * (taps(consumer) if view_of(model, group) == "patch" else 1)


def statistics_of(model: nn.Module, group: ChannelGroup, features: int) -> int:
    """Bytes of a group's sums; of experts, also of the copy of their block."""
    if group.kind not in IN_BANKS:
        return 32 * features**2
    copied = bytes_of(model.get_submodule(group.block))
    return copied + 32 * features**2 * (1 if together(model, group) else experts_at_once(model, group))


def visiting(model: nn.Module, layout: Layout) -> int:
    """Bytes of weights that are in memory for a while: of a block, and of the largest module that belongs to none."""
    inside = [model.get_submodule(path) for stack in layout.stacks for path in stack.blocks]
    parts = {id(module) for block in inside for module in block.modules()}
    others = (module for module in model.modules() if id(module) not in parts)
    alone = (sum(4 * item.numel() for item in module.parameters(recurse=False)) for module in others)
    return max(map(bytes_of, inside), default=0) + max(alone, default=0)


def bytes_of(module: nn.Module) -> int:
    """Bytes of the parameters of ``module`` in float32."""
    return sum(parameter.numel() * 4 for parameter in module.parameters())
