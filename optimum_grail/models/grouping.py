"""From one declaration of a map to the group of one block, every width checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from torch import nn

from optimum_grail.core.groups import ChannelGroup, HeadTable, Port
from optimum_grail.core.spec import Conv, GroupSpec, Heads, Mlp, Rows, Strip
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.attributes import meets, read
from optimum_grail.models.head_size import inside_of
from optimum_grail.models.head_tables import tables_of
from optimum_grail.models.matrix import axes, columns, is_channelwise, is_norm, mixes_channels, rows, weights_of


class GroupBuilder:
    """Turns one declaration of a map into a :class:`ChannelGroup` of one block, and checks every width it reads."""

    def __init__(self, model: nn.Module, owner: str, block: str, layer: str) -> None:
        self.model, self.owner, self.block, self.layer = model, owner, block, layer

    def build(self, spec: Mlp | Heads | Conv) -> ChannelGroup:
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
        value = read(self.model, self._path(local))
        if not isinstance(value, int) or value < least:
            raise ArchitectureError(
                f"The map reads {self._path(local)}, expecting an integer of at least {least}; found {value!r}."
            )
        return value

    def _rows(self, local: str) -> int:
        """Output features of a producer."""
        module, path = self._module(local), self._path(local)
        axes(module, path)  # refuses what cannot produce
        return rows(module, path)

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
        producers: Sequence[tuple[Rows, int]],
        consumer: tuple[str, int],
        tables: tuple[HeadTable, ...] = (),
        **more: object,
    ) -> ChannelGroup:
        outs = (*self._ports(producers, units), *(self._channelwise(spec, local, units) for local in spec.channelwise))
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
            cost=sum(self._cost(port) for port in (*outs, into)) + sum(table.cost for table in tables),
            tables=tables,
            factor=self._factor(spec),
            uniform="" if isinstance(spec, Conv) or not spec.uniform else f"{self.owner}/{spec.name}",
            **more,  # type: ignore[arg-type]
        )

    def _cost(self, port: Port) -> int:
        size = weights_of(self.model, port.module)
        return port.span * (size.rows * size.taps if port.side == "in" else size.columns * size.taps + size.vectors)

    def _ports(self, producers: Sequence[tuple[Rows, int]], units: int) -> list[Port]:
        """One port for every producer of so many rows per unit; one for all interleaved parts of a module."""
        ports = []
        fused: dict[str, dict[Strip, int]] = {}
        for source, span in producers:
            if isinstance(source, str):
                self._equal(source, self._rows(source), units * span)
                ports.append(Port(self._path(source), "out", span))
            else:
                fused.setdefault(source.module, {})[source] = span
        for local, spans in fused.items():
            ports += self._strips(local, spans, units)
        return ports

    def _strips(self, local: str, spans: Mapping[Strip, int], units: int) -> list[Port]:
        """The ports of the parts of one fused module, which own ``spans`` rows per unit."""
        strips = sorted(spans, key=lambda strip: strip.part)
        count, whole = strips[0].of, self._rows(local)
        complete = [strip.part for strip in strips] == list(range(count))
        if any(strip.of != count or strip.interleaved != strips[0].interleaved for strip in strips) or not all(
            0 <= strip.part < count for strip in strips
        ):
            raise ArchitectureError(
                f"The parts of {self._path(local)} contradict each other: {strips}. Correct the map."
            )
        if strips[0].interleaved:
            if not complete:
                raise ArchitectureError(
                    f"The map names parts of {self._path(local)}, interleaved by unit, without the others. Name all "
                    f"{count} in one group."
                )
            self._equal(local, whole, units * sum(spans.values()))
            return [Port(self._path(local), "out", sum(spans.values()))]
        if complete:
            self._equal(local, whole, units * sum(spans.values()))
            offsets = [0, *accumulate(units * spans[strip] for strip in strips)]
            return [
                Port(self._path(local), "out", spans[strip], at) for strip, at in zip(strips, offsets, strict=False)
            ]
        for strip in strips:
            self._equal(local, whole, units * spans[strip] * count)
        return [Port(self._path(local), "out", spans[strip], strip.part * (whole // count)) for strip in strips]

    def _channelwise(self, spec: GroupSpec, local: str, units: int) -> Port:
        module, path = self._module(local), self._path(local)
        if not is_channelwise(module):
            raise ArchitectureError(
                f"The map calls {path} channelwise, but it is a {type(module).__name__}; expected a BatchNorm, a "
                "depthwise convolution, or a norm with one weight per channel. Correct the map."
            )
        if mixes_channels(module) and not spec.mixes:
            raise ArchitectureError(
                f"{path} ({type(module).__name__}) normalises over all units of {self._path(spec.name)!r}: dropping "
                "some changes what the others feel, and is not the same as setting them to zero. Leave this group out "
                "of the map, or set mixes=True in its declaration to narrow it nevertheless."
            )
        width = rows(module, path)
        if units and (width < units or width % units):
            self._equal(local, width, units)
        return Port(path, "out", width // max(units, 1))

    def _factor(self, spec: GroupSpec) -> str | None:
        """Path of the factor, a parameter or a number, checked; ``None`` where the block has none."""
        if spec.factor is None:
            return None
        found = read(self.model, self._path(spec.factor))
        if found is None:
            return None
        out = self._rows(spec.consume if not isinstance(spec, Heads) else spec.out)
        is_number = isinstance(found, int | float) and bool(found)
        if not is_number and not (isinstance(found, nn.Parameter) and found.numel() == out):
            raise ArchitectureError(
                f"The map calls {self._path(spec.factor)} the factor of each output of {self._path(spec.name)!r}, "
                f"expecting a parameter of {out} numbers, or one number but zero; found {type(found).__name__}. "
                "Correct the map."
            )
        return self._path(spec.factor)

    def _mlp(self, spec: Mlp) -> ChannelGroup:
        units = self._columns(spec.consume)
        for local in spec.attributes:
            self._equal(local, self._attribute(local, 0), units)
        attributes = tuple((self._path(local), 1) for local in spec.attributes)
        producers = [(source, 1) for source in spec.produce]
        fields = ((spec.field, 1),)
        return self._group(spec, "mlp", units, producers, (spec.consume, 1), fields=fields, attributes=attributes)

    def _heads(self, spec: Heads) -> ChannelGroup:
        size, (query, key) = self._attribute(spec.head_dim), self._attended(spec)
        self._equal(spec.out, self._columns(spec.out), query)
        config = getattr(self.model.get_submodule(self.owner), "config", None)
        if spec.shared is not None and key == size and meets(config, spec.shared):
            return self._query_heads(spec, size, query)
        ratio = 1
        if key or query:  # where a compressed model has neither, all heads of this layer went
            self._multiple(_module_of(spec.key), key, size, "the head size")
            self._multiple(_module_of(spec.query), query, key, "the width of the keys")
            ratio = query // key
        units = key // size
        per_unit = {"query": ratio, "key_value": 1, "width": ratio * size}
        self._check_attributes(spec, {"query": units * ratio, "key_value": units, "width": query, "per_key": ratio})
        fields = [(spec.query_field, ratio)]
        if spec.key_value_field:
            fields.append((spec.key_value_field, 1))
        beside = [(local, ratio * size) for local in spec.also if read(self.model, self._path(local)) is not None]
        return self._attention(
            spec,
            units,
            [(spec.query, ratio * size), (spec.key, size), (spec.value, size), *beside],
            per_unit,
            fields=tuple(fields),
            cached=2 * size,
            arguments=spec.arguments,
            tables=tables_of(self.model, self.block, spec, units, ratio),
        )

    def _query_heads(self, spec: Heads, size: int, query: int) -> ChannelGroup:
        """Query heads that share one key-value head, which stays."""
        units = query // size
        per_unit = {"query": 1, "width": size, "per_key": 1}
        self._check_attributes(spec, {"query": units, "key_value": 1, "width": query, "per_key": units})
        producers = [] if isinstance(spec.query, Strip) else [(spec.query, size)]
        group = self._attention(spec, units, producers, per_unit, fields=((spec.query_field, 1),))
        if not isinstance(spec.query, Strip):
            return group
        self._equal(spec.query.module, self._rows(spec.query.module), query + (spec.query.of - 1) * size)
        port = Port(self._path(spec.query.module), "out", size, spec.query.part * size)
        return replace(group, producers=(port, *group.producers), cost=group.cost + self._cost(port))

    def _check_attributes(self, spec: Heads, expected: Mapping[str, int]) -> None:
        for local, counts in spec.attributes:
            if counts != "per_key" or expected["query"]:  # what no head shares any more still says how many did
                self._equal(local, self._attribute(local, 0), expected[counts])

    def _attention(
        self,
        spec: Heads,
        units: int,
        producers: Sequence[tuple[Rows, int]],
        per_unit: Mapping[str, int],
        **more: object,
    ) -> ChannelGroup:
        owner = spec.head_dim.rpartition(".")[0]
        following = [(self._path(local), per_unit[counts]) for local, counts in spec.attributes if counts in per_unit]
        consumer, attention = (spec.out, per_unit["width"]), self._path(owner) if owner else None
        return self._group(
            spec,
            "heads",
            units,
            producers,
            consumer,
            attention=attention,
            attributes=tuple(following),
            inside=inside_of(self.model, self.owner, self.block, spec),
            **more,  # type: ignore[arg-type]
        )

    def _attended(self, spec: Heads) -> tuple[int, int]:
        """Widths of all queries and of all keys; in a fused projection queries are as wide as what ``out`` takes, and
        keys and values share what is left."""
        query = self._rows(spec.query) if isinstance(spec.query, str) else self._columns(spec.out)
        if isinstance(spec.key, str):
            return query, self._rows(spec.key)
        beside = [s for s in (spec.query, spec.value) if isinstance(s, Strip) and s.module == spec.key.module]
        left = self._rows(spec.key.module) - (query if spec.query in beside else 0)
        return query, left // (2 if spec.value in beside else 1)

    def _conv(self, spec: Conv) -> ChannelGroup:
        units = self._columns(spec.consume)
        norm = None
        if spec.consume_norm:
            norm = self._path(spec.consume_norm)
            if not is_norm(self._module(spec.consume_norm)):
                raise ArchitectureError(f"The map says that {norm} is a BatchNorm; found another class of module.")
            self._equal(spec.consume_norm, rows(self._module(spec.consume_norm)), self._rows(spec.consume))
        fields = ((spec.produce, 1),)
        return self._group(spec, "conv", units, [(spec.produce, 1)], (spec.consume, 1), norm=norm, fields=fields)


def _module_of(source: Rows) -> str:
    return source if isinstance(source, str) else source.module
