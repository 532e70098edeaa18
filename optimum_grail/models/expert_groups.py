"""From the declaration of a mixture's experts to the group of one block, every size checked on the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, HeadTable, Port
from optimum_grail.core.spec import ExpertChannels, Experts
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import read
from optimum_grail.models.banks import companions, is_bank, is_router, parameters_per_channel, width_of
from optimum_grail.models.matrix import columns, rows, weights_of


def experts_group(model: nn.Module, owner: str, block: str, layer: str, spec: Experts) -> ChannelGroup:
    """The experts of one block: rows of the router go with slices of the bank.

    Args:
        model: the model.
        owner: path of the sub-model whose config says how many experts there are.
        block: path of the block.
        layer: key of the block in the per-layer table.
        spec: the declaration.

    Raises:
        ArchitectureError: a module is absent or of another kind, or numbers of experts differ.
    """

    path = partial(_below, block)
    _check_module(model, path(spec.bank), is_bank, "bank of experts")
    _check_module(model, path(spec.router), _is_row_per_expert, "router")
    bank, router = Port(path(spec.bank), "in"), Port(path(spec.router), "out")
    units = columns(model.get_submodule(bank.module))
    chosen = _chosen(model, path(spec.chosen), units)
    _check(model, spec, path, units)
    size = weights_of(model, router.module)
    tables = tuple(_beside(model, path(local), axis, units) for local, axis in spec.beside)
    return ChannelGroup(
        name=path(spec.name),
        kind="experts",
        units=units,
        producers=(router,),
        consumer=bank,
        block=block,
        layer=layer,
        owner=owner,
        stage=spec.stage,
        stream=spec.stream,
        tie=f"{block.rpartition('.')[0]}/experts/{units}",
        cost=size.columns + size.vectors + weights_of(model, bank.module).rows + sum(table.cost for table in tables),
        tables=tables,
        fields=((spec.field, 1),),
        attributes=tuple((path(local), 1) for local in spec.attributes),
        factor=_factor(model, block, spec),
        uniform=f"{owner}/{spec.name}",
        chosen=chosen,
    )


def channels_group(model: nn.Module, owner: str, block: str, layer: str, spec: ExpertChannels) -> ChannelGroup:
    """The channels inside the experts of one block; arguments and errors as of :func:`experts_group`.

    For counting, a bank is a matrix of parameters per expert by experts (as
    :func:`optimum_grail.models.matrix.weights_of` says), of which a channel owns rows: experts own the columns.
    """
    path = partial(_below, block)
    _check_module(model, path(spec.bank), is_bank, "bank of experts")
    bank = model.get_submodule(path(spec.bank))
    units, experts, size = width_of(bank), columns(bank), parameters_per_channel(bank)
    for local in spec.attributes:
        if (found := read(model, path(local))) != units:
            raise ArchitectureError(f"{path(local)} is {found!r}, but experts have {units} channels. Correct the map.")
    return ChannelGroup(
        name=path(spec.name),
        kind="expert-channels",
        units=units,
        producers=(),
        consumer=Port(path(spec.bank), "out", size),
        block=block,
        layer=layer,
        owner=owner,
        stage=spec.stage,
        stream=spec.stream,
        tie=f"{block.rpartition('.')[0]}/expert-channels/{units}",
        cost=size * experts,
        fields=((spec.field, 1),),
        attributes=tuple((path(local), 1) for local in spec.attributes),
        factor=_factor(model, block, spec),
        uniform=f"{owner}/{spec.name}",
        chosen=_chosen(model, path(spec.chosen), experts),
        copies=experts,
    )


def _below(block: str, local: str) -> str:
    """The path from the root of what is at ``local`` in ``block``."""
    return f"{block}.{local}".lstrip(".")


def _factor(model: nn.Module, block: str, spec: Experts | ExpertChannels) -> str | None:
    if spec.factor is None or read(model, _below(block, spec.factor)) is None:
        return None
    return _below(block, spec.factor)


def _check_module(model: nn.Module, path: str, fits: Callable[[nn.Module], bool], kind: str) -> None:
    found = read(model, path)
    if not isinstance(found, nn.Module) or not fits(found):
        raise ArchitectureError(
            f"The map calls {path} a {kind}; found {type(found).__name__}. Correct the map, or use the version of the "
            "model code it was written for."
        )


def _chosen(model: nn.Module, path: str, experts: int) -> int:
    found = read(model, path)
    if not isinstance(found, int) or not 0 < found <= experts:
        raise ArchitectureError(
            f"{path} is {found!r}; expected how many of the {experts} experts a token goes through."
        )
    return found


def _beside(model: nn.Module, path: str, axis: int, units: int) -> HeadTable:
    found = read(model, path)
    if not isinstance(found, Tensor) or found.dim() <= axis or found.numel() != units or found.shape[axis] != units:
        raise ArchitectureError(f"{path} is no tensor with one element for each of {units} experts. Correct the map.")
    return HeadTable(path, axis, 1, int(isinstance(found, nn.Parameter)))


def _is_row_per_expert(module: nn.Module) -> bool:
    return is_router(module) or isinstance(module, nn.Linear)


def _check(model: nn.Module, spec: Experts, path: Callable[[str], str], units: int) -> None:
    """Everything says the same number of experts."""
    bank, router = path(spec.bank), path(spec.router)
    told = {path(local): read(model, path(local)) for local in spec.attributes}
    told |= {f"{bank}.{name}": len(tensor) for name, tensor in companions(model.get_submodule(bank))}
    told[router] = rows(model.get_submodule(router), router)
    for name, found in told.items():
        if found != units:
            raise ArchitectureError(f"{name} tells of {found!r} experts, but {bank} holds {units}. Correct the map.")
