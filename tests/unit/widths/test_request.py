"""Sizes of the whole model: what fraction of the blocks they come to, what is met, and what is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from optimum_grail.allocations.knapsack import Knapsack
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.errors import BudgetError
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.survey.findings import Findings
from optimum_grail.widths.allocate import allocate, check_request
from optimum_grail.widths.request import Request
from optimum_grail.widths.resources import resource_of


def anything(groups: Sequence[ChannelGroup], width: int) -> bool:
    return True


def request_of(layout: Layout, dense: int | None = None, **asked: Any) -> Request:
    config = GrailConfig(standalone=False, **asked)
    return Request.of(config, layout, layout.block_parameters if dense is None else dense)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
@pytest.mark.parametrize("method", [Uniform(), Knapsack()], ids=["uniform", "knapsack"])
def test_a_size_in_parameters_is_met(share: float, method: Any) -> None:
    layout = resolve(tiny_llama())
    asked = int(share * layout.total_parameters)
    request = request_of(layout, target_parameters=asked)
    assert request.asked(layout) == pytest.approx(layout.total_parameters - asked)
    kept = allocate(layout, request, method, anything).kept
    left = layout.total_parameters - layout.removed_parameters(kept)
    assert asked - 0.005 * layout.block_parameters <= left < asked + min(g.cost for g in layout.groups) * 3


def test_added_biases_are_taken_off_too() -> None:
    layout = resolve(tiny_llama())
    asked = layout.total_parameters - 5000
    assert request_of(layout, layout.block_parameters - 100, target_parameters=asked).asked(layout) == pytest.approx(
        5000
    )


def test_bytes_are_those_of_the_dtypes() -> None:
    model = tiny_llama()
    model.model.layers[0].to(torch.bfloat16)
    layout = resolve(model)
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert layout.total_bytes == size
    request = request_of(layout, target_bytes=int(0.8 * size))
    resource = resource_of("bytes", layout, request, Findings())
    assert resource.asked == pytest.approx(size - int(0.8 * size))
    assert resource.total == sum(p.nbytes for block in model.model.layers for p in block.parameters())
    first, second = (resource.costs[f"model.layers.{index}.mlp"] for index in (0, 1))
    assert isinstance(first, int) and second == 2 * first
    kept = allocate(layout, request, Knapsack(budget="bytes"), anything).kept
    assert size - resource.removed(kept) == pytest.approx(0.8 * size, rel=0.01)


@pytest.mark.parametrize(
    ("field", "attribute"), [("target_parameters", "total_parameters"), ("target_bytes", "total_bytes")]
)
def test_sizes_out_of_reach_are_refused_before_any_work(field: str, attribute: str) -> None:
    layout = resolve(tiny_llama())
    total = getattr(layout, attribute)
    outside = total - (layout.block_bytes if "bytes" in field else layout.block_parameters)
    with pytest.raises(BudgetError, match=rf"{field}={total:,} is no less than the {total:,} "):
        request_of(layout, **{field: total})
    with pytest.raises(
        BudgetError, match=rf"{field}={outside:,} cannot be reached: {outside:,} of the model's {total:,}"
    ):
        request_of(layout, **{field: outside})
    with pytest.raises(
        BudgetError, match=rf"{field}={outside + 9:,} \(a sparsity of .*can go, which leaves [\d,]+\. Ask"
    ):
        request = request_of(layout, **{field: outside + 9})
        check_request(layout, request, Uniform(budget=field.removeprefix("target_")), anything)


@pytest.mark.parametrize("field", ["target_parameters", "target_bytes"])
def test_a_run_ends_at_the_size(field: str, tmp_path: Any) -> None:
    model = tiny_llama()
    sizes = {"target_parameters": 30_000, "target_bytes": 120_000}
    compressor = GrailCompressor(model, {"preset": "magnitude", field: sizes[field]})
    small = compressor.compress()
    found = sum(p.numel() if field == "target_parameters" else p.nbytes for p in small.parameters())
    assert 0.98 * sizes[field] < found <= 1.01 * sizes[field]
    assert compressor.report.asked == {field: sizes[field]}
    compressor.report.save(tmp_path)
    assert GrailConfig.from_file(tmp_path).to_dict() == dict(compressor.report.config)
