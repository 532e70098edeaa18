"""What the algebra sees of a module: two-dimensional weights, widths, and whether it can take a bias.

Linear layers, transformers' ``Conv1D`` (a linear layer stored transposed), convolutions, banks of experts and their
routers are understood, and modules that hold something per channel (BatchNorm, depthwise convolutions, norms with a
weight per channel); anything else is an :class:`ArchitectureError`.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.banks import DOWN, is_bank, is_router, is_turned, parameters_per_expert, width_of
from optimum_grail.models.layout import Weights

View = Literal["patch", "shared"]
"""How a convolution becomes a matrix. ``"patch"``: ``[O, I·kh·kw]``, unit ``u`` owns the columns
``[u·kh·kw, (u + 1)·kh·kw)``. ``"shared"``: ``[O·kh·kw, I]``, a column per input channel, a row per output and tap."""


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a BatchNorm of torch."""
    return isinstance(module, _BatchNorm)


def is_channelwise(module: nn.Module) -> bool:
    """Whether all that ``module`` itself holds is per channel, in rows that can go with the channel: a BatchNorm, a
    depthwise convolution, a norm with one weight per channel."""
    if isinstance(module, _BatchNorm):
        return True
    if isinstance(module, _ConvNd):
        return module.groups == module.in_channels == module.out_channels
    return mixes_channels(module)


def mixes_channels(module: nn.Module) -> bool:
    """Whether ``module`` is a norm over its channels (LayerNorm, RMSNorm, global response normalisation): nothing but
    vectors of one length, which may be shaped to fit feature maps, ``[1, 1, 1, C]``; a matrix of one row is none."""
    if isinstance(module, (_BatchNorm, _ConvNd)) or next(module.children(), None) is not None:
        return False
    shapes = {tuple(parameter.shape) for parameter in module.parameters(recurse=False)}
    return len(shapes) == 1 and all(len(shape) != 2 and prod(shape) == max(shape, default=0) for shape in shapes)


def channel_axis(module: nn.Module, tensor: Tensor) -> int:
    """Along which axis of ``tensor``, a parameter or buffer of a channelwise ``module``, the channels lie."""
    if isinstance(module, (_BatchNorm, _ConvNd)) or tensor.dim() < 2:
        return 0
    return max(range(tensor.dim()), key=lambda axis: tensor.shape[axis])


def axes(module: nn.Module, path: str = "") -> tuple[int, int]:
    """Axes of :func:`main_weight` that hold output and input features (experts, in a bank of them).

    Raises:
        ArchitectureError: the module is no linear layer, ungrouped 2-D convolution or transformers Conv1D.
    """
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            raise ArchitectureError(
                f"{path or 'A convolution'} has groups={module.groups}, so it can neither produce nor consume: only "
                "ungrouped convolutions can. Name it in channelwise of a group whose layers lie before and behind it "
                "if it is depthwise and between them; otherwise leave out of the map every group that names it."
            )
        return 0, 1
    if isinstance(module, nn.Linear) or is_router(module):
        return 0, 1
    if is_bank(module):
        return (2 if is_turned(module) else 1), 0
    transformers = sys.modules.get("transformers.pytorch_utils")  # loaded if the model has such a layer
    if transformers is not None and isinstance(module, transformers.Conv1D):
        return 1, 0
    raise ArchitectureError(
        f"{path or 'A module'} is a {type(module).__name__}; expected a Linear, Conv2d, Conv1D or BatchNorm. Point the "
        "architecture's map at such a module, and compress before adding adapters or quantizing."
    )


def rows(module: nn.Module, path: str = "") -> int:
    """Output features (channels of a channelwise module)."""
    if isinstance(module, _BatchNorm):
        return module.num_features
    if is_channelwise(module):
        first = next(iter(module.parameters(recurse=False)))
        return first.shape[channel_axis(module, first)]
    axis, _ = axes(module, path)
    return int(main_weight(module).shape[axis])


def columns(module: nn.Module, path: str = "") -> int:
    """Input features, input channels of a convolution, or experts of a bank."""
    _, axis = axes(module, path)
    return int(main_weight(module).shape[axis])


def copies_of(model: nn.Module, group: ChannelGroup) -> int:
    """How many experts have units of ``group``, each its own ones; 1 but for channels inside experts."""
    return columns(model.get_submodule(group.consumer.module)) if group.kind == "expert-channels" else 1


def main_weight(module: nn.Module) -> nn.Parameter:
    """The parameter that consumes: the weight, or ``down_proj`` of a bank of experts."""
    return module.get_parameter(DOWN if is_bank(module) else "weight")


