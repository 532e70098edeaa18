"""Matrix views of consumers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.matrix import (
    axes,
    columns,
    features_per_unit,
    from_matrix,
    owns_bias,
    producer_matrix,
    rows,
    shared_to_patch,
    taps,
    to_matrix,
)
from optimum_grail.models.resolve import resolve


@pytest.mark.parametrize("view", ["patch", "shared"])
@pytest.mark.parametrize("module", [nn.Linear(5, 7), nn.Conv2d(5, 7, (3, 2)), Conv1D(7, 5)], ids=repr)
def test_views_invert(module: nn.Module, view: str) -> None:
    matrix = to_matrix(module, view)
    assert matrix.dtype == torch.float64 and not matrix.requires_grad
    assert torch.equal(from_matrix(matrix, module, view).to(module.weight.dtype), module.weight)
    assert (rows(module), columns(module)) == (7, 5)
    assert matrix.numel() == 7 * 5 * taps(module)
    matrix.zero_()
    assert module.weight.abs().sum() > 0, "the view must be a copy"


def test_patch_view_is_the_matrix_that_acts_on_unfolded_patches() -> None:
    conv, x = nn.Conv2d(4, 6, 3, padding=1, bias=False), torch.randn(2, 4, 5, 5)
    patches = nn.functional.unfold(x, 3, padding=1).double()
    torch.testing.assert_close(to_matrix(conv) @ patches, conv(x).flatten(2).double(), atol=1e-5, rtol=1e-5)


def test_shared_view_acts_on_channels_tap_by_tap() -> None:
    conv, x = nn.Conv2d(4, 6, 3, bias=False), torch.randn(1, 4, 3, 3)
    by_tap = to_matrix(conv, "shared").reshape(6, 3, 3, 4)
    total = torch.einsum("ohwi,ihw->o", by_tap, x[0].double())
    torch.testing.assert_close(total, conv(x).flatten().double(), atol=1e-5, rtol=1e-5)
    assert torch.equal(shared_to_patch(to_matrix(conv, "shared"), conv), to_matrix(conv))


def test_a_unit_owns_consecutive_columns() -> None:
    model = tiny_basic()
    group = resolve(model).groups[0]
    conv = model.get_submodule(group.consumer.module)
    assert features_per_unit(group, conv) == 9 and features_per_unit(group, conv, "shared") == 1
    assert torch.equal(to_matrix(conv)[:, 9:18], conv.weight[:, 1].flatten(1).double())


def test_producer_rows_hold_all_of_a_unit() -> None:
    model = tiny_basic()
    group = resolve(model).groups[0]
    filters, norm = (producer_matrix(model, group, index) for index in range(2))
    assert filters.shape == (8, 72) and norm.shape == (8, 2)
    assert torch.equal(norm[:, 1], model.get_submodule(group.producers[1].module).bias.double())
    assert owns_bias(model, group)


@pytest.mark.parametrize("module", [nn.Conv2d(4, 4, 3, groups=2), nn.Embedding(3, 3), nn.LayerNorm(4)], ids=repr)
def test_other_modules_are_refused(module: nn.Module) -> None:
    with pytest.raises(ArchitectureError, match=r"here\.path"):
        axes(module, "here.path")
