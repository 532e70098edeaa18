"""Hashes of values, code included, that stay the same between processes and differ where behaviour could differ."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

GENERATED = "<string>"
"""File name of the methods that dataclasses write themselves."""


def signature(value: object) -> str:
    """sha256 (hex) of a declared value: data by what it holds, functions by their name and what they do.

    Dataclasses count by their fields, other objects by their attributes, classes by their methods and plain values,
    functions by their code, defaults and closure, and by what they name: plain values, and functions and classes of
    their own distribution. Nothing depends on addresses or on the order of sets.
    """
    return hashlib.sha256(json.dumps(_Described().of(value)).encode()).hexdigest()


class _Described:
    """Turns values into JSON; an object that occurs again is written by its name or type only."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._alive: list[Any] = []  # an address is not given away while it is known

    def of(self, value: object) -> Any:
        """``value`` as JSON."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        if isinstance(value, Mapping):
            return ["mapping", [[self.of(key), self.of(item)] for key, item in value.items()]]
        if isinstance(value, set | frozenset):
            return ["set", sorted(json.dumps(self.of(item)) for item in value)]
        return self._once(value)

    def _once(self, value: object) -> Any:
        name = f"{value.__module__}.{value.__qualname__}" if isinstance(value, type | FunctionType) else ""
        if id(value) in self._known:
            return ["known", name or type(value).__qualname__]
        self._known.add(id(value))
        self._alive.append(value)
        if isinstance(value, FunctionType):
            return ["function", name, self._function(value)]
        if isinstance(value, type):
            return ["class", name, self._class(value)]
        return self._object(value)

    def _function(self, function: FunctionType) -> Any:
        named = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        used = {name: item for name, item in named.items() if _plain(item) or _home(item) == _home(function)}
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, function.__closure__, used)
        return [self.of(part) for part in parts]

    def _class(self, kind: type) -> Any:
        found = {name: _unwrapped(item) for name, item in vars(kind).items()}
        written = {name: item for name, item in found.items() if _is_written(item) or (_plain(item) and name[0] != "_")}
        return [[self.of(base) for base in kind.__bases__ if _home(base) == _home(kind)], self.of(written)]

    def _object(self, value: object) -> Any:
        if isinstance(value, CodeType):
            return [value.co_code.hex(), self.of(value.co_consts), list(value.co_names)]
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, CellType):
            with suppress(ValueError):  # nothing was put into it yet
                return self.of(value.cell_contents)
        if isinstance(value, Tensor):
            return ["tensor", str(value.dtype), value.tolist()]
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        try:
            own = vars(value)
        except TypeError:  # it has no attributes of its own
            return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
        if dataclasses.is_dataclass(value):
            fields = {field.name for field in dataclasses.fields(value)}
            own = {name: item for name, item in own.items() if name in fields}
        return [self.of(type(value)), self.of(own)]


def _home(item: object) -> str | None:
    """The distribution of a function or class, by its topmost package."""
    home = item.__module__ if isinstance(item, FunctionType | type) else None
    return None if home is None else home.partition(".")[0]  # made by exec, as dataclasses make theirs: of no module


def _unwrapped(member: object) -> Any:
    """The function that a member of a class was made of."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def _is_written(item: object) -> bool:
    return isinstance(item, FunctionType) and item.__code__.co_filename != GENERATED


def _plain(item: object) -> bool:
    return isinstance(item, bool | int | float | str | tuple)
