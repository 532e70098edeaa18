"""What a tensor of a file is made of, as values: stored tensors, their rows in another order, sums, zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[str], Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored.

    Args:
        name: in the checkpoint.
        heads: where its rows belong to heads whose halves are turned in pairs: their number. The rows of each head are
            then put pair by pair, as llama.cpp turns them. 0: as they are.
    """

    name: str
    heads: int = 0

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Its shape, of ``shapes`` by name."""
        return shapes[self.name]

    def values(self, read: Read) -> Tensor:
        """Its values, float32."""
        tensor = read(self.name).to("cpu", torch.float32)
        if not self.heads:
            return tensor
        halves = tensor.reshape(self.heads, 2, -1, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class Zeros:
    """Nothing but zeros.

    Args:
        size: the shape.
    """

    size: tuple[int, ...]

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """The shape."""
        return self.size

    def values(self, read: Read) -> Tensor:
        """The zeros, float32."""
        return torch.zeros(self.size)


@dataclass(frozen=True)
class Given:
    """Numbers that are known already.

    Args:
        numbers: the vector.
    """

    numbers: tuple[float, ...]

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """One axis."""
        return (len(self.numbers),)

    def values(self, read: Read) -> Tensor:
        """The vector, float32."""
        return torch.tensor(self.numbers, dtype=torch.float32)


@dataclass(frozen=True)
class Sum:
    """Several vectors of one shape, added.

    Args:
        parts: at least one.
    """

    parts: tuple[Stored, ...]

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """That of each part."""
        return self.parts[0].shape(shapes)

    def values(self, read: Read) -> Tensor:
        """The sum, float32."""
        return torch.stack([part.values(read) for part in self.parts]).sum(0)


@dataclass(frozen=True)
class Stacked:
    """Matrices of one width, one below the other.

    Args:
        parts: from the top.
    """

    parts: tuple[Stored | Zeros, ...]

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Rows together, columns as they are."""
        found = [part.shape(shapes) for part in self.parts]
        return (sum(shape[0] for shape in found), *found[0][1:])

    def values(self, read: Read) -> Tensor:
        """The matrix, float32."""
        return torch.cat([part.values(read) for part in self.parts])


Source = Stored | Zeros | Given | Sum | Stacked
