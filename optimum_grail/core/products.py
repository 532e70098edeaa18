"""Layers as what they are linear in: ``output = product(input, weight)``, with both adjoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight


class Product(ABC):
    """One layer's product. Features lie along :attr:`axis` of inputs and outputs, and along axis 1 of weights."""

    @property
    @abstractmethod
    def axis(self) -> int:
        """Axis of the features."""

    @property
    @abstractmethod
    def taps(self) -> tuple[int, ...]:
        """What follows the two axes of features in the shape of a weight."""

    @abstractmethod
    def __call__(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """What the layer puts out, without a bias."""

    @abstractmethod
    def by_weight(self, inputs: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint in the weight: ``Σ outputs · ∂ product / ∂ weight``, of the weight's ``shape``."""

    @abstractmethod
    def by_input(self, weight: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint in the input, of the inputs' ``shape``."""

    @abstractmethod
    def rows(self, inputs: Tensor) -> Tensor:
        """The inputs as rows ``[N, F]`` of the layer's matrix ``[O, F]``."""

    @abstractmethod
    def outputs(self, outputs: Tensor) -> Tensor:
        """What the layer puts out as rows ``[N, O]``, those of :meth:`rows`."""

    def mixed(self, tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
        """``tensor`` with its features along ``axis`` multiplied by ``matrix`` ``[F, F]`` from the right."""
        return (tensor.movedim(axis, -1) @ matrix).movedim(-1, axis)

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """One value per feature ``[F]``, in a shape that multiplies ``like``."""
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return values.reshape(shape)

    def mean_square(self, tensor: Tensor) -> Tensor:
        """Per feature of inputs or outputs; ``[F]``."""
        return tensor.movedim(self.axis, -1).flatten(0, -2).square().mean(0)


@dataclass(frozen=True)
class Matrix(Product):
    """A linear layer: inputs ``[N, F]``, weight ``[O, F]``."""

    @property
    def axis(self) -> int:
        """The last one."""
        return -1

    @property
    def taps(self) -> tuple[int, ...]:
        """None."""
        return ()

    def __call__(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """``[N, O]``."""
        return inputs @ weight.T

    def by_weight(self, inputs: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """``outputsᵀ inputs``."""
        return outputs.T @ inputs

    def by_input(self, weight: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """``outputs weight``."""
        return outputs @ weight

    def rows(self, inputs: Tensor) -> Tensor:
        """As they are."""
        return inputs

    def outputs(self, outputs: Tensor) -> Tensor:
        """As they are."""
        return outputs


@dataclass(frozen=True)
class Convolution(Product):
    """An ungrouped two-dimensional convolution: inputs ``[B, F, H, W]``, weight ``[O, F, kh, kw]``.

    Args:
        kernel, stride, padding, dilation: of both directions.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def axis(self) -> int:
        """The second one."""
        return 1

    @property
    def taps(self) -> tuple[int, ...]:
        """The kernel."""
        return self.kernel

    def __call__(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """``[B, O, H', W']``."""
        return functional.conv2d(inputs, weight, None, self.stride, self.padding, self.dilation)

    def by_weight(self, inputs: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """The gradient of a convolution's weight."""
        found: Tensor = conv2d_weight(inputs, tuple(shape), outputs, self.stride, self.padding, self.dilation)
        return found

    def by_input(self, weight: Tensor, outputs: Tensor, shape: Sequence[int]) -> Tensor:
        """The gradient of a convolution's input."""
        found: Tensor = conv2d_input(tuple(shape), weight, outputs, self.stride, self.padding, self.dilation)
        return found

    def rows(self, inputs: Tensor) -> Tensor:
        """Patches, ``[B · H' · W', F · kh · kw]``."""
        patches = functional.unfold(inputs, self.kernel, self.dilation, self.padding, self.stride)
        return patches.transpose(1, 2).flatten(0, 1)

    def outputs(self, outputs: Tensor) -> Tensor:
        """``[B · H' · W', O]``."""
        return outputs.flatten(2).transpose(1, 2).flatten(0, 1)
