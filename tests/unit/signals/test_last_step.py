"""The last step of an error curve, from one unit to none: is a sub-block worth what it says?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.data.batches import Batch, few_of
from optimum_grail.data.genres import GENRES
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.survey.survey import Survey


@torch.no_grad()
def outputs(model: Any, batches: Sequence[Batch]) -> list[Tensor]:
    """Logarithms of the odds of every token, by batch."""
    return [model(**batch.inputs, use_cache=False).logits.log_softmax(-1) for batch in batches]


def divergence(dense: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Of outputs from the dense ones, a mean over the tokens."""
    return fmean(float((one.exp() * (one - other)).sum(-1).mean()) for one, other in zip(dense, found, strict=True))


def test_it_is_worth_no_less_than_the_curves_say(embedded_llama: Path) -> None:
    """Else the knapsack would keep sub-blocks that it should take out (docs/adr/0007): each is really taken out."""
    model: Any = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32).eval()
    layout, tokenizer = resolve(model), AutoTokenizer.from_pretrained(embedded_llama)
    request = DataRequest("general", num_samples=8 * len(GENRES), seqlen=128, seed=0)
    data = load_calibration(Recipient.of(model, layout, tokenizer, None), request)
    curves = Survey(model, layout, data.batches, Silent(), frozenset({"gradient-curves"})).run().curves
    few = [data.batches[index] for index in few_of(data.batches)]
    dense = outputs(model, few)
    ratios: dict[str, list[float]] = {"heads": [], "mlp": []}
    for group in layout.groups:
        weight = model.get_submodule(group.consumer.module).weight
        kept = weight.detach().clone()
        nn.init.zeros_(weight)
        ratios[group.kind].append(divergence(dense, outputs(model, few)) / curves[group.name].damage(0))
        weight.data.copy_(kept)
    assert all(len(each) == 6 for each in ratios.values())
    assert 0.7 < median(ratios["mlp"]) < 1.6 and 0.7 < median(ratios["heads"]) < 2, ratios
    assert min(min(each) for each in ratios.values()) > 0.4, ratios


@pytest.mark.parametrize("kind", ["heads", "mlp"])
def test_a_sub_block_that_adds_next_to_nothing_goes_altogether(kind: str) -> None:
    model = tiny_llama().eval()
    faint = next(group for group in resolve(model).groups if group.kind == kind and group.layer == "1")
    with torch.no_grad():
        model.get_submodule(faint.consumer.module).weight.mul_(1e-3)
    draw = torch.Generator().manual_seed(0)
    samples = [{"input_ids": torch.randint(3, 90, (24,), generator=draw)} for _ in range(24)]
    share = faint.units * faint.cost / resolve(model).block_parameters
    compressor = GrailCompressor(
        model, {"allocation": "knapsack:min_heads=0,min_ffn=0", "sparsity": share, "batch_size": 8}
    )
    compressor.compress(calibration_dataset=samples)
    kept = {row.name: row.units_after for row in compressor.report.groups}
    assert kept[faint.name] == 0
    assert sum(units == 0 for units in kept.values()) == 1
