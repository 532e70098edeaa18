"""From any declaration of a map to the group of one block."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.spec import ExpertChannels, Experts, GroupSpec, SharedChannels
from optimum_grail.models.expert_groups import channels_group, experts_group
from optimum_grail.models.grouping import GroupBuilder


def group_of(model: nn.Module, owner: str, block: str, layer: str, spec: GroupSpec) -> ChannelGroup:
    """The group that ``spec`` declares in the block at ``block``.

    Args:
        model: the model.
        owner: path of the sub-model whose config describes the width.
        block: path of the block.
        layer: key of the block in the per-layer table.
        spec: the declaration.

    Raises:
        ArchitectureError: a module is absent or of the wrong kind, or widths do not fit.
    """
    if isinstance(spec, Experts):
        return experts_group(model, owner, block, layer, spec)
    if isinstance(spec, ExpertChannels):
        return channels_group(model, owner, block, layer, spec)
    if isinstance(spec, SharedChannels):
        return _SharedBuilder(model, owner, block, layer).shared(spec)
    return GroupBuilder(model, owner, block, layer).build(spec)


class _SharedBuilder(GroupBuilder):
    """Builds feed-forward groups whose units are so many channels side by side as there are experts."""

    def shared(self, spec: SharedChannels) -> ChannelGroup:
        """The group that ``spec`` declares."""
        config, width = getattr(self.model.get_submodule(self.owner), "config", None), self._columns(spec.consume)
        count = max(int(getattr(config, spec.count, 1)), 1)
        self._multiple(spec.consume, width, count, f"the number of experts in {spec.count}")
        for local in spec.attributes:
            self._equal(local, self._attribute(local, 0), width)
        producers, attributes = [(source, count) for source in spec.produce], [self._path(at) for at in spec.attributes]
        group = self._group(
            spec,
            "shared-channels",
            width // count,
            producers,
            (spec.consume, count),
            fields=((spec.field, 1),),
            attributes=tuple((path, count) for path in attributes),
        )
        return replace(group, uniform=f"{self.owner}/{spec.bond}")
