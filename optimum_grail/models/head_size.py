"""Attention whose heads lose dimensions inside: where that can be done, and what becomes of its weights.

All layers of a model share the module that makes the cosines and sines of the positions. While layers are compressed
one after the other, those that are done take their own dimensions of what the dense module makes; when all are done,
:func:`optimum_grail.models.rotary.settle_head_size_` makes the module anew from the config.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, RotaryHeads
from optimum_grail.core.head_size import HeadReduction
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.spec import Heads
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.models.attributes import read

POSITIONS = "position_embeddings"
"""What blocks hand their attention: the cosines and sines, each ``[B, T, head size]``."""


def inside_of(model: nn.Module, owner: str, block: str, spec: Heads) -> RotaryHeads | None:
    """How the heads that ``spec`` declares in the block at ``block`` can shrink inside; ``None``: they cannot.

    Args:
        model: the model.
        owner: path of the sub-model that owns the config.
        block: path of the block.
        spec: the declaration, of a model whose widths are known to fit it.

    Raises:
        ArchitectureError: the map says that they can, and the model has not what that takes.
    """
    if spec.rotary is None:
        return None
    sources = (spec.query, spec.key, spec.value)
    query, key, value = (f"{block}.{source}".lstrip(".") for source in sources)
    size_at = f"{block}.{spec.head_dim}".lstrip(".")
    scaling_at = f"{size_at.rpartition('.')[0]}.scaling"
    rotary = f"{owner}.{spec.rotary}".lstrip(".")
    size, scaling = read(model, size_at), read(model, scaling_at)
    fits = isinstance(scaling, float) and isinstance(size, int) and abs(scaling - size**-0.5) < 1e-9
    if not fits or not all(isinstance(source, str) for source in sources) or read(model, f"{rotary}.inv_freq") is None:
        raise ArchitectureError(
            f"The map says that heads in {block!r} can shrink inside, expecting three projections, {scaling_at} = "
            f"{size_at} ** -0.5, and a module {rotary} with inv_freq. Leave rotary out of the map."
        )
    return RotaryHeads(query, key, value, size, size_at, scaling_at, rotary)


@dataclass(frozen=True)
class OwnTurns:
    """Goes before an attention that has lost dimensions: takes its own of the cosines and sines of the dense model.

    Args:
        dimensions: int64, ``[d]``.
        whole: dimensions that the dense model has.
    """

    dimensions: Tensor
    whole: int

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with its own dimensions."""
        turns = kwargs[POSITIONS]
        own = tuple(
            turn[..., self.dimensions.to(turn.device)] if turn.shape[-1] == self.whole else turn for turn in turns
        )
        return args, {**kwargs, POSITIONS: own}


def check_inside(model: nn.Module, item: GroupPlan) -> HeadReduction:
    """The reduction of the heads of ``item``, which is about nothing else; refuses what does not fit.

    Raises:
        ArchitectureError: the heads cannot shrink inside, or not so.
        StatisticsError: it is not finite.
    """
    group, found = item.group, item.inside
    if group.inside is None or found is None or item.readout is not None or not item.reduction.is_identity:
        raise ArchitectureError(f"The heads of {group.name!r} cannot shrink inside, or not together with their number.")
    size, heads = group.inside.size, group.consumer.span * group.units // group.inside.size
    shared = model.get_submodule(group.inside.value).get_parameter("weight").shape[0] // size
    shapes = (shared, found.size, size), (heads, size, found.size)
    if (tuple(found.values.shape), tuple(found.outputs.shape)) != shapes or not 0 < found.size <= size:
        raise ArchitectureError(
            f"The plan of {group.name!r} makes {tuple(found.values.shape)} and {tuple(found.outputs.shape)} of its "
            f"heads, expected {shapes}. Make the plan for this model."
        )
    if not bool(torch.isfinite(found.values).all()) or not bool(torch.isfinite(found.outputs).all()):
        raise StatisticsError(
            f"What the heads of {group.name!r} turn into is not finite. Look at the calibration data."
        )
    return found


def shrunk_values(model: nn.Module, group: ChannelGroup, found: HeadReduction) -> Iterator[tuple[str, str, Tensor]]:
    """Path of the module, name and new value of every parameter of heads that shrink inside; float64 but for those of
    keys."""
    if group.inside is None:
        return
    chosen, inside = found.dimensions, group.inside
    for path in (inside.query, inside.key, inside.value):
        for name, tensor in model.get_submodule(path).named_parameters(recurse=False):
            heads = tensor.detach().unflatten(0, (-1, inside.size))  # [heads, D, ...]
            if path == inside.value:
                left = torch.einsum("hdk,hk...->hd...", found.values.to(heads.device), heads.double())
            else:
                left = heads[:, chosen.to(heads.device)]
                left = left.double() * found.gain if path == inside.query and found.size < inside.size else left
            yield path, name, left.flatten(0, 1)
    weight = model.get_submodule(group.consumer.module).get_parameter("weight").detach().double()
    columns = weight.unflatten(1, (-1, inside.size))  # [O, heads, D]
    yield group.consumer.module, "weight", torch.einsum("ohk,hkd->ohd", columns, found.outputs.to(columns)).flatten(1)


def resize_attention_(model: nn.Module, group: ChannelGroup, found: HeadReduction) -> None:
    """Tell the attention of ``group`` its new head size, and let it take its own of the dense model's positions."""
    if group.inside is None or found.size == group.inside.size:
        return
    attention = model.get_submodule(str(group.attention))
    setattr(attention, group.inside.size_at.rpartition(".")[2], found.size)
    setattr(attention, group.inside.scaling_at.rpartition(".")[2], found.size**-0.5)
    attention.register_forward_pre_hook(OwnTurns(found.dimensions, group.inside.size), with_kwargs=True)
