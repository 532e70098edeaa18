"""Rotary positions of heads that have lost dimensions inside, as the stock config says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.errors import ArchitectureError
from optimum_grail.models.head_size import OwnTurns
from optimum_grail.models.layout import Layout
from optimum_grail.models.stock import config_of

STATIC = ("default", "linear", "llama3", "yarn", "longrope")
"""Kinds of rotary positions whose frequencies do not depend on the length of the text."""
PLAIN = ("default", "linear", "llama3")
"""Those of them that make each frequency from the plain one alone."""


def resized(layout: Layout, pairs: Mapping[str, Tensor]) -> Layout:
    """The layout when the heads of every owner named in ``pairs`` (rotation pairs that stay) have lost dimensions, as
    if the model had come so; sizes of the whole model are left as they were."""
    groups, weights = [], dict(layout.weights)
    for group in layout.groups:
        inside = group.inside if group.owner in pairs else None
        if inside is None:
            groups.append(group)
            continue
        size = 2 * len(pairs[group.owner])
        for path in (inside.query, inside.key, inside.value):
            if path in weights:
                weights[path] = replace(weights[path], rows=weights[path].rows // inside.size * size)
        consumer = weights[group.consumer.module]
        weights[group.consumer.module] = replace(consumer, columns=consumer.columns // inside.size * size)
        groups.append(group.resized(size))
    return replace(layout, groups=tuple(groups), weights=weights)


def settle_head_size_(model: nn.Module, layout: Layout, pairs: Mapping[str, Tensor]) -> Layout:
    """Say in the configs that heads have lost dimensions, and make the modules of positions anew from them.

    Args:
        model: every attention of the owners in ``pairs`` has lost its dimensions, or all its heads, or will be dropped.
        layout: of the dense model.
        pairs: the rotation pairs that stay, int64, by owner.

    Returns:
        the layout as if the dense model had come with these heads.
    """
    for owner, chosen in pairs.items():
        inside = [group.inside for group in layout.groups if group.owner == owner and group.inside is not None]
        config, path = config_of(model, owner), inside[0].rotary
        rotary: Any = model.get_submodule(path)
        config.rope_parameters = turns_of(config, rotary, chosen, inside[0].size)
        config.head_dim = 2 * len(chosen)
        fresh = type(rotary)(config=config).to(rotary.inv_freq.device)
        above, _, name = path.rpartition(".")
        setattr(model.get_submodule(above), name, fresh)
    for module in model.modules():
        own = [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, OwnTurns)]
        for key in own:
            del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
    return resized(layout, pairs)


def turns_of(config: Any, rotary: Any, pairs: Tensor, whole: int) -> dict[str, Any]:
    """The config's ``rope_parameters`` with which a model of smaller heads turns its pairs as fast as ``pairs`` of the
    dense one.

    Where the slowest pairs went and each frequency is made from the plain one alone, another base does it; else the
    frequencies are spelled out as the factors of ``longrope``, the same for short and long texts.

    Raises:
        ArchitectureError: the frequencies of the dense model depend on the length of the text.
    """
    known = dict(config.rope_parameters)
    check_static(known)
    size, base = 2 * len(pairs), float(known["rope_theta"])
    if known["rope_type"] in PLAIN and torch.equal(pairs, torch.arange(len(pairs))):
        return {**known, "rope_theta": base ** (size / whole)}
    steps = torch.arange(0, size, 2, dtype=torch.float64) / size
    factors = (base**-steps / rotary.inv_freq.detach().cpu().double()[pairs]).tolist()
    return {
        "rope_type": "longrope",
        "rope_theta": base,
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": float(rotary.attention_scaling),
        "original_max_position_embeddings": int(config.max_position_embeddings),
    }


def check_head_size(model: nn.Module, layout: Layout) -> None:
    """Refuse heads whose positions or config cannot follow when they shrink inside.

    Raises:
        ArchitectureError: as :func:`check_static`, or a model without a config, which could not say the head size.
    """
    for owner in {group.owner for group in layout.groups if group.inside is not None}:
        config = config_of(model, owner)
        if config is None:
            raise ArchitectureError("Heads can shrink inside only where a config says how large they are.")
        check_static(dict(config.rope_parameters))


def check_static(turns: Mapping[str, Any]) -> None:
    """Refuse positions that the frequencies of single pairs cannot say.

    Args:
        turns: the config's ``rope_parameters``.

    Raises:
        ArchitectureError: they depend on the length of the text, or turn a part of each head only.
    """
    kind = turns.get("rope_type")
    varies = kind not in STATIC or turns.get("short_factor") != turns.get("long_factor")
    if varies or turns.get("partial_rotary_factor", 1.0) != 1.0:
        raise ArchitectureError(
            f"The rotary positions of this model ({kind}) depend on the length of the text or turn a part of each head "
            "only; heads can shrink inside where every pair of dimensions has one speed. Leave out --head-dim-sparsity."
        )
