"""From one declaration of a map to the group of one block, every width checked on the way."""

from __future__ import annotations

from torch import nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.spec import Conv, GroupSpec, Heads, Mlp
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.layout import Weights
from optimum_grail.models.matrix import columns, is_norm, rows, taps


def weights_of(model: nn.Module, path: str) -> Weights:
    """Sizes of the module at ``path``.

    Raises:
        ArchitectureError: it is of a kind that cannot shrink.
    """
    module = model.get_submodule(path)
    vectors = sum(parameter is not None and parameter.dim() == 1 for parameter in module._parameters.values())
    wide = 0 if is_norm(module) else columns(module, path)
    itemsize = next((parameter.element_size() for parameter in module.parameters()), 0)
    return Weights(rows(module, path), wide, taps(module), vectors, itemsize)


class GroupBuilder:
    """Turns one declaration into a :class:`ChannelGroup` of one block, checking every width on the way."""

    def __init__(self, model: nn.Module, owner: str, block: str, layer: str) -> None:
        self.model, self.owner, self.block, self.layer = model, owner, block, layer

    def build(self, spec: GroupSpec) -> ChannelGroup:
        """The group that ``spec`` declares in this block.

        Raises:
            ArchitectureError: a module is absent or of the wrong kind, or widths do not fit.
        """
        if isinstance(spec, Heads):
            return self._heads(spec)
        return self._mlp(spec) if isinstance(spec, Mlp) else self._conv(spec)

    def _path(self, local: str) -> str:
        return f"{self.block}.{local}".lstrip(".")

    def _module(self, local: str) -> nn.Module:
        path = self._path(local)
        try:
            return self.model.get_submodule(path)
        except AttributeError as error:
            raise ArchitectureError(
                f"The map names {path}, which this model does not have. Correct the map, or use the version of the "
                "model code it was written for."
            ) from error

    def _attribute(self, local: str, least: int = 1) -> int:
        owner, _, name = local.rpartition(".")
        value = getattr(self._module(owner) if owner else self.model.get_submodule(self.block), name, None)
        if not isinstance(value, int) or value < least:
            raise ArchitectureError(
                f"The map reads {self._path(local)}, expecting an integer of at least {least}; found {value!r}."
            )
        return value

    def _rows(self, local: str) -> int:
        return rows(self._module(local), self._path(local))

    def _columns(self, local: str) -> int:
        return columns(self._module(local), self._path(local))

    def _equal(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise ArchitectureError(
                f"{self._path(what)} has width {found}, expected {expected} to fit the other modules of its group. "
                "Correct the map, or leave this group out of it."
            )

    def _multiple(self, what: str, found: int, of: int, name: str) -> None:
        if found < of or found % of:
            raise ArchitectureError(
                f"{self._path(what)} has width {found}, expected a multiple of {of}, {name}. Such a layer does not "
                "split into heads: leave the group out of the map."
            )

    def _group(
        self,
        spec: GroupSpec,
        kind: str,
        units: int,
        producers: dict[str, int],
        consumer: tuple[str, int],
        **more: object,
    ) -> ChannelGroup:
        outs = tuple(Port(self._path(local), "out", span) for local, span in producers.items())
        into = Port(self._path(consumer[0]), "in", consumer[1])
        container = self.block.rpartition(".")[0]
        return ChannelGroup(
            name=self._path(spec.name),
            kind=kind,  # type: ignore[arg-type]
            units=units,
            producers=outs,
            consumer=into,
            block=self.block,
            layer=self.layer,
            owner=self.owner,
            stage=spec.stage,
            stream=spec.stream,
            tie=f"{container}/{kind}/{units}",
            cost=sum(self._cost(port) for port in (*outs, into)),
            **more,  # type: ignore[arg-type]
        )

    def _cost(self, port: Port) -> int:
        size = weights_of(self.model, port.module)
        return port.span * (size.rows * size.taps if port.side == "in" else size.columns * size.taps + size.vectors)

    def _mlp(self, spec: Mlp) -> ChannelGroup:
        units = self._columns(spec.consume)
        for local in spec.produce:
            self._equal(local, self._rows(local), units)
        for local in spec.attributes:
            self._equal(local, self._attribute(local, 0), units)
        attributes = tuple((self._path(local), 1) for local in spec.attributes)
        spans = dict.fromkeys(spec.produce, 1)
        fields = ((spec.field, 1),)
        return self._group(spec, "mlp", units, spans, (spec.consume, 1), fields=fields, attributes=attributes)

    def _heads(self, spec: Heads) -> ChannelGroup:
        size, query, key = self._attribute(spec.head_dim), self._rows(spec.query), self._rows(spec.key)
        ratio = 1
        if key or query:  # where a compressed model has neither, all heads of this layer went
            self._multiple(spec.key, key, size, "the head size")
            self._multiple(spec.query, query, key, "the width of the keys")
            ratio = query // key
        units = key // size
        self._equal(spec.value, self._rows(spec.value), key)
        self._equal(spec.out, self._columns(spec.out), query)
        per_unit = {"query": ratio, "key_value": 1, "width": ratio * size}
        for local, counts in spec.attributes:
            self._equal(local, self._attribute(local, 0), units * per_unit[counts])
        fields = [(spec.query_field, ratio)]
        if spec.key_value_field:
            fields.append((spec.key_value_field, 1))
        return self._group(
            spec,
            "heads",
            units,
            {spec.query: ratio * size, spec.key: size, spec.value: size},
            (spec.out, ratio * size),
            attention=self._path(owner) if (owner := spec.head_dim.rpartition(".")[0]) else None,
            fields=tuple(fields),
            attributes=tuple((self._path(local), per_unit[counts]) for local, counts in spec.attributes),
        )

    def _conv(self, spec: Conv) -> ChannelGroup:
        units = self._columns(spec.consume)
        spans = dict.fromkeys((spec.produce, spec.norm) if spec.norm else (spec.produce,), 1)
        for local in spans:
            self._equal(local, self._rows(local), units)
        norm = None
        if spec.consume_norm:
            norm = self._path(spec.consume_norm)
            if not is_norm(self._module(spec.consume_norm)):
                raise ArchitectureError(f"The map says that {norm} is a BatchNorm; found another class of module.")
            self._equal(spec.consume_norm, self._rows(spec.consume_norm), self._rows(spec.consume))
        fields = ((spec.produce, 1),)
        return self._group(spec, "conv", units, spans, (spec.consume, 1), norm=norm, fields=fields)
