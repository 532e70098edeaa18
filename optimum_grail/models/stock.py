"""What the stock config of a family can say about widths, and writing it.

Widths shared by all layers that the config class accepts go to its own fields: plain transformers loads the result.
Everything else goes to the per-layer table in ``config.grail_config["layers"]``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PreTrainedModel

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.spec import Conv, GroupSpec, Heads, Mlp
from optimum_grail.errors import ArchitectureError, CheckpointError
from optimum_grail.models.attributes import share_config_
from optimum_grail.models.banks import width_of
from optimum_grail.models.layout import Layout, Stack
from optimum_grail.models.matrix import columns
from optimum_grail.models.resolve import model_type
from optimum_grail.models.standalone import misfit
from optimum_grail.models.table import Table, entries, read_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

HOW_TO_LOAD = "pip install optimum-grail, then `import optimum_grail` before from_pretrained: widths differ per layer"
"""Written beside the widths in ``config.json``, for readers who met transformers' error about mismatched sizes."""


@dataclass(frozen=True)
class StockUpdate:
    """What one config has to say.

    Args:
        owner: path of the sub-model whose config it is.
        fields: config fields and their new values.
        layers: the per-layer table; empty if the stock config says it all.
        key_value_heads: key-value heads per layer where the table changes them, for transformers' caches.
        key_value_field: the field that holds them, if the family has one.
        doubt: why widths that the map calls expressible are in the table all the same; empty if none are.
    """

    owner: str
    fields: Mapping[str, int]
    layers: Table
    key_value_heads: Mapping[int, int]
    key_value_field: str | None = None
    doubt: str = ""


def config_of(model: nn.Module, owner: str) -> Any:
    """The config of the sub-model at ``owner``, or ``None`` for a module without one."""
    module = model.get_submodule(owner)
    return None if model_type(module) is None else module.config


def expressible(model: nn.Module, layout: Layout, group: ChannelGroup, units: int) -> bool:
    """Whether the stock config can say ``units`` for ``group``, if all groups of its kind in the stack get as many.

    The width the config has already is always expressible. Convolutions never shrink expressibly.
    """
    spec, config = layout.specs[group.name], config_of(model, group.owner)
    if _is_mute(spec, config, group):
        return units == group.units
    return _accepted(spec, config, entries(group, units))


def expressible_together(model: nn.Module, layout: Layout, groups: Sequence[ChannelGroup], units: int) -> bool:
    """Whether the stock config can say ``units`` for every one of ``groups``; see :func:`expressible`."""
    return all(expressible(model, layout, group, units) for group in groups)


def config_updates(model: nn.Module, layout: Layout, widths: Mapping[str, int], doubt: str = "") -> list[StockUpdate]:
    """What each config has to say if the groups get ``widths``; changes nothing.

    Args:
        model: the model; only its configs and head sizes are read, so it may be compressed already.
        layout: the layout before compression.
        widths: units by group name; groups not named keep theirs.
        doubt: why all that changes shall be in the table, whatever the map says.

    Returns:
        one update per config, in order.

    Raises:
        CheckpointError: a config holds a malformed table already.
    """
    return [_update(model, layout, stack, {**layout.widths, **widths}, doubt) for stack in layout.owners]


def is_standalone(updates: list[StockUpdate]) -> bool:
    """Whether plain transformers can load the result: no table anywhere, and no doubt that the stock class fits."""
    return not any(update.layers or update.doubt for update in updates)


def current_widths(model: nn.Module, layout: Layout) -> dict[str, int]:
    """Units that each group of ``layout`` (made before compression) has in ``model`` now."""
    widths = {}
    for group in layout.groups:
        path = group.consumer.module
        if group.kind == "expert-channels":
            widths[group.name] = width_of(model.get_submodule(path))
            continue
        lost = layout.weights[path].columns - columns(model.get_submodule(path), path)
        widths[group.name] = group.units - lost // group.consumer.span
    return widths


