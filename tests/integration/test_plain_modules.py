"""A module without a transformers config: compressed, saved, loaded; damaged files leave it alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.checkpoints.plain_modules import LAYERS, WEIGHTS, load_compressed_, save_compressed
from optimum_grail.core.spec import ArchitectureSpec, Conv
from optimum_grail.errors import CheckpointError
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import narrow_


class Block(nn.Module):
    """A basic residual block of channels ``width``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class Plain(nn.Module):
    """Two rows of blocks, as in a CIFAR ResNet, without any config."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(6), Block(6))
        self.layer2 = nn.Sequential(Block(6))
        self.head = nn.Linear(6, 3)
        self.tied = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.layer2(self.layer1(x)).mean((2, 3)))


PLAIN = ArchitectureSpec(
    model_types=(),
    blocks=("layer1.*", "layer2.*"),
    groups=(Conv(produce="conv1", channelwise=("bn1",), consume="conv2", consume_norm="bn2", stream="@block"),),
    main_input="image",
)


def saved_plain(folder: Path) -> nn.Module:
    """A compressed plain module, saved."""
    model = Plain().eval()
    layout = resolve(model, PLAIN)
    assert [group.layer for group in layout.groups] == ["layer1.0", "layer1.1", "layer2.0"]
    narrow_(model, layout.groups[0], 2)
    narrow_(model, layout.groups[2], 5)
    save_compressed(model, folder, layout, {"version": "0"})
    return model


def test_plain_module_round_trip(tmp_path: Path) -> None:
    model, images = saved_plain(tmp_path), torch.randn(2, 6, 8, 8)
    again = load_compressed_(Plain().eval(), tmp_path, PLAIN)
    assert torch.equal(again(images), model(images))
    assert json.loads((tmp_path / LAYERS).read_text())["version"] == "0"
    assert torch.equal(load_compressed_(again, tmp_path, PLAIN)(images), model(images)), "loading twice is harmless"


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])


def garble(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 64)


def drop_table(folder: Path) -> None:
    (folder / LAYERS).unlink()


def break_json(folder: Path) -> None:
    (folder / LAYERS).write_text("{")


def other_widths(folder: Path) -> None:
    (folder / LAYERS).write_text(json.dumps({"layers": {"layer1.0": {"conv1": 3}}}))


@pytest.mark.parametrize("damage", [truncate, garble, drop_table, break_json, other_widths])
def test_damaged_plain_checkpoints_leave_the_module_alone(damage: Callable[[Path], None], tmp_path: Path) -> None:
    saved_plain(tmp_path)
    damage(tmp_path)
    model = Plain()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError):
        load_compressed_(model, tmp_path, PLAIN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
