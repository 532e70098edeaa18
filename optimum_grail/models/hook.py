"""Make plain transformers load per-layer widths and compress on load, once ``optimum_grail`` has been imported.

``PreTrainedModel.post_init`` runs at the end of every model's construction, before weights are loaded: the wrapper
narrows the modules there if ``config.grail_config`` holds a table. The quantizer is entered in transformers' tables
for ``quantization_config=GrailConfig(...)``. Importing transformers' modelling code takes seconds, so it is patched
when it is imported, not before; and what compresses is imported when it is called for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGET = "transformers.modeling_utils"
QUANTIZERS = "transformers.quantizers.auto"
METHOD = "grail"
_MARK = "_optimum_grail"


def install() -> None:
    """Patch ``PreTrainedModel.post_init`` and register the quantizer, now if transformers' modelling code is loaded.

    Otherwise as soon as it is. Calling it again does nothing. Loads neither torch nor transformers.
    """
    module = sys.modules.get(TARGET)
    if module is not None:
        patch_(module)
        register_quantizer()
    elif not any(isinstance(finder, _PatchOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PatchOnImport())


def patch_(module: ModuleType) -> None:
    """Wrap ``module.PreTrainedModel.post_init``, unless it is wrapped already."""
    original = module.PreTrainedModel.post_init
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def post_init(self: PreTrainedModel, *args: object, **kwargs: object) -> Any:
        """Resize a compressed model before its weights are loaded."""
        if getattr(self.config, "grail_config", None) is not None:
            from optimum_grail.models.resize import resize_

            resize_(self)
        return original(self, *args, **kwargs)

    setattr(post_init, _MARK, True)
    module.PreTrainedModel.post_init = post_init


def register_quantizer() -> None:
    """Enter method ``"grail"`` in transformers' tables of quantizers, unless it is there already."""
    tables = importlib.import_module(QUANTIZERS)
    tables.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, _Later("optimum_grail.config.config", "GrailConfig"))
    tables.AUTO_QUANTIZER_MAPPING.setdefault(METHOD, _Later("optimum_grail.quantizer", "GrailHfQuantizer"))


class _Later:
    """Stands for a class whose module is imported when the class is first called or asked for something.

    transformers' own ``register_quantizer`` wants the class itself, and importing it costs every program that loads a
    model; besides, the compressor imports transformers, which is only half imported when the table is made.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self._load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def _load(self) -> Any:
        module, name = self._place
        return getattr(importlib.import_module(module), name)


class _PatchOnImport(MetaPathFinder):
    """Finds :data:`TARGET` through the other finders, patches it once it has run, and leaves ``sys.meta_path``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the spec of :data:`TARGET` a loader that patches it, the first time it is imported."""
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
        """Leave this to the real loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then patch it."""
        self.loader.exec_module(module)
        patch_(module)
        register_quantizer()
