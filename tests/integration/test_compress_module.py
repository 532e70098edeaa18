"""A module of one's own without a transformers class: described, compressed, saved, loaded into a fresh one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail import ArchitectureSpec, Conv, GrailCompressor, Mlp, StreamFunction, load_compressed_
from optimum_grail.errors import ArchitectureError, DataError, GrailError, OutputError

CHANNELS, CLASSES = 24, 4


class Block(nn.Module):
    """A basic residual block; the sum is no submodule's output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(images))))) + images)


class Net(nn.Module):
    """A stem, three blocks, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def residual_sum(block: nn.Module, block_input: Tensor, records: Mapping[str, Tensor]) -> Tensor:
    """The stream behind the second convolution."""
    return records["bn2"] + block_input


SPEC = ArchitectureSpec(
    model_types=(),
    blocks=("blocks.*",),
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
)


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy gratings of four directions, ``[count, 1, 12, 12]``, and which direction each has."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle = (labels * torch.pi / CLASSES)[:, None, None]
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    phase = torch.rand(count, 1, 1, generator=generator) * 6
    waves = torch.sin((rows * angle.cos() + columns * angle.sin()) * 1.2 + phase)
    return (waves + 0.8 * torch.randn(waves.shape, generator=generator))[:, None], labels


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights of a net that tells the directions apart."""
    images, labels = stripes(1200, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(4):
        for part in torch.arange(1200).split(60):
            nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.eval().state_dict()


def dense(trained: dict[str, Tensor]) -> Net:
    net = Net().eval()
    net.load_state_dict(trained)
    return net


@torch.inference_mode()
def accuracy(net: nn.Module) -> float:
    images, labels = stripes(1000, 1)
    return float((net(images).argmax(1) == labels).float().mean())


def test_compensation_gives_accuracy_back_and_it_comes_back_from_disk(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    found, images = {"dense": accuracy(dense(trained))}, stripes(4, 3)[0]
    for name in ("none", "grail", "grail-plus"):
        config = {"selector": "magnitude:p=1", "compensator": name, "allocation": "uniform", "channel_sparsity": 0.5}
        compressor = GrailCompressor(dense(trained), config, spec=SPEC)
        compressor.compress(list(stripes(256, 2)[0]))
        compressor.save_pretrained(tmp_path / name)
        again = load_compressed_(Net().eval(), tmp_path / name, SPEC)
        assert torch.equal(again(images), compressor.model(images))
        assert {block.conv1.out_channels for block in again.blocks} == {12}
        found[name] = accuracy(again)
    assert found["dense"] > 0.9
    assert found["none"] < found["grail-plus"] and found["grail"] <= found["grail-plus"] + 0.02
    assert found["grail-plus"] > found["dense"] - 0.1


def test_files_and_report(trained: dict[str, Tensor], tmp_path: Path) -> None:
    compressor = GrailCompressor(dense(trained), {"sparsity": 0.4, "num_samples": 40}, spec=SPEC, source="my net")
    compressor.compress([{"images": image} for image in stripes(40, 2)[0]], tmp_path / "out")
    expected = {"README.md", "grail_config.json", "grail_layers.json", "grail_plan.json", "grail_plan.tensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected | {
        "grail_errors.png",
        "grail_files.json",
        "grail_report.json",
        "model.safetensors",
    }
    report = compressor.report
    assert (report.model, report.model_class, report.model_type) == ("my net", "Net", "")
    step = 3 * (2 * 9 * CHANNELS + 2) / report.block_parameters_before  # one channel less in every block
    assert not report.standalone and abs(report.achieved - 0.4) < step
    layers = json.loads((tmp_path / "out" / "grail_layers.json").read_text(encoding="utf-8"))["layers"]
    assert set(layers) == {"0", "1", "2"}
    assert "load_compressed_" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="--overwrite"):
        compressor.save_pretrained(tmp_path / "out")
    compressor.save_pretrained(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("config", "data", "error", "message"),
    [
        ({}, None, DataError, "needs calibration data"),
        ({"dataset": "self"}, None, DataError, "causal language model"),
        ({"ffn_sparsity": 0.5}, [torch.zeros(1, 12, 12)], GrailError, "--channel-sparsity"),
        ({"channel_sparsity": 0.99}, [torch.zeros(1, 12, 12)], GrailError, "leaves none of 24"),
        ({"sparsity": 0.999}, [torch.zeros(1, 12, 12)], GrailError, "cannot be reached"),
        ({"standalone": True}, [torch.zeros(1, 12, 12)], GrailError, "--no-standalone"),
    ],
)
def test_bad_requests(trained: dict[str, Tensor], config: Any, data: Any, error: type[Exception], message: str) -> None:
    net = dense(trained)
    with pytest.raises(error, match=message):
        GrailCompressor(net, config, spec=SPEC).compress(data)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in net.state_dict().items())


def test_a_module_needs_a_description(trained: dict[str, Tensor]) -> None:
    with pytest.raises(GrailError, match=r"(?s)Net.*spec"):
        GrailCompressor(dense(trained), {}).compress(list(stripes(8, 2)[0]))
    wrong = ArchitectureSpec(model_types=(), blocks=("blocks.*",), groups=(Mlp(("fc1",), "fc2", "@block"),))
    with pytest.raises(ArchitectureError, match=r"blocks\.0\.fc2"):
        GrailCompressor(dense(trained), {}, spec=wrong).compress(list(stripes(8, 2)[0]))
