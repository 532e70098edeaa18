"""Compress a module of your own: a CIFAR-10 ResNet-20 in plain torch, unknown to transformers.

Half of the inner channels of every residual block go (those with the smallest filters), once plainly and twice with
compensation. The result is saved and loaded into a fresh module.

    python examples/custom_module.py --data FOLDER [--num-samples N] [--eval-samples N] [--json]

FOLDER holds ``cifar-resnets/resnet20/{model.safetensors,config.json}`` and ``cifar10-lossless/{train,test}.parquet``
with the columns ``img`` and ``label``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from optimum_grail import ArchitectureSpec, Conv, GrailCompressor, GrailConfig, StreamFunction, load_compressed_
from optimum_grail.report.environment import hardware, versions

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3
CALIBRATION_IMAGES = 1024
MODEL_FILES = ("cifar-resnets/resnet20/model.safetensors", "cifar-resnets/resnet20/config.json")
IMAGE_FILES = ("cifar10-lossless/train.parquet", "cifar10-lossless/test.parquet")


# -- the module -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters, which drops pixels and pads channels where shapes change.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.pad = stride, (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def shortcut(self, images: Tensor) -> Tensor:
        """What is added to the second convolution's output."""
        pixels = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, self.pad, self.pad))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        inner = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class ResNet(nn.Module):
    """Three stages of residual blocks and a linear classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for stage, width in enumerate(WIDTHS):
            before = WIDTHS[max(stage - 1, 0)]
            first = Block(before, width, stride=1 if stage == 0 else 2)
            rest = [Block(width, width, stride=1) for _ in range(BLOCKS_PER_STAGE - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of normalised images ``[B, 3, 32, 32]``."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3):
            hidden = stage(hidden)
        return self.linear(hidden.mean((2, 3)))


# -- its description ------------------------------------------------------------------------------------------------


def residual_sum(block: nn.Module, block_input: Tensor, records: Mapping[str, Tensor]) -> Tensor:
    """The stream behind a block's second convolution. No submodule sees this sum, so it is put together here."""
    return records["bn2"] + block.shortcut(block_input)


SPEC = ArchitectureSpec(
    model_types=(),
    blocks=("layer1.*", "layer2.*", "layer3.*"),
    groups=(
        Conv(
            produce="conv1",
            channelwise=("bn1",),
            consume="conv2",
            consume_norm="bn2",
            stream=StreamFunction(residual_sum, records=("bn2",)),
        ),
    ),
    main_input="image",
    classifiers=("linear",),
)


# -- data -----------------------------------------------------------------------------------------------------------


def load_model(folder: Path) -> tuple[ResNet, dict[str, Any]]:
    """The trained module, and its configuration with the mean and deviation of the pixels it was trained on."""
    module = ResNet().eval()
    module.load_state_dict(load_file(folder / MODEL_FILES[0]))
    return module, json.loads((folder / MODEL_FILES[1]).read_text(encoding="utf-8"))


def load_images(path: Path, config: Mapping[str, Any], limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Normalised images ``[N, 3, 32, 32]`` and class numbers ``[N]``."""
    rows = Dataset.from_parquet(str(path), keep_in_memory=True)
    rows = rows.select(range(limit or len(rows))).with_format("torch")
    pixels = torch.stack(list(rows["img"])).float() / 255
    mean, deviation = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    return (pixels - mean) / deviation, torch.as_tensor(rows["label"])


@torch.inference_mode()
def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of images whose class has the highest logit."""
    guesses = torch.cat([module(part).argmax(dim=1) for part in images.split(250)])
    return float((guesses == labels).double().mean())


# -- the run --------------------------------------------------------------------------------------------------------


def compress(folder: Path, compensator: str, sparsity: float, images: Tensor, output: Path) -> dict[str, Any]:
    """Compress a freshly loaded module into ``output``; returns the report's figures and the compressed module."""
    config = GrailConfig(
        selector="magnitude:p=1",
        compensator=compensator,
        allocation="uniform",
        channel_sparsity=sparsity,
        num_samples=len(images),
    )
    start = time.perf_counter()
    compressor = GrailCompressor(load_model(folder)[0], config, spec=SPEC, source="resnet20")
    compressor.compress(
        calibration_dataset=[{"images": image} for image in images], save_directory=output, overwrite=True
    )
    report = compressor.report
    return {
        "module": compressor.model,
        "parameters": report.parameters_after,
        "blocks_removed": report.achieved,
        "seconds": time.perf_counter() - start,
    }


def run(
    folder: Path, sparsity: float, output: Path, num_samples: int = CALIBRATION_IMAGES, eval_samples: int | None = None
) -> dict[str, Any]:
    """Dense and compressed accuracies on the first ``eval_samples`` images, and those of the modules from disk."""
    module, config = load_model(folder)
    calibration, _ = load_images(folder / IMAGE_FILES[0], config, num_samples)
    images, labels = load_images(folder / IMAGE_FILES[1], config, eval_samples)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    rows = {"dense": {"accuracy": accuracy(module, images, labels), "parameters": parameters}}
    for compensator in ("none", "grail", "grail-plus"):
        saved = output / compensator
        row = compress(folder, compensator, sparsity, calibration, saved)
        row["accuracy"] = accuracy(row.pop("module"), images, labels)
        row["accuracy_reloaded"] = accuracy(load_compressed_(ResNet().eval(), saved, SPEC), images, labels)
        rows[compensator] = row
    return {
        "model": "resnet20",
        "channel_sparsity": sparsity,
        "calibration_images": len(calibration),
        "test_images": len(images),
        "results": rows,
        "versions": versions(),
        "hardware": hardware(),
    }


def table(outcome: Mapping[str, Any]) -> Table:
    """The outcome for people."""
    shown = Table(
        title=f"ResNet-20, {outcome['channel_sparsity']:.0%} of the inner channels gone", title_justify="left"
    )
    for heading in ("", "accuracy", "loaded again", "parameters", "seconds"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, row in outcome["results"].items():
        again, seconds = row.get("accuracy_reloaded"), row.get("seconds")
        shown.add_row(
            name,
            f"{row['accuracy']:.1%}",
            "" if again is None else f"{again:.1%}",
            f"{row['parameters']:,}",
            "" if seconds is None else f"{seconds:.1f}",
        )
    return shown


def main() -> None:
    """Read the command line, run, print."""
    default = os.environ.get("OPTIMUM_GRAIL_TEST_DATA", REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with the trained weights and images")
    parser.add_argument(
        "--sparsity", type=float, default=0.5, help="fraction of every block's inner channels that goes"
    )
    parser.add_argument("--num-samples", type=int, default=CALIBRATION_IMAGES, help="images to calibrate on")
    parser.add_argument("--eval-samples", type=int, help="images to measure on; by default all")
    parser.add_argument("--output", type=Path, help="folder for the compressed modules; by default they are not kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    missing = [name for name in (*MODEL_FILES, *IMAGE_FILES) if not (options.data / name).is_file()]
    if missing:
        parser.error(f"{options.data} lacks {missing[0]}. Name the folder of weights and images with --data.")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.output or Path(scratch)
        outcome = run(options.data, options.sparsity, place, options.num_samples, options.eval_samples)
    if options.json:
        print(json.dumps(outcome, indent=2))
    else:
        Console().print(table(outcome))


if __name__ == "__main__":
    main()
