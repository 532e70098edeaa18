"""Experts that go, from the command to a folder that plain transformers loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from optimum_grail import GrailCompressor, GrailConfig
from optimum_grail.architectures.moe import DEEPSEEK_V3, MIXTRAL, QWEN2_MOE
from optimum_grail.errors import BudgetError, ConfigError, UnknownNameError
from optimum_grail.hub.citations import citations
from optimum_grail.report.progress import Silent
from optimum_grail.report.report import REPORT_FILE
from optimum_grail.report.table import asked_lines, width_lines
from optimum_grail.selectors.reap import PAPER

FAST: dict[str, Any] = {"num_samples": 12, "seqlen": 24, "batch_size": 4}


def rows(count: int = 12) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, 90, (24,), generator=draw)} for _ in range(count)]


def mixtral() -> nn.Module:
    return MIXTRAL.example()  # type: ignore[misc]


def compressed(model: nn.Module, **config: Any) -> GrailCompressor:
    compressor = GrailCompressor(model, {**FAST, **config})
    compressor.compress(rows())
    return compressor


def test_a_smaller_mixture_is_a_stock_model(tmp_path: Path) -> None:
    compressor = GrailCompressor(mixtral(), {**FAST, "experts": 3, "num_samples": 24})
    model = compressor.compress(rows(24), tmp_path / "small")
    report = compressor.report
    assert report.standalone and model.config.num_local_experts == 3
    assert "asked for 3 experts, got 3" in asked_lines(report)
    assert "experts: 4 -> 3 in 3 layers" in width_lines(report)
    assert all(0 < row.rerouted < 1 for row in report.groups if row.kind == "experts")
    assert not any("Few calibration tokens" in note for note in report.warnings)
    assert PAPER in citations(report.config) and json.loads((tmp_path / "small" / REPORT_FILE).read_text())
    expected = model(input_ids=rows(1)[0]["input_ids"][None]).logits
    script = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "torch.save(model(input_ids=torch.load(sys.argv[2])).logits, sys.argv[2])\n"
        "assert 'optimum_grail' not in sys.modules\n"
    )
    torch.save(rows(1)[0]["input_ids"][None], tmp_path / "tokens.pt")
    call = [sys.executable, "-c", script, str(tmp_path / "small"), str(tmp_path / "tokens.pt")]
    subprocess.run(call, check=True, timeout=120, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "tokens.pt"), expected)


def test_experts_with_few_tokens_are_named() -> None:
    compressor = GrailCompressor(mixtral(), {**FAST, "experts": 3, "num_samples": 2})
    compressor.compress(rows(2))
    (note,) = [note for note in compressor.report.warnings if "Few calibration tokens" in note]
    assert "model.layers.0.experts (" in note and "--num-samples" in note


def test_presets_and_kinds_combine() -> None:
    compressor = compressed(mixtral(), preset="reap", expert_sparsity=0.5, head_sparsity=0.5)
    kinds = {row.kind: (row.units_before, row.units_after) for row in compressor.report.groups}
    assert kinds == {"heads": (4, 2), "experts": (4, 2)}
    assert {"compensator": "none", "expert_selector": "reap"}.items() <= compressor.report.config.items()


def test_the_survey_leaves_experts_out() -> None:
    """The default allocation measures curves of what it shares out: heads, where they shrink too."""
    compressor = compressed(QWEN2_MOE.example(), experts=3, ffn_sparsity=0.5)  # type: ignore[misc]
    kinds = {row.kind: row.units_after for row in compressor.report.groups}
    assert kinds == {"heads": 4, "mlp": 10, "experts": 3}


def test_without_a_size_of_experts_nothing_of_them_is_looked_at() -> None:
    compressor = compressed(mixtral(), sparsity=0.2)
    assert {row.kind for row in compressor.report.groups} == {"heads"}


class Stopped(Exception):
    """Ends a run as a kill would."""


class Stop(Silent):
    """Ends a run after so many groups were compressed."""

    def __init__(self, after: int) -> None:
        self.left, self.running = after, ""

    def start(self, total: int, description: str) -> None:
        self.running = description

    def update(self, advance: int, description: str) -> None:
        self.left -= self.running == "compressing"
        if self.left < 0:
            raise Stopped


def test_interrupted_and_resumed_the_weights_are_the_same(tmp_path: Path) -> None:
    config = {**FAST, "experts": 3, "head_sparsity": 0.5}
    GrailCompressor(mixtral(), config).compress(rows(), tmp_path / "once", resume=True)
    stops = 0
    for after in range(2, 9, 2):
        with suppress(Stopped):
            GrailCompressor(mixtral(), config).compress(rows(), tmp_path / "again", resume=True, progress=Stop(after))
            break
        stops += 1
    assert 0 < stops < 4
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("build", "config", "error", "message"),
    [
        (mixtral, {"experts": 1}, BudgetError, r"4 experts, of which a token goes through 2\. Ask for 2 to 3"),
        (mixtral, {"experts": 4}, BudgetError, "Ask for 2 to 3"),
        (mixtral, {"expert_sparsity": 0.75}, BudgetError, r"fewer than the 2 that must stay.*at most 0\.5"),
        (mixtral, {"experts": 3, "expert_sparsity": 0.5}, ConfigError, "contradict each other"),
        (mixtral, {"experts": 3, "sparsity": 0.5}, ConfigError, "contradict each other"),
        (mixtral, {"experts": 3, "round_to": 2}, ConfigError, "no multiple of round_to=2"),
        (mixtral, {"experts": 3, "expert_selector": "obs"}, ConfigError, "cannot choose experts.*reap"),
        (mixtral, {"experts": 3, "expert_selector": "folding"}, ConfigError, "cannot choose experts|merges units"),
        (mixtral, {"experts": 3, "expert_selector": "raep"}, UnknownNameError, "reap"),
        (mixtral, {"sparsity": 0.1, "selector": "reap"}, ConfigError, "expert_selector"),
    ],
    ids=["below top-k", "all", "fraction", "two sizes", "and sparsity", "rounding", "obs", "folding", "typo", "heads"],
)
def test_what_cannot_be_is_refused(
    build: Callable[[], nn.Module], config: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compressed(build(), **config)


def test_models_without_experts_that_can_go_say_so() -> None:
    from optimum_grail.architectures.llama import tiny_llama

    with pytest.raises(BudgetError, match="no experts that its map could take away"):
        compressed(tiny_llama(), experts=2)
    model: Any = DEEPSEEK_V3.example()  # type: ignore[misc]
    model.config.n_group = 2
    with pytest.raises(BudgetError, match=r"could take away\. Where the router divides experts into groups"):
        compressed(model, experts=2)
    with pytest.raises(BudgetError, match=r"--expert-sparsity 0\.5: .*Where the router divides experts into groups"):
        compressed(model, expert_sparsity=0.5)


def test_rounding_applies_to_fractions() -> None:
    compressor = compressed(mixtral(), expert_sparsity=0.3, round_to=2)
    assert {row.units_after for row in compressor.report.groups if row.kind == "experts"} == {2}


def test_the_configuration_keeps_what_was_asked() -> None:
    config = GrailConfig(experts=3)
    assert config.resolved().expert_selector == "reap" and config.to_dict()["experts"] == 3
    assert GrailConfig(sparsity=0.3).resolved().expert_selector is None
    assert GrailConfig.from_dict(config.resolved().to_dict()).experts == 3


def test_weights_on_disk_give_the_same(tmp_path: Path) -> None:
    mixtral().save_pretrained(tmp_path / "dense")  # type: ignore[operator]
    outputs = []
    for low in (False, True):
        compressor = GrailCompressor.from_pretrained(tmp_path / "dense", {**FAST, "experts": 3, "low_memory": low})
        compressor.compress(rows(), tmp_path / f"small{low}")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / f"small{low}").eval()
        outputs.append(again(input_ids=rows(1)[0]["input_ids"][None]).logits)
    assert torch.equal(*outputs)
