"""Models that no map of the package knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """The residual block of torchvision's ResNet-18, written anew."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + x)


class Inverted(nn.Module):
    """An inverted residual as in MobileNet v2: expand, filter each channel by itself, reduce."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(width, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
            nn.Conv2d(16, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Mixer(nn.Module):
    """A block of an MLP-Mixer: one pair over tokens, one over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 10), nn.GELU(), nn.Linear(10, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Gated(nn.Module):
    """Halves of one projection gate each other, side by side for every unit where ``interleaved``; a number scales what
    is added."""

    def __init__(self, width: int, interleaved: bool, scale: float) -> None:
        super().__init__()
        self.norm, self.both = nn.LayerNorm(width), nn.Linear(width, 24)
        self.down, self.interleaved, self.scale = nn.Linear(12, width), interleaved, scale

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(self.norm(x))
        gate, up = (both[..., ::2], both[..., 1::2]) if self.interleaved else both.chunk(2, -1)
        return x + self.scale * self.down(torch.sigmoid(gate) * up)


class Attending(nn.Module):
    """Multi-query attention, queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int, keys: int, size: int) -> None:
        super().__init__()
        self.norm, self.heads, self.keys, self.head_dim = nn.LayerNorm(width), heads, keys, size
        self.qkv, self.out = nn.Linear(width, (heads + 2 * keys) * size), nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key, value = parts.split([self.heads, self.keys, self.keys], 1)
        groups = self.heads // max(self.keys, 1)
        mixed = nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        )
        return x + self.out(mixed.transpose(1, 2).flatten(-2))


class Tangled(nn.Module):
    """Nothing of it can shrink: the units of the only pair are read twice, and mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.side = nn.Linear(width, 12), nn.Linear(12, width), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.softmax(self.up(x), -1)
        return x + self.down(inner) + self.side(inner)


class Net(nn.Module):
    """Blocks one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)
