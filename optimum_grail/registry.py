"""One registry for everything that is extended by adding one file.

The name of an entry is the name of its file with ``_`` written ``-``; nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from typing import Any, Generic, TypeVar

from optimum_grail.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def files_of(package: str) -> list[str]:
    """Names of the modules in a package folder that hold entries: all but those starting with ``_``."""
    folder = importlib.import_module(package).__path__
    return [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]


@cache
def installed_points(group: str) -> EntryPoints:
    """What :func:`importlib.metadata.entry_points` finds, read once per process: it goes through every distribution."""
    return entry_points(group=group)


def points_of(package: str) -> dict[str, Callable[[], Any]]:
    """What other distributions offer for a package: names of their entry points, and functions that import them."""
    return {point.name: point.load for point in installed_points(package)}


class Registry(Generic[T]):
    """Named entries that live one per file in a package folder, or come from entry points of other distributions.

    Args:
        kind: what an entry is called in messages, for example ``"selector"``.
        package: dotted name of the folder whose modules are the built-in entries; modules starting with ``_`` are not.
        remedy: appended to the message about an unknown name.
    """

    def __init__(self, kind: str, package: str, remedy: str = "") -> None:
        self.kind = kind
        self.package = package
        self.remedy = remedy
        self._entries: dict[str, T] = {}

    def register(self, entry: T) -> T:
        """Decorate a class (or pass an object with ``__module__``) to register it under its file's name.

        Raises:
            ConfigError: the name is taken by another entry.
        """
        name = str(getattr(entry, "__module__", "")).rpartition(".")[2].replace("_", "-")
        return self.add(name, entry)

    def add(self, name: str, entry: T) -> T:
        """Register ``entry`` under an explicit ``name`` and return it.

        Raises:
            ConfigError: the name is taken by another entry.
        """
        known = self._entries.get(name)
        if known is not None and known is not entry:
            raise ConfigError(f"The {self.kind} name {name!r} is taken by {known!r}. Choose another name.")
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """All names, sorted: files of the folder, entry points, and entries added by hand."""
        return sorted(
            {name.replace("_", "-") for name in files_of(self.package)}
            | set(points_of(self.package))
            | set(self._entries)
        )

    def get(self, name: str) -> T:
        """Import and return the entry called ``name``.

        Raises:
            UnknownNameError: no such entry; the message names the nearest.
        """
        if name not in self._entries:
            if name.replace("-", "_") in files_of(self.package):
                importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            elif name in points_of(self.package):
                self.add(name, points_of(self.package)[name]())
            else:
                raise UnknownNameError.among(self.kind, name, self.names(), self.remedy)
        return self._entries[name]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        """Yield ``(name, entry)`` for every entry, importing them all."""
        return iter([(name, self.get(name)) for name in self.names()])
