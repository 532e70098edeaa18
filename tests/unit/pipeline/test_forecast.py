"""What a run would do, told without doing it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import BudgetError, DataError
from optimum_grail.pipeline import stages
from optimum_grail.pipeline.forecast import Forecast, forecast
from optimum_grail.pipeline.run import compress_
from optimum_grail.pipeline.setup import Setup

DRAW = torch.Generator().manual_seed(0)
ROWS = [{"input_ids": torch.randint(3, 90, (12,), generator=DRAW)} for _ in range(10)]


def setup_of(**fields: Any) -> Setup:
    return Setup(GrailConfig(**{"sparsity": 0.4, "batch_size": 5, **fields}).resolved())


def told(model: nn.Module, dataset: Any = None, **fields: Any) -> Forecast:
    """The forecast, after seeing that it leaves the model alone and that it can be written as JSON."""
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    config = model.config.to_dict()
    found = forecast(model, setup_of(**fields), dataset)
    assert {name: value.dtype for name, value in model.state_dict().items()} == {n: v.dtype for n, v in before.items()}
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes and model.config.to_dict() == config
    assert json.loads(json.dumps(found.to_dict()))["parameters"] == found.parameters
    return found


@pytest.mark.parametrize("fields", [{"preset": "magnitude"}, {"preset": "flap", "allocation": "uniform"}])
def test_widths_that_are_known_are_those_of_the_run(fields: dict[str, Any]) -> None:
    found = told(tiny_llama().to(torch.bfloat16).train(), ROWS, **fields)
    run = compress_(tiny_llama().to(torch.bfloat16), setup_of(**fields), ROWS)
    assert (found.parameters, found.block_parameters) == (run.before.parameters, run.before.blocks)
    assert found.block_parameters_after == run.after.blocks
    kept = {kind.kind: kind.kept for kind in found.kinds}
    for kind in ("heads", "mlp"):
        groups = [group for group in run.layout.groups if group.kind == kind]
        each = max(count for _, count in groups[0].fields)
        widths = [run.widths.kept[group.name] * each for group in groups]
        assert kept[kind] == (min(widths), max(widths))
    assert (found.outlook is None) == (fields["preset"] == "magnitude")


def test_heads_are_counted_as_the_config_counts_them() -> None:
    model = tiny_llama()
    (heads,) = (kind for kind in told(model, preset="magnitude").kinds if kind.kind == "heads")
    assert heads.width == (model.config.num_attention_heads,) * 2
    assert heads.layers == model.config.num_hidden_layers


def test_widths_that_are_measured_have_bounds() -> None:
    found = told(tiny_llama(), ROWS)
    assert found.block_parameters_after is None and 0.4 < (found.reachable or 0) < 1
    assert all(kind.kept is None and kind.least[0] < kind.width[0] for kind in found.kinds)
    assert "what is measured decides" in "\n".join(found.lines())
    flops = told(tiny_llama(), ROWS, allocation="knapsack:budget=flops")
    assert flops.reachable is None and [kind.kind for kind in flops.kinds] == ["heads", "mlp"]


def test_no_text_is_written_and_its_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        pytest.fail("the data must not be made")

    monkeypatch.setattr(stages, "load_calibration", fail)
    monkeypatch.setattr(stages, "Survey", fail)
    monkeypatch.setattr(stages, "FitRun", fail)
    found = told(tiny_llama(), num_samples=10, seqlen=12)
    assert found.outlook is not None and (found.outlook.samples, found.outlook.tokens) == (10, 120)
    assert found.lines()[-1].startswith("Needs ") and "10 samples, 120 tokens" in found.lines()[-1]


def test_one_kind_alone_is_told_alone() -> None:
    found = told(tiny_bert(), ROWS, sparsity=None, ffn_sparsity=0.5, preset="magnitude")
    assert [kind.kind for kind in found.kinds] == ["mlp"]
    (kind,) = found.kinds
    assert kind.kept == (kind.width[0] // 2,) * 2


def test_what_a_run_would_refuse_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot be reached"):
        told(tiny_llama(), ROWS, sparsity=0.99)
    with pytest.raises(DataError, match="needs calibration data"):
        told(tiny_bert())
