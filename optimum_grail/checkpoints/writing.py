"""Writing the weights of a transformers model, wherever they are."""

from __future__ import annotations

import warnings
from pathlib import Path

from transformers import PreTrainedModel

from optimum_grail.config.options import BY_NAME
from optimum_grail.models.residence import is_offloaded

SHARD = 2**30
"""Bytes of a shard where weights are read from disk as they are written: a shard is in memory as a whole."""
_MAP = "hf_device_map"
"""Attribute by which transformers tells a model that is offloaded."""


def write_weights(model: PreTrainedModel, folder: str | Path, max_shard_size: str | int) -> None:
    """Write config and weights as the model's ``save_pretrained`` does.

    Of an offloaded model no more than one shard is in memory at a time, so shards are at most :data:`SHARD` (or one
    tensor, if that is larger).

    Args:
        model: the model.
        folder: an existing one.
        max_shard_size: as in ``save_pretrained``.
    """
    if not is_offloaded(model):
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return
    unnamed = _MAP not in vars(model)  # accelerate's cpu_offload and disk_offload leave it out
    if unnamed:
        vars(model)[_MAP] = {"": "disk"}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
            model.save_pretrained(folder, max_shard_size=min(BY_NAME["target_bytes"].check(max_shard_size), SHARD))
    finally:
        if unnamed:
            del vars(model)[_MAP]