def write_config_(model: nn.Module, layout: Layout, provenance: Mapping[str, Any]) -> list[StockUpdate]:
    """Make the configs of a compressed ``model`` describe it, so that ``save_pretrained`` writes a loadable checkpoint.

    Args:
        model: the compressed transformers model.
        layout: the layout before compression.
        provenance: JSON values noted in ``config.grail_config`` of the root and of every owner (inert for loading).

    Returns:
        what was written: the table where the map calls widths expressible and the stock class does not build them.

    Raises:
        ArchitectureError: the model has no config, or one that is not part of the root's; or layers of a family that
            knows one width only differ.
    """
    root = config_of(model, "")
    updates = config_updates(model, layout, current_widths(model, layout))
    configs = [config_of(model, update.owner) for update in updates]
    for update, config in zip(updates, configs, strict=True):
        if config is None or root is None or not _contains(root, config):
            raise ArchitectureError(
                f"The config of {update.owner or type(model).__name__!r} is not part of the model's config, so it "
                "would not be saved. Save a module without a config with save_compressed instead."
            )
    if is_standalone(updates) and (doubt := _doubt(model, root, configs, updates)):
        updates = config_updates(model, layout, current_widths(model, layout), doubt)
    root.grail_config = dict(provenance)
    for update, config in zip(updates, configs, strict=True):
        _write_(config, update, provenance)
    for group in layout.groups:
        for path, _ in group.attributes if group.uniform else ():
            share_config_(model, path, config_of(model, group.owner))
    return updates


