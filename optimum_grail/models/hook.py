"""Make plain transformers load per-layer widths, once ``optimum_grail`` has been imported.

``PreTrainedModel.post_init`` runs at the end of every model's construction, before weights are loaded: the wrapper
narrows the modules there if ``config.grail_config`` holds a table. Importing transformers' modelling code takes
seconds, so it is patched when it is imported, not before.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TARGET = "transformers.modeling_utils"
_MARK = "_optimum_grail"


def install() -> None:
    """Patch ``PreTrainedModel.post_init`` now if transformers' modelling code is loaded, else as soon as it is.

    Calling it again does nothing. Loads neither torch nor transformers.
    """
    module = sys.modules.get(TARGET)
    if module is not None:
        patch_(module)
    elif not any(isinstance(finder, _PatchOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PatchOnImport())


def patch_(module: ModuleType) -> None:
    """Wrap ``module.PreTrainedModel.post_init``, unless it is wrapped already."""
    original = module.PreTrainedModel.post_init
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def post_init(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.config, "grail_config", None) is not None:
            from optimum_grail.models.loading import resize_

            resize_(self)
        return original(self, *args, **kwargs)

    setattr(post_init, _MARK, True)
    module.PreTrainedModel.post_init = post_init


class _PatchOnImport(MetaPathFinder):
    """Finds :data:`TARGET` through the other finders, patches it once it has run, and leaves ``sys.meta_path``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader)
        return spec


class _PatchingLoader(Loader):
    """Runs the real loader, then patches what it made."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        patch_(module)
