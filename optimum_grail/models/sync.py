"""Numbers that layers of torch and transformers hold beside their weights."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from optimum_grail.models.banks import is_bank, is_router
from optimum_grail.models.matrix import columns, is_channelwise, rows


def sync_sizes_(module: nn.Module) -> None:
    """Make the size attributes of ``module`` say what its tensors are."""
    if isinstance(module, _BatchNorm):
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        module.num_features = next((tensor.shape[0] for _, tensor in tensors if tensor.dim()), module.num_features)
    elif isinstance(module, _ConvNd) and is_channelwise(module):
        module.groups = module.out_channels = module.in_channels = len(module.weight)
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = rows(module), columns(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = rows(module), columns(module)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = (rows(module),)
    elif not (is_bank(module) or is_router(module) or is_channelwise(module)):  # transformers' Conv1D
        sizes = {"nf": rows(module), "nx": columns(module)}
        vars(module).update(sizes)
