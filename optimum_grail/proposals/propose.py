"""From a model without a map to a proposal of one: every group of it keeps the laws of a map."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from optimum_grail.core.spec import ArchitectureSpec, Conv, GroupSpec, Heads, Mlp, never
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.check import check_map
from optimum_grail.models.matrix import columns
from optimum_grail.models.resolve import expand, model_type
from optimum_grail.models.trial import FAILURES
from optimum_grail.proposals.attention import Attention, find_attention
from optimum_grail.proposals.bench import Bench
from optimum_grail.proposals.blocks import Call, Chain, find_chains, lots, owner_of, watch
from optimum_grail.proposals.chains import Reach, pairs, reaches
from optimum_grail.proposals.dummies import dummy_inputs, main_input
from optimum_grail.proposals.fields import with_attributes, with_fields
from optimum_grail.proposals.proposal import LeftOut, Proposal
from optimum_grail.proposals.streams import Found, find_stream

OTHERS = 4
"""Blocks of one class in which a residual sum is looked for."""


@dataclass
class _Search:
    """What is known while one model is looked at."""

    model: nn.Module
    inputs: Mapping[str, Tensor]
    calls: Mapping[str, Call]
    left_out: list[LeftOut] = field(default_factory=list)


def propose(model: nn.Module, inputs: Mapping[str, Tensor] | None = None) -> Proposal:
    """Find what of ``model`` could shrink, by watching a copy of it run.

    Args:
        model: a transformers model or any module, on the CPU; unchanged. Its weights need not be trained.
        inputs: what it is called with, two or more samples, batch first; by default random tokens (and a mask) or
            images, as its config describes them.

    Returns:
        maps whose every group keeps the laws that :func:`optimum_grail.models.check.check_map` tries, and the rest.

    Raises:
        ArchitectureError: the model does not run on the inputs, or they cannot be made up.
    """
    twin = _lively(model)
    given = dict(inputs) if inputs is not None else dummy_inputs(twin)
    try:
        calls = watch(twin, given)
    except FAILURES as error:
        raise ArchitectureError(
            f"{type(model).__name__} does not run on {', '.join(given)}: {str(error)[:300]}. Pass inputs=…, tensors by "
            "name, with which it does."
        ) from error
    search = _Search(twin, given, calls)
    chains = find_chains(twin, calls)
    specs: dict[str, ArchitectureSpec] = {}
    for chain in chains:
        found = _of_chain(search, chain)
        if found is None:
            continue
        key = model_type(twin.get_submodule(chain.owner)) or ""
        specs[key] = _merged(search, specs[key], found) if key in specs else found
    if not chains:
        search.left_out.append(LeftOut(type(model).__name__, "no list of modules runs one after the other"))
    finished = tuple(replace(_completed(search, spec), example=None) for spec in specs.values())
    return Proposal(finished, tuple(dict.fromkeys(search.left_out)), type(model).__name__)


def _lively(model: nn.Module) -> nn.Module:
    """A copy in eval mode, float32, without caches, in which no vector is all zero or all one: freshly initialised ones
    would hide what they do."""
    twin = copy.deepcopy(model).float().eval()
    for module in twin.modules():
        if (config := vars(module).get("config")) is not None and "use_cache" in vars(config):
            config.use_cache = False
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.numel() > 1 and parameter.std() < 1e-4:
                parameter.add_(0.5 * torch.rand(parameter.shape, generator=generator) + 0.1)
    return twin


def _of_chain(search: _Search, chain: Chain) -> ArchitectureSpec | None:
    """The map of one chain of blocks; ``None`` where nothing of them can shrink."""
    kinds: dict[str, list[str]] = {}
    for path in chain.blocks:
        kinds.setdefault(type(search.model.get_submodule(path)).__name__, []).append(path)
    held: dict[str, list[GroupSpec]] = {}
    for kind, blocks in list(kinds.items()):
        for alike in lots(search.model, blocks):
            alone = _blank(search, chain, alike if len(alike) < len(chain.blocks) else ())
            if groups := _of_block(search, alone, chain, alike):
                held[kind], kinds[kind] = groups, list(alike)
                break
    if not held:
        search.left_out.append(LeftOut(_place(chain), "nothing in these blocks keeps the laws of a map"))
        return None
    keep = [path for kind in held for path in kinds[kind]]
    some = len(keep) < len(chain.blocks)
    spec = _blank(search, chain, tuple(path for path in chain.blocks if path in keep) if some else ())
    named = (
        replace(group, block_class=kind if len(kinds) > 1 else None) for kind, found in held.items() for group in found
    )
    return replace(spec, groups=tuple(named))


def _place(chain: Chain) -> str:
    return f"{chain.owner}.{chain.pattern}".lstrip(".")


def _blank(search: _Search, chain: Chain, blocks: tuple[str, ...]) -> ArchitectureSpec:
    """A map without groups: of the whole pattern, or of ``blocks`` only."""
    owner = search.model.get_submodule(chain.owner)
    kind = model_type(owner)
    patterns = _patterns(owner, chain, blocks) if blocks else (chain.pattern,)
    return ArchitectureSpec(
        model_types=(kind,) if kind else (),
        blocks=patterns,
        groups=(),
        example=lambda: copy.deepcopy(search.model),
        main_input=main_input(search.inputs),
        chain="container" if len(patterns) > 1 and blocks else chain.link,
    )


def _patterns(owner: nn.Module, chain: Chain, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """The fewest patterns that mean these blocks: one per index of the innermost list where that is enough."""
    local = [path[len(chain.owner) :].lstrip(".") for path in blocks]
    head = chain.pattern.rpartition(".")[0]
    last = list(dict.fromkeys(path.rpartition(".")[2] for path in local))
    if "*" in head:
        tried = tuple(f"{head}.{index}" for index in last)
        if sorted(path for pattern in tried for path, _ in expand(owner, pattern)) == sorted(local):
            return tried
    return tuple(local)


def _of_block(search: _Search, spec: ArchitectureSpec, chain: Chain, blocks: Sequence[str]) -> list[GroupSpec]:
    """The groups of all blocks of one class, each alone within the laws, in the order in which they run."""
    call = search.calls[blocks[0]]
    try:
        bench = Bench(search.model.get_submodule(blocks[0]), call.args, call.kwargs)
        ends = reaches(bench)
    except FAILURES as error:
        search.left_out.append(LeftOut(blocks[0], f"it does not run by itself: {str(error)[:120]}"))
        return []
    found: list[GroupSpec] = []
    for end in ends:
        place = f"{_place(chain)}.{end.consumer}"
        if end.leaks:
            if not end.leaks.startswith("what enters"):
                search.left_out.append(LeftOut(place, f"{end.leaks} too"))
            continue
        group, why = _group(search, spec, blocks, bench, end, len(found))
        if group is None:
            search.left_out.append(LeftOut(place, why))
        else:
            found.append(_unlike(group, found))
    return found


def _unlike(group: GroupSpec, others: list[GroupSpec]) -> GroupSpec:
    """With a name that no other group of the block has, and a word of its own for the table."""
    number = sum(type(other) is type(group) for other in others)
    if not number:
        return group
    name = f"{group.name}_{number + 1}"
    if isinstance(group, Heads):
        return replace(group, name=name, query_field=f"{name}_number", key_value_field=None, accepts=never)
    if isinstance(group, Mlp):
        return replace(group, name=name, field=f"{name}_width", accepts=never)
    return replace(group, name=name)


def _group(
    search: _Search, spec: ArchitectureSpec, blocks: Sequence[str], bench: Bench, end: Reach, stage: int
) -> tuple[GroupSpec | None, str]:
    """The group that ends in one consumer, and ``""``; or ``None`` and why."""
    found: GroupSpec | None = pairs(bench, end)
    heads: Attention | None = None
    if found is None or len(end.sources) == 3:
        heads, why = find_attention(bench, end)
        if heads is None:
            return None, why
        found = heads.spec
    norm = found.consume_norm if isinstance(found, Conv) else None
    stream, factor = _stream(search, blocks, bench, norm or end.consumer)
    found = replace(found, stream=stream, factor=factor, stage=stage)
    last = ""
    for tried in with_attributes(bench, found, heads):
        last = _broken(search, replace(spec, groups=(tried,)))
        if last:
            continue
        config: Any = vars(search.model.get_submodule(owner_of(search.model, blocks[0]))).get("config")
        units = columns(bench.matrices[end.consumer])
        for worded in with_fields(tried, config, heads, units):
            if not _broken(search, replace(spec, groups=(worded,))):
                return worded, ""
        return tried, ""
    return None, last


def _stream(search: _Search, blocks: Sequence[str], bench: Bench, end: str) -> Found:
    """The stream and the factor in the first block that has a residual sum: blocks that change the size have none."""
    found = find_stream(bench, end)
    for path in blocks[1:OTHERS]:
        call = search.calls[path]
        if found == (None, None) and any(name == end for name, _ in search.model.get_submodule(path).named_modules()):
            found = find_stream(Bench(search.model.get_submodule(path), call.args, call.kwargs), end)
    return found


def _broken(search: _Search, spec: ArchitectureSpec) -> str:
    """The first law that a map does not keep; ``""`` if it keeps all."""
    try:
        check_map(replace(spec, model_types=spec.model_types or ("proposed",)), search.inputs)
    except Exception as error:  # whatever a config class or a forward makes of values it does not expect
        return re.sub(r"\s+", " ", str(error))[:240]
    return ""


def _merged(search: _Search, one: ArchitectureSpec, other: ArchitectureSpec) -> ArchitectureSpec:
    """One map for two chains of one model type."""
    patterns = tuple(dict.fromkeys((*one.blocks, *other.blocks)))
    groups = list(dict.fromkeys((*_within(one, other), *_within(other, one))))
    containers = "container" in (one.chain, other.chain)
    return replace(one, blocks=patterns, groups=tuple(groups), chain="container" if containers else "pattern")


def _within(spec: ArchitectureSpec, other: ArchitectureSpec) -> Iterator[GroupSpec]:
    """The groups, bound to their pattern where the two maps have different ones and not the same groups."""
    for group in spec.groups:
        bound = spec.blocks != other.blocks and group not in other.groups and len(spec.blocks) == 1
        yield replace(group, within=spec.blocks[0]) if bound else group


def _completed(search: _Search, spec: ArchitectureSpec) -> ArchitectureSpec:
    """With what the whole map says beside its groups, as far as it keeps the laws; groups that break it together go."""
    for place in range(len(spec.groups) + 1):
        why = _broken(search, spec)
        if not why or place == len(spec.groups) or len(spec.groups) == 1:
            break
        gone = spec.groups[-1]
        search.left_out.append(LeftOut(_consumer(gone), f"together with the other groups: {why}"))
        spec = replace(spec, groups=spec.groups[:-1])
    encoders = "decoder_input_ids" in search.inputs
    if "attention_mask" in search.inputs and not encoders and spec.main_input == "text":
        masked = replace(spec, mask="attention_mask")
        spec = masked if not _broken(search, masked) else spec
    for name in _depth_fields(search, spec):
        shorter = replace(spec, depth_field=name)
        if not _broken(search, shorter):
            return shorter
    return spec


def _consumer(group: GroupSpec) -> str:
    return group.out if isinstance(group, Heads) else group.consume


def _depth_fields(search: _Search, spec: ArchitectureSpec) -> Iterable[str]:
    """Config fields with the number of blocks in their value and layers in their name."""
    for _, module in search.model.named_modules():
        if spec.model_types and model_type(module) in spec.model_types and len(spec.blocks) == 1:
            count = len(expand(module, spec.blocks[0]))
            config: Any = vars(module)["config"]
            names = [name for name, value in vars(config).items() if type(value) is int and value == count]
            if count:
                return [name for name in names if "layer" in name or "depth" in name]
    return []
