"""A file of Python that lets a checkpoint load where this package is not installed, with ``trust_remote_code=True``.

It knows nothing of architectures: it lists how the modules differ from those that the stock class builds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from jinja2 import Environment, StrictUndefined
from torch import nn
from transformers import PreTrainedModel

from optimum_grail.errors import ArchitectureError
from optimum_grail.models.headless import Featureless, Headless
from optimum_grail.models.picking import Picking
from optimum_grail.models.stock import sub_configs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODULE = "modeling_grail"
CODE_FILE = f"{MODULE}.py"
Difference = tuple[dict[str, list[int]], dict[str, int]]


def write_remote_code_(model: PreTrainedModel, folder: str | Path) -> None:
    """Write ``modeling_grail.py`` and name its classes in ``model.config.auto_map``.

    Args:
        model: a compressed model that plain transformers cannot load, its config describing it.
        folder: where the checkpoint will be.

    Raises:
        ArchitectureError: no auto class of transformers loads the model's class; or its attention picks slices of
            something that layers share, which code of the checkpoint's own does not do.
    """
    picking = next((path for path, module in model.named_modules() if isinstance(module, Picking)), None)
    if picking is not None:
        raise ArchitectureError(
            f"{picking} has lost heads and picks its slices of a bias that layers share. Code beside the checkpoint "
            "does not do that: save without include_modeling_code."
        )
    base, backbone = type(model), type(model.base_model)
    classes = dict.fromkeys(auto_classes(backbone, model.config), f"{MODULE}.Grail{backbone.__name__}")
    classes |= dict.fromkeys(auto_classes(base, model.config), f"{MODULE}.Grail{base.__name__}")
    if not classes:
        raise ArchitectureError(
            f"No auto class of transformers loads a {base.__name__}, so code beside the checkpoint would not be found. "
            "Save without include_modeling_code."
        )
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = files("optimum_grail.checkpoints").joinpath(f"{CODE_FILE}.jinja").read_text(encoding="utf-8")
    code = environment.from_string(template).render(
        base=base.__name__,
        backbone=backbone.__name__,
        prefix=model.base_model_prefix,
        version=version("optimum-grail"),
        widths=differences(model),
        headless={path: module.headless_out for path, module in model.named_modules() if isinstance(module, Headless)},
        featureless=[path for path, module in model.named_modules() if isinstance(module, Featureless)],
    )
    Path(folder, CODE_FILE).write_text(code, encoding="utf-8")
    model.config.auto_map = classes


def differences(model: PreTrainedModel) -> dict[str, Difference]:
    """Every module whose tensors or whole-number attributes are not those that the stock class builds from the config.

    Returns:
        ``{path: ({tensor: shape}, {attribute: value})}``.
    """
    config = copy.deepcopy(model.config)
    _forget_(config)
    with torch.device("meta"):
        stock = dict(type(model)(config).named_modules())
    found = {path: _difference(stock[path], module) for path, module in model.named_modules()}
    return {
        path: difference
        for path, difference in found.items()
        if any(difference) or isinstance(model.get_submodule(path), Headless)
    }


def auto_classes(kind: type[PreTrainedModel], config: PreTrainedConfig) -> list[str]:
    """Names of the auto classes that build ``kind`` from ``config``."""
    names = [name for name in dir(transformers) if name.startswith("AutoModel")]
    mappings = {name: getattr(getattr(transformers, name), "_model_mapping", None) for name in names}
    return [name for name, mapping in mappings.items() if mapping is not None and _builds(mapping, config, kind)]


def _builds(mapping: Mapping[Any, Any], config: PreTrainedConfig, kind: type) -> bool:
    built = mapping.get(type(config), None)
    return kind in built if isinstance(built, tuple | list) else built is kind


def _forget_(config: PreTrainedConfig) -> None:
    """Remove the tables of widths from ``config`` and its sub-configs."""
    vars(config).pop("grail_config", None)
    for child in sub_configs(config):
        _forget_(child)


def _difference(stock: nn.Module, ours: nn.Module) -> Difference:
    was = dict(_tensors(stock))
    shapes = {
        name: list(tensor.shape)
        for name, tensor in _tensors(ours)
        if name not in was or was[name].shape != tensor.shape
    }
    attributes = {
        name: value for name, value in vars(ours).items() if type(value) is int and vars(stock).get(name) != value
    }
    return shapes, attributes


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
