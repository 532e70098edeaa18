"""From the declaration of a mixture's experts to the group of one block, every size checked on the way."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, HeadTable, Port
from optimum_grail.core.spec import Experts
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import read
from optimum_grail.models.banks import companions, is_bank, is_router
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

    def path(local: str) -> str:
        """From the root."""
        return f"{block}.{local}".lstrip(".")

    for local, fits, kind in ((spec.bank, is_bank, "bank of experts"), (spec.router, _is_row_per_expert, "router")):
        found = read(model, path(local))
        if not isinstance(found, nn.Module) or not fits(found):
            raise ArchitectureError(
                f"The map calls {path(local)} a {kind}; found {type(found).__name__}. Correct the map, or use the "
                "version of the model code it was written for."
            )
    bank, router = Port(path(spec.bank), "in"), Port(path(spec.router), "out")
    units, chosen = columns(model.get_submodule(bank.module)), read(model, path(spec.chosen))
    _check(model, spec, path, units, chosen)
    size = weights_of(model, router.module)
    tables = tuple(_beside(model, path(local), axis, units) for local, axis in spec.beside)
    factor = None if spec.factor is None or read(model, path(spec.factor)) is None else path(spec.factor)
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
        factor=factor,
        uniform=f"{owner}/{spec.name}",
        chosen=chosen,
    )


def _beside(model: nn.Module, path: str, axis: int, units: int) -> HeadTable:
    found = read(model, path)
    if not isinstance(found, Tensor) or found.dim() <= axis or found.numel() != units or found.shape[axis] != units:
        raise ArchitectureError(f"{path} is no tensor with one element for each of {units} experts. Correct the map.")
    return HeadTable(path, axis, 1, int(isinstance(found, nn.Parameter)))


def _is_row_per_expert(module: nn.Module) -> bool:
    return is_router(module) or isinstance(module, nn.Linear)


def _check(model: nn.Module, spec: Experts, path: Callable[[str], str], units: int, chosen: object) -> None:
    """Everything says the same number of experts."""
    bank, router = path(spec.bank), path(spec.router)
    told = {path(local): read(model, path(local)) for local in spec.attributes}
    told |= {f"{bank}.{name}": len(tensor) for name, tensor in companions(model.get_submodule(bank))}
    told[router] = rows(model.get_submodule(router), router)
    for name, found in told.items():
        if found != units:
            raise ArchitectureError(f"{name} tells of {found!r} experts, but {bank} holds {units}. Correct the map.")
    if not isinstance(chosen, int) or not 0 < chosen <= units:
        raise ArchitectureError(
            f"{path(spec.chosen)} is {chosen!r}; expected how many of the {units} experts a token goes through."
        )
