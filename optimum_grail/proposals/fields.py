"""Config fields and attributes that could say the widths found: by their values, in the order in which to try them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from optimum_grail.core.spec import Conv, GroupSpec, Heads, Mlp, never
from optimum_grail.models.matrix import columns
from optimum_grail.proposals.attention import Attention
from optimum_grail.proposals.bench import Bench

MOST = 3
"""Config fields of one value that are tried."""
RESIDUAL = ("hidden_size", "embed_dim", "d_model", "hidden_dim", "dim", "split_size")
"""Customary names of the residual width: attributes of that name are tried last."""


def integers(holder: object) -> dict[str, int]:
    """The whole numbers that an object holds by itself, by name."""
    return {
        name: value
        for name, value in vars(holder).items()
        if type(value) is int and not name.startswith(("_", "layer"))
    }


def with_attributes(bench: Bench, spec: GroupSpec, heads: Attention | None) -> Iterator[GroupSpec]:
    """``spec`` with the attributes that could follow its width, the likeliest first; nothing the config says yet."""
    if isinstance(spec, Conv):
        yield spec
    elif isinstance(spec, Mlp):
        plain = replace(spec, accepts=never)
        parent = spec.consume.rpartition(".")[0]
        units = columns(bench.matrices[spec.consume])
        held = [
            f"{parent}.{name}".lstrip(".")
            for name, value in integers(bench.block.get_submodule(parent)).items()
            if value == units
        ]
        if held:
            yield replace(plain, attributes=tuple(held))
        yield plain
    elif heads is not None and isinstance(spec, Heads):
        plain_heads = replace(spec, accepts=never)
        module = bench.block.get_submodule(heads.module)
        held_by = [
            (name, counts) for name, value in integers(module).items() if (counts := _counts(name, value, heads))
        ]
        likely = [(name, counts) for name, counts in held_by if name not in RESIDUAL]
        for chosen in dict.fromkeys((tuple(likely), tuple(held_by), ())):
            yield replace(
                plain_heads, attributes=tuple((f"{heads.module}.{name}".lstrip("."), counts) for name, counts in chosen)
            )
        yield from _by_config(plain_heads, module, heads, likely)


def _by_config(spec: Heads, module: nn.Module, heads: Attention, held: list[tuple[str, str]]) -> Iterator[Heads]:
    """For modules that read the number of heads in the config that all layers share."""
    config = vars(module).get("config")
    named = [
        (f"config.{name}", "query")
        for name, value in (integers(config) if config is not None else {}).items()
        if value == heads.queries and "head" in name and "dim" not in name
    ]
    named += [
        (f"config.{name}", "key_value")
        for name, value in (integers(config) if config is not None else {}).items()
        if value == heads.keys and ("key_value" in name or "kv" in name)
    ]
    if named:
        unique = {name: (name, counts) for name, counts in named}
        attributes = tuple((f"{heads.module}.{name}".lstrip("."), counts) for name, counts in (*held, *unique.values()))
        yield replace(spec, attributes=attributes, uniform=True)


def _counts(name: str, value: int, heads: Attention) -> str:
    """What an attribute of this name and value counts; ``""``: nothing that follows the width."""
    if name == heads.spec.head_dim.rpartition(".")[2]:
        return ""
    if "group" in name or "per_k" in name:
        return "per_key" if value == heads.queries // heads.keys else ""
    if value == heads.keys and heads.keys > 1 and ("key" in name or "kv" in name):
        return "key_value"
    if value == heads.queries and "dim" not in name and "size" not in name:
        return "query"
    if value == heads.keys and heads.keys > 1 and "head" in name:
        return "key_value"
    return "width" if value == heads.queries * heads.size else ""


def with_fields(spec: GroupSpec, config: Any, heads: Attention | None, units: int) -> Iterator[GroupSpec]:
    """``spec`` with the config fields that have the value of its width and could be the words for it."""
    if config is None or isinstance(spec, Conv):
        return
    if isinstance(spec, Mlp):
        named = [name for name, value in integers(config).items() if value == units and "head" not in name]
        named.sort(key=lambda name: not any(word in name for word in ("intermediate", "ffn", "inner", "mlp", "ff")))
        for name in named[:MOST]:
            yield replace(spec, field=name, accepts=Mlp.accepts)
    elif heads is not None and isinstance(spec, Heads):
        queries, keys = _head_fields(config, heads)
        size = spec.head_dim
        pinned = (("head_dim", size),) if "head_dim" in vars(config) else ()
        for name in queries[:MOST]:
            key = next((other for other in keys if other != name), None)
            chosen = replace(spec, query_field=name, key_value_field=key, pinned=pinned)
            yield replace(chosen, accepts=Heads.accepts)
            yield chosen


def _head_fields(config: Any, heads: Attention) -> tuple[list[str], list[str]]:
    found = integers(config)
    headed = [name for name in found if ("head" in name or "kv" in name) and "dim" not in name]
    queries = [name for name in headed if found[name] == heads.queries and "key" not in name and "kv" not in name]
    keys = [name for name in headed if found[name] == heads.keys and ("key" in name or "kv" in name)]
    return queries, keys
