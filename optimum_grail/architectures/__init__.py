"""One file per family of models; a file defines ``SPECS``, one or more :class:`ArchitectureSpec`.

Other distributions add families through entry points of group ``optimum_grail.architectures`` (each names a spec or a
tuple of specs); code adds them with :func:`register_architecture`.
"""

from __future__ import annotations

import importlib

from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import ConfigError, UnknownNameError
from optimum_grail.registry import Registry


class ArchitectureRegistry(Registry[ArchitectureSpec]):
    """Maps ``config.model_type`` to the spec that serves it; one spec may serve several model types."""

    def __init__(self, package: str, remedy: str = "") -> None:
        super().__init__("architecture", package, remedy)
        self._loaded = False

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for name in self._builtin():
            for spec in importlib.import_module(f"{self.package}.{name}").SPECS:
                self.add_spec(spec)
        for load in self._points().values():
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
            self.add(model_type, spec)
        return spec

    def names(self) -> list[str]:
        """All model types that are served, sorted."""
        self._load()
        return sorted(self._entries)

    def get(self, name: str) -> ArchitectureSpec:
        """The spec that serves model type ``name``.

        Raises:
            UnknownNameError: none does; the message names the nearest and how to add one.
        """
        if name not in self.names():
            raise UnknownNameError.among(self.kind, name, self.names(), self.remedy)
        return self._entries[name]

    def specs(self) -> list[ArchitectureSpec]:
        """Every spec once, in the order of :meth:`names`."""
        return list({id(spec): spec for _, spec in self}.values())


ARCHITECTURES = ArchitectureRegistry(
    __name__, "To add one, describe it with an ArchitectureSpec and call register_architecture(spec)."
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
