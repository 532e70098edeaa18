"""Families whose trained models are not to be had here: small ones, trained in minutes, then compressed.

GPT-2, Qwen3, RoBERTa and T5 learn classic books, ConvNeXt learns CIFAR-10: ``--minutes`` each, one thread, bfloat16,
kept under ``--place``. Then 30 % of their blocks' parameters go, without compensation, with the published GRAIL and
with ours, all with the same share of every layer. Perplexity of what the model predicts (of RoBERTa the masked tokens,
of T5 the second half of a window) in corpus and out of it; accuracy of ConvNeXt on test images and on noisy ones, and
once more with 75 % gone and int8 weights and activations on top. Rows go to ``benchmarks/results/shapes.json`` as soon
as they are there and are not measured again. ``python benchmarks/shapes_tables.py`` makes the page.

    python benchmarks/shapes.py [--only NAME] [--minutes 5] [--place DIR]
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import torch
import transformers
from _common import REPOSITORY, data_folder, environment, read_results, write_results
from _shapes import SHAPES, Shape
from _training import LOGGER, SEED, batches, train_
from shapes_tables import page
from torch import Tensor
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from transformers import PreTrainedModel

from optimum_grail import GrailCompressor

METHODS: Mapping[str, Mapping[str, Any]] = {
    "none": {"preset": "grail-plus", "compensator": "none"},
    "grail": {"preset": "grail"},
    "grail-plus": {"preset": "grail-plus"},
}
CALIBRATION = 256
EDGE = "convnext"
"""The family that is measured at 75 % and in int8, too."""


@dataclass(frozen=True)
class Cell:
    """One model to be measured.

    Args:
        shape: what it is.
        method: of :data:`METHODS`, or ``"dense"``.
        size: percent of the blocks' parameters that go.
        bits: of the weights of linear layers, and of what enters them.
    """

    shape: Shape
    method: str
    size: int
    bits: int = 32

    @property
    def key(self) -> dict[str, Any]:
        """What tells rows apart."""
        return {"model": self.shape.name, "method": self.method, "size": self.size, "bits": self.bits}


def trained(shape: Shape, minutes: float, place: Path) -> Path:
    """Folder of the trained model, made where it is not there."""
    folder = place / shape.name
    if not folder.is_dir():
        LOGGER.info("training %s for %g minutes", shape.name, minutes)
        torch.manual_seed(SEED)
        model, samples = shape.model(), shape.train()
        chosen = batches(len(next(iter(samples.values()))), shape.batch, rounds=100)
        inputs = ({name: tensor[index] for name, tensor in samples.items()} for index in chosen)
        train_(model, inputs, minutes, shape.peak, autocast=True)
        model.eval().save_pretrained(folder)
    return folder


def parts(samples: Mapping[str, Tensor], size: int = 16) -> Iterator[dict[str, Tensor]]:
    """Samples in batches."""
    split = {name: tensor.split(size) for name, tensor in samples.items()}
    yield from (dict(zip(split, values, strict=True)) for values in zip(*split.values(), strict=True))


@torch.inference_mode()
def score(model: PreTrainedModel, shape: Shape, samples: Mapping[str, Tensor]) -> float:
    """Accuracy, or the perplexity of the tokens that count."""
    total, count = 0.0, 0
    for inputs in parts(samples):
        labels = inputs["labels"]
        output = model(**inputs)
        if shape.accuracy:
            total, count = total + float((output.logits.argmax(-1) == labels).sum()), count + len(labels)
        else:
            told = int((labels[:, 1:] if shape.shifted else labels).ne(-100).sum())
            total, count = total + told * float(output.loss), count + told
    return total / count if shape.accuracy else math.exp(total / count)


def measured(cell: Cell, folder: Path) -> dict[str, Any]:
    """Compress, quantize and measure."""
    shape = cell.shape
    model = type(shape.model()).from_pretrained(folder).eval()
    found: dict[str, Any] = {}
    if cell.method != "dense":
        settings = {"sparsity": cell.size / 100, "allocation": "uniform", "num_samples": CALIBRATION, "seed": SEED}
        compressor = GrailCompressor(model, {**METHODS[cell.method], **settings})
        names = [name for name in shape.calibration() if name != "labels"]
        rows = [
            dict(zip(names, row, strict=True))
            for row in islice(zip(*(shape.calibration()[name] for name in names), strict=True), CALIBRATION)
        ]
        model = compressor.compress(rows)
        found = {"parameters": compressor.report.parameters_after, "config": compressor.report.config}
    else:
        found = {"parameters": model.num_parameters()}
    if cell.bits == 8:
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    scores = {name: score(model, shape, samples) for name, samples in shape.evaluation().items()}
    return {**cell.key, "accuracy": shape.accuracy, "scores": scores, "bytes": weight_bytes(model), **found}


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters, of quantized ones those of what they consist of."""
    total = 0
    for parameter in dict.fromkeys(model.parameters()):
        inner = getattr(parameter, "__tensor_flatten__", None)
        tensors = [parameter] if inner is None else [getattr(parameter, name) for name in inner()[0]]
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return total


def planned(shapes: list[Shape]) -> Iterator[Cell]:
    """All cells."""
    for shape in shapes:
        yield Cell(shape, "dense", 0)
        yield from (Cell(shape, method, 30) for method in METHODS)
        if shape.name == EDGE:
            yield from (Cell(shape, method, 75) for method in METHODS)
            yield from map(partial(Cell, shape, bits=8), ("dense", *METHODS), (0, 75, 75, 75))


def main() -> None:
    """Train and measure what is missing, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[shape.name for shape in SHAPES], metavar="NAME")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="of training, each")
    parser.add_argument("--place", type=Path, default=REPOSITORY / "build" / "shapes", metavar="DIR")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for cell in planned([shape for shape in SHAPES if options.only in (None, shape.name)]):
        rows = read_results("shapes").get("rows", [])
        if any(all(row[key] == value for key, value in cell.key.items()) for row in rows):
            continue
        LOGGER.info("%s", cell.key)
        row = {**measured(cell, trained(cell.shape, options.minutes, options.place)), **environment()}
        write_results("shapes", {"minutes": options.minutes, "data": data_folder().name, "rows": [*rows, row]})
    LOGGER.info("%s", page())


if __name__ == "__main__":
    main()