def feature_axis(module: nn.Module) -> int:
    """Axis of the features in what ``module`` takes and puts out: 1 for feature maps ``[B, C, H, W]`` of convolutions
    and BatchNorm, -1 for all others, linear layers on ``[B, H, W, C]`` included."""
    return 1 if isinstance(module, (_ConvNd, _BatchNorm)) else -1


def taps(module: nn.Module) -> int:
    """Weights per pair of output and input feature: the kernel's area for a convolution, channels per expert for a bank
    of experts, else 1."""
    if is_bank(module):
        return width_of(module)
    return module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1


def weights_of(model: nn.Module, path: str) -> Weights:
    """Sizes of the module at ``path``.

    Raises:
        ArchitectureError: it is of a kind that cannot shrink.
    """
    module = model.get_submodule(path)
    height = rows(module, path)
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    itemsize = next((parameter.element_size() for parameter in parameters), 0)
    if is_channelwise(module):
        vectors = sum(parameter.numel() for parameter in parameters) // max(height, 1)
        return Weights(height, 0, 1, vectors, itemsize)
    if is_bank(module):  # a unit takes all of its expert along
        return Weights(parameters_per_expert(module), columns(module, path), 1, 0, itemsize)
    vectors = sum(parameter.dim() == 1 for parameter in parameters)
    return Weights(height, columns(module, path), taps(module), vectors, itemsize)


def features_per_unit(group: ChannelGroup, module: nn.Module, view: View = "patch") -> int:
    """Columns of the consumer's matrix that one unit of ``group`` owns."""
    return group.consumer.span * (taps(module) if view == "patch" else 1)


def to_matrix(module: nn.Module, view: View = "patch", dtype: torch.dtype = torch.float64) -> Tensor:
    """The weight of ``module`` as a matrix, a copy detached from the graph.

    Args:
        module: linear layer or convolution.
        view: for convolutions, see :data:`View`.
        dtype: of the result.

    Returns:
        shape ``[O, F]``; for the shared view of a convolution ``[O * kh * kw, I]``.

    Raises:
        ArchitectureError: the module is of another kind.
    """
    out, _ = axes(module)
    weight = main_weight(module).detach().to(dtype, copy=True)
    if is_bank(module):
        return weight.movedim(out, 0).flatten(1)
    if not isinstance(module, nn.Conv2d):
        return weight if out == 0 else weight.T.contiguous()
    return weight.flatten(1) if view == "patch" else weight.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def from_matrix(matrix: Tensor, module: nn.Module, view: View = "patch") -> Tensor:
    """The inverse of :func:`to_matrix`: a tensor laid out as the weight of ``module``, dtype of ``matrix``.

    The number of columns is free (a narrowed consumer); kernel size and orientation come from ``module``.

    Raises:
        ArchitectureError: the module is no linear layer or convolution.
    """
    out, _ = axes(module)
    if is_bank(module):
        return matrix.unflatten(1, (-1, width_of(module))).movedim(0, out).contiguous()
    if not isinstance(module, nn.Conv2d):
        return matrix if out == 0 else matrix.T.contiguous()
    kernel = (module.kernel_size[0], module.kernel_size[1])
    if view == "patch":
        return matrix.unflatten(1, (-1, *kernel))
    return matrix.unflatten(0, (-1, *kernel)).permute(0, 3, 1, 2).contiguous()


def shared_to_patch(matrix: Tensor, module: nn.Module) -> Tensor:
    """Turn a shared-tap matrix ``[O * kh * kw, I]`` of ``module`` into the patch view ``[O, I * kh * kw]``."""
    return from_matrix(matrix, module, "shared").flatten(1) if isinstance(module, nn.Conv2d) else matrix


def producer_matrix(model: nn.Module, group: ChannelGroup, index: int) -> Tensor:
    """All that producer ``index`` holds of each unit: float64 ``[units, span * (inputs + bias)]``.

    For a BatchNorm the row is (weight, bias) of the channel.
    """
    port = group.producers[index]
    module = model.get_submodule(port.module)
    parts = []
    if isinstance(module, _BatchNorm):
        parts = [tensor.detach().double()[:, None] for tensor in (module.weight, module.bias) if tensor is not None]
    else:
        parts = [to_matrix(module)]
        if module._parameters.get("bias") is not None:
            parts.append(module.get_parameter("bias").detach().double()[:, None])
    elements = port.elements(torch.arange(group.units, device=parts[0].device))
    return torch.cat(parts, 1)[elements].reshape(group.units, -1)


def owns_bias(model: nn.Module, group: ChannelGroup) -> bool:
    """Whether the consumer of ``group`` can take a bias: its own, or the running mean of the BatchNorm after it."""
    consumer = model.get_submodule(group.consumer.module)
    if consumer._parameters.get("bias") is not None:
        return True
    return group.norm is not None and model.get_submodule(group.norm)._buffers.get("running_mean") is not None