def compressed_with(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    """The ``grail_config`` of ``config`` or of a sub-config, ``None`` if it describes no compressed model."""
    found = getattr(config, "grail_config", None)
    if found is not None:
        return found if isinstance(found, Mapping) else {}
    hits = (compressed_with(value) for value in sub_configs(config))
    return next((hit for hit in hits if hit is not None), None)


def refuse_compressed(model: nn.Module, source: str) -> None:
    """Refuse a model that is compressed already; ``source`` names it in the message.

    Raises:
        CheckpointError: its config says so.
    """
    config = config_of(model, "")
    if config is not None and compressed_with(config) is not None:
        raise CheckpointError(
            f"{source!r} is compressed already. Compress its dense base model instead, or pass --allow-recompress "
            "(allow_recompress=True)."
        )


def sub_configs(config: PreTrainedConfig) -> list[Any]:
    """The configs inside ``config``, one level deep."""
    return [value for value in vars(config).values() if isinstance(getattr(value, "model_type", None), str)]


def _doubt(model: nn.Module, root: object, configs: Sequence[Any], updates: Sequence[StockUpdate]) -> str:
    """What the stock class, built from the configs after ``updates``, has other than ``model``; changes nothing."""
    memo: dict[int, Any] = {}
    trial = copy.deepcopy(root, memo)
    for config, update in zip(configs, updates, strict=True):
        _write_(memo[id(config)], update, {})
    return misfit(cast(PreTrainedModel, model), trial)


def _contains(root: object, config: PreTrainedConfig) -> bool:
    return root is config or any(_contains(value, config) for value in sub_configs(root))


def _accepted(spec: GroupSpec, config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    current = {field: _stated(spec, config, field) for field in values}
    if values == current:
        return True
    known = None not in current.values() and all(values.values())  # no stock class builds a layer without heads
    return known and spec.accepts(config, values)  # type: ignore[union-attr]


def _stated(spec: GroupSpec, config: PreTrainedConfig, field: str) -> int | None:
    """What the stock class makes of the config's ``field``; ``None`` if the map cannot tell."""
    value: int | None = getattr(config, field, None)
    if value is None and isinstance(spec, Mlp) and spec.default is not None:
        return spec.default(config)
    return value


def _update(model: nn.Module, layout: Layout, stack: Stack, widths: Mapping[str, int], doubt: str = "") -> StockUpdate:
    config = config_of(model, stack.owner)
    families: dict[tuple[str, tuple[tuple[str, int], ...]], list[ChannelGroup]] = {}
    for group in layout.of_stack(stack):
        families.setdefault((layout.specs[group.name].name, group.fields), []).append(group)
    fields: dict[str, int] = {}
    layers: Table = {}
    for groups in families.values():
        spec = layout.specs[groups[0].name]
        wanted = [entries(group, widths[group.name]) for group in groups]
        if _is_mute(spec, config, groups[0]):
            changed = _changed(config, groups, widths)
        elif not doubt and all(values == wanted[0] for values in wanted) and _accepted(spec, config, wanted[0]):
            changed = []
            fields |= _fields(model, groups[0], spec, config, wanted[0])
        else:
            changed = [
                group
                for group, values in zip(groups, wanted, strict=True)
                if any(_stated(spec, config, field) != value for field, value in values.items())
            ]
        if changed and groups[0].uniform:
            raise ArchitectureError(
                f"{changed[0].name!r} would get {widths[changed[0].name]} of {changed[0].units} units, but the code of "
                f"this family reads {', '.join(wanted[0])} from one config for all layers, which cannot say that. Give "
                "all layers one width that the config takes."
            )
        for group in changed:
            layers.setdefault(group.layer, {}).update(entries(group, widths[group.name]))
    field = _key_value_field(stack)
    # A layer without heads still tells the cache one number per token.
    heads = {int(layer): max(row[field], 1) for layer, row in layers.items() if field in row and layer.isdigit()}
    return StockUpdate(
        stack.owner, fields, {key: layers[key] for key in stack.layers if key in layers}, heads, field, doubt
    )


def _is_mute(spec: GroupSpec, config: PreTrainedConfig | None, group: ChannelGroup) -> bool:
    """Whether the config has no word for the widths of ``group``, so that only the table can speak of them."""
    if config is None or isinstance(spec, Conv):
        return True
    default = isinstance(spec, Mlp) and spec.default is not None
    return not default and all(getattr(config, field, None) is None for field, _ in group.fields)


def _changed(config: PreTrainedConfig, groups: list[ChannelGroup], widths: Mapping[str, int]) -> list[ChannelGroup]:
    """Groups that a config cannot speak about and that differ from what the stock class builds."""
    table = read_table(getattr(config, "grail_config", None), "config.grail_config")
    return [
        group
        for group in groups
        if widths[group.name] != group.units or group.fields[0][0] in table.get(group.layer, {})
    ]


def _fields(
    model: nn.Module, group: ChannelGroup, spec: GroupSpec, config: PreTrainedConfig, values: Mapping[str, int]
) -> dict[str, int]:
    """Config fields for ``values``, with those to pin so that the class does not derive them anew."""
    if all(_stated(spec, config, field) == value for field, value in values.items()):
        return {}
    pinned = spec.pinned if isinstance(spec, Heads) else ()
    fields = dict(values)
    for field, path in pinned:
        owner, _, name = f"{group.block}.{path}".lstrip(".").rpartition(".")
        fields[field] = int(getattr(model.get_submodule(owner), name))
    return fields


def _key_value_field(stack: Stack) -> str | None:
    return next((s.key_value_field for s in stack.spec.groups if isinstance(s, Heads) and s.key_value_field), None)


def _write_(config: PreTrainedConfig, update: StockUpdate, provenance: Mapping[str, Any]) -> None:
    for field, value in update.fields.items():
        setattr(config, field, value)
    told = {"how_to_load": HOW_TO_LOAD, **provenance, "layers": update.layers}
    config.grail_config = told if update.layers else dict(provenance)
    if not update.key_value_field:
        return
    # transformers sizes static caches from the config. Only the key-value heads: LlamaConfig would refuse other numbers
    # of query heads per layer, and Qwen2Config would derive another head size from them.
    if update.key_value_heads:
        config.allow_global_per_layer_attribute_access = True
        config.per_layer_config = {
            layer: {update.key_value_field: heads} for layer, heads in update.key_value_heads.items()
        }
    elif config.is_heterogeneous:
        config.per_layer_config = None
