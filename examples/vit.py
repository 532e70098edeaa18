"""Compress a small ViT for CIFAR-10: half of its heads and half of its feed-forward channels go.

    python examples/vit.py [--data FOLDER] [--num-samples N] [--eval-samples N] [--json]

FOLDER holds ``vit-cifar10`` and ``cifar10-lossless/{train,test}.parquet``.
"""

from __future__ import annotations

from _family import arguments, compare, present

options = arguments(__doc__ or "", num_samples=512)
images = present(options.data / "cifar10-lossless")
config = {"head_sparsity": 0.5, "ffn_sparsity": 0.5}
model = present(options.data / "vit-cifar10")
compare(options, model, config, str(images / "train.parquet"), "accuracy", str(images / "test.parquet"))
