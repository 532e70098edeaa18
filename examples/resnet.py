"""Compress a ResNet of transformers: it is trained for some seconds first, then half of its inner channels go.

    python examples/resnet.py [--data FOLDER] [--num-samples N] [--eval-samples N] [--json]

FOLDER holds ``cifar10-lossless/{train,test}.parquet``. A ResNet in plain torch is in ``custom_module.py``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from _family import arguments, compare, present
from datasets import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

options = arguments(__doc__ or "", num_samples=512)
images = present(options.data / "cifar10-lossless")
torch.manual_seed(0)
rows = Dataset.from_parquet(str(images / "train.parquet"))
processor = ViTImageProcessor(size={"height": 32, "width": 32})
pixels = processor(list(rows["img"]), return_tensors="pt")["pixel_values"]
labels = torch.tensor(list(rows["label"]))
model = ResNetForImageClassification(
    ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        num_labels=10,
        downsample_in_first_stage=False,
    )
)
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
for _ in range(6):
    for chosen in torch.randperm(len(labels)).split(100):
        model(pixel_values=pixels[chosen], labels=labels[chosen]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
with tempfile.TemporaryDirectory() as folder:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    config = {"channel_sparsity": 0.5}
    test = str(images / "test.parquet")
    compare(options, Path(folder), config, str(images / "train.parquet"), "accuracy", test)
