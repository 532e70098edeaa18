"""What ``inspect`` and a forecast say of a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch

from optimum_grail import GrailCompressor
from optimum_grail.architectures.moe import DEEPSEEK_V3, GLM4_MOE, MIXTRAL
from optimum_grail.commands._inspection import inspect_model


def test_experts_are_a_row_of_their_own() -> None:
    found = inspect_model(MIXTRAL.example())  # type: ignore[misc]
    (row,) = [row for row in found["families"] if row["kind"] == "experts"]
    assert (row["groups"], row["units"], row["quantizer_step"]) == (3, 4, 1)
    assert row["expressible"] == [2, 3, 4], "as many as a token goes through, at least"
    heads = sum(row["parameters"] for row in found["families"] if row["kind"] == "heads")
    assert found["largest_sparsity"] <= heads / found["block_parameters"], "a sparsity leaves experts as they are"


def test_layers_with_experts_and_layers_without() -> None:
    found = inspect_model(GLM4_MOE.example())  # type: ignore[misc]
    assert {row["kind"]: row["groups"] for row in found["families"]} == {
        "heads": 3,
        "mlp": 1,
        "experts": 2,
        "expert-channels": 2,
        "shared-channels": 2,
    }
    found = inspect_model(DEEPSEEK_V3.example())  # type: ignore[misc]
    assert {row["kind"]: row["groups"] for row in found["families"]} == {
        "mlp": 2,
        "experts": 1,
        "expert-channels": 1,
        "shared-channels": 1,
    }
    assert [item["kind"] for item in found["impossible"]] == ["heads"]
    model: Any = DEEPSEEK_V3.example()  # type: ignore[misc]
    model.config.n_group = 2
    assert [item["kind"] for item in inspect_model(model)["impossible"]] == ["experts", "heads"]


def test_channels_inside_experts_are_a_row_too() -> None:
    found = inspect_model(MIXTRAL.example())  # type: ignore[misc]
    (row,) = [row for row in found["families"] if row["kind"] == "expert-channels"]
    assert (row["groups"], row["units"], row["quantizer_step"]) == (3, 16, 32)
    assert row["expressible"] == [8, 16], "kernels of experts take multiples of eight"
    assert row["parameters"] == 3 * 4 * 16 * 3 * 32


def test_a_forecast_tells_what_would_stay() -> None:
    model: Any = MIXTRAL.example()  # type: ignore[misc]
    rows = [{"input_ids": torch.arange(3, 27)} for _ in range(4)]
    told = GrailCompressor(model, {"experts": 3, "num_samples": 4, "seqlen": 24}).forecast(rows)
    (kind,) = [kind for kind in told.kinds if kind.kind == "experts"]
    assert (kind.width, kind.least, kind.kept) == ((4, 4), (2, 2), (3, 3))
    assert told.block_parameters_after == told.block_parameters - 3 * 1568
    assert model.config.num_local_experts == 4 and told.outlook is not None
