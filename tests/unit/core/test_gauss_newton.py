"""Products and their adjoints; a Gauss-Newton step solves its least-squares problem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from optimum_grail.core.gauss_newton import Step, moved
from optimum_grail.core.producers import Rows
from optimum_grail.core.products import Convolution, Matrix, Product

CASES = [
    pytest.param(Matrix(), (7, 5), (4, 5), id="matrix"),
    pytest.param(Convolution((3, 3), (1, 1), (1, 1), (1, 1)), (2, 5, 6, 6), (4, 5, 3, 3), id="same"),
    pytest.param(Convolution((3, 2), (2, 1), (1, 0), (1, 2)), (2, 5, 9, 8), (4, 5, 3, 2), id="strided"),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize(("product", "inputs", "weight"), CASES)
def test_the_adjoints_are_gradients(product: Product, inputs: tuple[int, ...], weight: tuple[int, ...]) -> None:
    x, w = drawn(*inputs).requires_grad_(), drawn(*weight).requires_grad_()
    outputs = product(x, w)
    r = drawn(*outputs.shape, seed=1)
    by_input, by_weight = grad((outputs * r).sum(), (x, w))
    torch.testing.assert_close(product.by_input(w.detach(), r, x.shape), by_input)
    torch.testing.assert_close(product.by_weight(x.detach(), r, w.shape), by_weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("product", "inputs", "weight"), CASES)
def test_rows_times_the_matrix_are_the_outputs(
    product: Product, inputs: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    x, w = drawn(*inputs), drawn(*weight)
    torch.testing.assert_close(product.rows(x) @ w.flatten(1).T, product.outputs(product(x, w)), rtol=1e-4, atol=1e-5)
    assert weight[2:] == product.taps


@pytest.mark.parametrize("sides", [1, 2])
def test_a_step_without_damping_is_the_least_squares_solution(sides: int) -> None:
    count, width, units, outputs = 400, 4, 3, 6
    inputs = drawn(count, width)
    derivatives = [drawn(count, units, seed=side) for side in range(sides)]
    weight, residual = drawn(outputs, units), drawn(count, outputs)
    rows = Rows([inputs] * sides, derivatives, drawn(count, units, seed=9), residual)
    step = Step.of(rows, [Matrix()] * sides, Matrix(), weight, damping=1e-9)
    found = torch.cat([change.flatten() for change in [*step.path(residual, iterations=200)][-1]])
    design = torch.cat([torch.einsum("nk,nc,ok->nokc", j, inputs, weight).flatten(2) for j in derivatives], 2)
    exact = torch.linalg.lstsq(design.flatten(0, 1).double(), residual.flatten()[:, None].double()).solution[:, 0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-3)


def test_damping_shortens_a_step_and_scales_leave_it_as_it_is() -> None:
    inputs, derivatives, weight, residual = drawn(300, 4), drawn(300, 3, seed=1), drawn(5, 3), drawn(300, 5)

    def effect(damping: float, scale: float = 1.0) -> Tensor:
        """What the step does to the outputs, with inputs in another unit."""
        rows = Rows([inputs * scale], [derivatives], derivatives, residual)
        *_, changes = Step.of(rows, [Matrix()], Matrix(), weight, damping).path(residual, 50)
        return moved(rows, [Matrix()], Matrix(), weight, changes)

    assert effect(10.0).norm() < 0.5 * effect(0.1).norm()
    torch.testing.assert_close(effect(0.5, 1000.0), effect(0.5), rtol=1e-3, atol=1e-4)
