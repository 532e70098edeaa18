"""The backward sweep, block by block, is that of the model as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion
from optimum_grail.models.check import inputs_for
from optimum_grail.models.resolve import resolve
from optimum_grail.signals.gradient_curves import drawn
from optimum_grail.streams.backward import Backward
from optimum_grail.streams.capture import order_of


def inputs_of(model: Any) -> dict[str, Tensor]:
    if model.config.model_type != "clip":
        return inputs_for(model, resolve(model).stacks[0].spec)
    draw = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 16, 16, generator=draw)
    return {"input_ids": torch.randint(3, 60, (2, 9), generator=draw), "pixel_values": pixels}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("build", [tiny_llama, tiny_bert, tiny_vit, tiny_clip])
def test_block_by_block_is_as_at_once(build: Callable[[], nn.Module], offload: bool) -> None:
    model = build().eval()
    layout = resolve(model)
    batches = [Batch(inputs_of(model), "fit"), Batch({k: v.flip(0) for k, v in inputs_of(model).items()}, "fit")]
    order = order_of(model, layout.blocks, batches[0])
    sweep = Backward(model, layout, Portion.of(batches), order, 3, offload)
    found = {group.name: slopes for group, slopes in sweep.run()}
    whole = Backward(model, layout, Portion.of(batches), replace(order, free=(), fed=order.free), 3)
    object.__setattr__(whole, "_tail", sweep._tail)
    assert set(found) == {group.name for group in layout.groups}
    for group, slopes in whole.run():
        for ours, expected in zip(found[group.name], slopes, strict=True):
            torch.testing.assert_close(ours.features, expected.features, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(ours.gradient, expected.gradient, atol=1e-5, rtol=1e-3)
            assert float(expected.gradient.abs().sum()) > 0
    assert sweep.scale == whole.scale > 0
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_no_graph_is_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_llama().eval()
    layout = resolve(model)
    batch = Batch(inputs_of(model), "fit")
    graphs: list[int] = []

    for block in model.model.layers:
        block.mlp.register_forward_hook(lambda *_: graphs.append(int(torch.is_grad_enabled())))
    real = torch.autograd.grad
    at_grad: list[int] = []

    def grad(*args: Any, **kwargs: Any) -> Any:
        at_grad.append(sum(graphs))
        graphs.clear()
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    for _ in Backward(model, layout, Portion.of([batch]), order_of(model, layout.blocks, batch), 0).run():
        pass
    assert max(at_grad) == 1, "every backward pass goes through one block"


def test_drawn_rows_stand_for_all() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(4000, generator=draw).double() ** 8
    rows, weights = drawn(values, 5000, draw)
    assert torch.equal(rows, torch.arange(4000)) and bool((weights == 1).all())
    sums = []
    for _ in range(50):
        rows, weights = drawn(values * (0.5 + torch.rand(4000, generator=draw)), 400, draw)
        assert len(rows) == 400
        sums.append(float(values[rows] @ weights))
    spread = torch.tensor(sums) / float(values.sum())
    assert float(spread.mean()) == pytest.approx(1, abs=0.02) and float(spread.std()) < 0.05
    rows, weights = drawn(torch.zeros(10).double(), 4, draw)
    assert weights.tolist() == [2.5] * 4, "where nothing is known all rows are alike"
