"""Values that several unit tests share."""

from __future__ import annotations

import pytest

from optimum_grail.report.report import Calibration, GroupRow, Report

DIAGNOSTICS = {
    "plain_error": 0.3,
    "fit_error": 0.1,
    "held_error": 0.15,
    "ridge": 1e-4,
    "tau": 0.75,
    "chosen": "fit",
    "affine": True,
}


@pytest.fixture
def report() -> Report:
    return Report(
        model="some-model",
        model_type="llama",
        model_class="LlamaForCausalLM",
        asked={"sparsity": 0.5},
        parameters_before=1000,
        parameters_after=600,
        block_parameters_before=800,
        block_parameters_after=400,
        bytes_before=2000,
        bytes_after=1200,
        groups=(
            GroupRow.of("layers.0.heads", "heads", 4, 4, {}),
            GroupRow.of("layers.0.mlp", "mlp", 64, 24, DIAGNOSTICS),
            GroupRow.of("layers.1.mlp", "mlp", 64, 24, DIAGNOSTICS | {"chosen": "plain"}),
        ),
        calibration=Calibration("self", "ab" * 32, 128, 32768, 256, ("streams in float32",)),
        config={"selector": "obs", "compensator": "grail-plus", "ridge": None},
        evaluation=({"metric": "perplexity", "dataset": "test.txt", "dense": 40.0, "compressed": float("inf")},),
        seconds={"fit": 1.5},
        peak_memory=10**9,
        versions={"python": "3.12.1", "torch": "2.13.0"},
        hardware={"processor": "a", "cores": 2},
        warnings=("something | odd",),
        command="optimum-cli grail compress -m some-model -o out",
    )
