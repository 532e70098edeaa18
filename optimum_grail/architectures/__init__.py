"""One file per family of models; a file defines ``SPECS``, one or more :class:`ArchitectureSpec`.

Other distributions add families through entry points of group ``optimum_grail.architectures`` (each names a spec or a
tuple of specs); code adds them with :func:`register_architecture`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ConfigError, UnknownNameError
from optimum_grail.registry import files_of, points_of


class ArchitectureRegistry:
    """Maps ``config.model_type`` to the spec that serves it; one spec may serve several model types.

    Args:
        package: dotted name of the folder whose files define ``SPECS``, and of the entry point group.
        remedy: appended to the message about an unknown model type.
    """

    def __init__(self, package: str, remedy: str = "") -> None:
        self.remedy = remedy
        self.package = package
        self._specs: dict[str, ArchitectureSpec] = {}
        self._loaded = False

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for name in files_of(self.package):
            for spec in importlib.import_module(f"{self.package}.{name}").SPECS:
                self.add_spec(spec)
        for load in points_of(self.package).values():
            found = load()
            for spec in (found,) if isinstance(found, ArchitectureSpec) else found:
                self.add_spec(spec)

    def add_spec(self, spec: ArchitectureSpec) -> ArchitectureSpec:
        """Register ``spec`` under each of its model types and return it.

        Raises:
            ConfigError: it has none, or another spec serves one of them.
        """
        self._load()
        if not spec.model_types:
            raise ConfigError("The spec serves no model type. Set model_types, or pass it as spec=… where it is used.")
        for model_type in spec.model_types:
            known = self._specs.setdefault(model_type, spec)
            if known is not spec:
                raise ConfigError(
                    f"The architecture {model_type!r} is taken by another spec. Choose another model type."
                )
        return spec

    def names(self) -> list[str]:
        """All model types that are served, sorted."""
        self._load()
        return sorted(self._specs)

    def get(self, name: str) -> ArchitectureSpec:
        """The spec that serves model type ``name``.

        Raises:
            UnknownNameError: none does; the message names the nearest and how to add one.
        """
        if name not in self.names():
            raise UnknownNameError.among("architecture", name, self.names(), self.remedy)
        return self._specs[name]

    def __iter__(self) -> Iterator[tuple[str, ArchitectureSpec]]:
        """Yield ``(model type, spec)`` for every model type, sorted."""
        return iter([(name, self._specs[name]) for name in self.names()])

    def specs(self) -> list[ArchitectureSpec]:
        """Every spec once, in the order of :meth:`names`."""
        return list({id(spec): spec for _, spec in self}.values())

    @contextmanager
    def serving(self, spec: ArchitectureSpec) -> Iterator[None]:
        """Let ``spec`` serve its model types for a while, whatever serves them otherwise."""
        self._load()
        before = dict(self._specs)
        self._specs.update(dict.fromkeys(spec.model_types, spec))
        try:
            yield
        finally:
            self._specs.clear()
            self._specs.update(before)


ARCHITECTURES = ArchitectureRegistry(
    __name__,
    "`optimum-cli grail inspect -m MODEL --propose -o map.py` proposes a map, which --map map.py uses; or describe "
    "it with an ArchitectureSpec and call register_architecture(spec).",
)


def register_architecture(spec: ArchitectureSpec) -> ArchitectureSpec:
    """Make ``spec`` known for its model types, so that models of that family resolve and reload.

    Args:
        spec: the map; ``spec.model_types`` must not be served already.

    Returns:
        ``spec`` itself.

    Raises:
        ConfigError: ``spec`` has no model type, or one of them is taken.
    """
    return ARCHITECTURES.add_spec(spec)
