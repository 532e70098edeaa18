"""Modules as products: what a change of their weight does to what they put out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port
from optimum_grail.core.products import Convolution, Matrix, Product
from optimum_grail.models.matrix import axes, is_channelwise


def product_of(module: nn.Module, path: str = "") -> Product | None:
    """How the outputs of a linear layer or convolution follow from its weight; ``None`` where the padding has a name.

    Raises:
        ArchitectureError: the module is of another kind.
    """
    axes(module, path)
    if not isinstance(module, nn.Conv2d):
        return Matrix()
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    kernel, stride, padding, dilation = (
        (int(pair[0]), int(pair[1])) for pair in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Convolution(kernel, stride, padding, dilation)


def makers_of(model: nn.Module, group: ChannelGroup) -> list[Port]:
    """The producers of ``group`` that make something of an input: all but what is channelwise."""
    return [port for port in group.producers if not is_channelwise(model.get_submodule(port.module))]


def products_of(model: nn.Module, group: ChannelGroup) -> tuple[list[Port], list[Product], Product] | None:
    """The producers of :func:`makers_of`, how the outputs of each follow from its weight, and the same of the consumer.

    ``None`` where that cannot be told, or where linear layers and convolutions meet: the rows of one are not those of
    the other.

    Raises:
        ArchitectureError: a module is neither.
    """
    ports = makers_of(model, group)
    found = [product_of(model.get_submodule(port.module), port.module) for port in (*ports, group.consumer)]
    products = [product for product in found if product is not None]
    if len(products) != len(found) or len({type(product) for product in products}) != 1:
        return None
    return ports, products[:-1], products[-1]


def weight_of(module: nn.Module) -> Tensor:
    """The weight ``[O, I]`` or ``[O, I, kh, kw]``, features in that order whatever the module's own layout is; a view,
    detached."""
    out, _ = axes(module)
    weight = module.get_parameter("weight").detach()
    return weight if out == 0 else weight.T


def with_ones(inputs: Tensor, module: nn.Module) -> Tensor:
    """``inputs`` with a feature of ones behind the others where ``module`` is a linear layer with a bias: a change of
    the bias is then one more column of the change of the weight."""
    if isinstance(module, nn.Conv2d) or module._parameters.get("bias") is None:
        return inputs
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
