"""Channels inside experts, from the command's fields to a folder that plain transformers loads."""

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
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from optimum_grail import GrailCompressor, GrailConfig
from optimum_grail.adapters import convert_adapter
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.moe import DEEPSEEK_V3, GLM4_MOE, GPT_OSS, MIXTRAL, QWEN2_MOE
from optimum_grail.checkpoints.plan_file import load_reductions
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import BudgetError, ConfigError
from optimum_grail.fit.agreement import check_shareable
from optimum_grail.fit.methods import Methods
from optimum_grail.processes.ranks import Ranks
from optimum_grail.report.progress import Silent
from optimum_grail.report.table import asked_lines, width_lines

FAST: dict[str, Any] = {"num_samples": 24, "seqlen": 24, "batch_size": 4}


def rows(count: int = 24) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(3, 90, (24,), generator=draw)} for _ in range(count)]


def mixtral() -> nn.Module:
    return MIXTRAL.example()  # type: ignore[misc]


def compressed(model: nn.Module, **config: Any) -> GrailCompressor:
    compressor = GrailCompressor(model, {**FAST, **config})
    compressor.compress(rows())
    return compressor


SCRIPT = (
    "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
    "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
    "torch.save(model(input_ids=torch.load(sys.argv[2])).logits, sys.argv[2])\n"
    "assert 'optimum_grail' not in sys.modules\n"
)


@pytest.mark.parametrize("experts", [None, 3], ids=["all experts", "fewer experts"])
def test_narrower_experts_are_a_stock_model(tmp_path: Path, experts: int | None) -> None:
    compressor = GrailCompressor(mixtral(), {**FAST, "expert_ffn_sparsity": 0.5, "experts": experts})
    model = compressor.compress(rows(), tmp_path / "small")
    report = compressor.report
    assert report.standalone and model.config.intermediate_size == 8
    assert model.config.num_local_experts == (experts or 4)
    assert "asked 50.0 % of the channels inside experts, achieved 50.0 %" in asked_lines(report)
    assert "channels inside each expert: 16 -> 8 in 3 layers" in width_lines(report)
    assert {row.kind for row in report.groups} == {"heads", "expert-channels"} | ({"experts"} if experts else set())
    kept = json.loads((tmp_path / "small" / "grail_plan.json").read_text())["groups"]
    reduction = load_reductions(tmp_path / "small")["model.layers.0.expert_channels"]
    assert kept["model.layers.0.expert_channels"]["kept"] == 8
    assert reduction.slots == 8 * (experts or 4) and len(reduction.assignment) == 16 * (experts or 4)
    tokens = rows(1)[0]["input_ids"][None]
    torch.save(tokens, tmp_path / "tokens.pt")
    call = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "tokens.pt")]
    subprocess.run(call, check=True, timeout=120, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "tokens.pt"), model(input_ids=tokens).logits)


def test_shared_experts_go_with_the_feed_forward_channels_and_routed_ones_by_themselves() -> None:
    compressor = compressed(QWEN2_MOE.example(), expert_ffn_sparsity=0.5, ffn_sparsity=0.5, head_sparsity=0.5)  # type: ignore[misc]
    kinds = {row.kind: (row.units_before, row.units_after) for row in compressor.report.groups}
    assert kinds == {"heads": (4, 2), "mlp": (20, 10), "expert-channels": (16, 8)}
    assert compressor.report.standalone and compressor.model.config.moe_intermediate_size == 8


@pytest.mark.parametrize("spec", [GLM4_MOE, DEEPSEEK_V3], ids=["two shared experts", "groups of experts"])
def test_shared_experts_as_wide_as_routed_ones_go_with_them(tmp_path: Path, spec: ArchitectureSpec) -> None:
    model: Any = spec.example()  # type: ignore[misc]
    if spec is DEEPSEEK_V3:
        model.config.n_group, model.config.topk_group = 2, 1
        for module in model.modules():
            if hasattr(module, "num_group"):
                module.num_group, module.topk_group = 2, 1
    small: Any = GrailCompressor(model, {**FAST, "expert_ffn_sparsity": 0.5}).compress(rows(), tmp_path / "small")
    assert small.config.moe_intermediate_size == 8
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    tokens = rows(1)[0]["input_ids"][None]
    assert torch.allclose(again(input_ids=tokens).logits, small(input_ids=tokens).logits, atol=1e-6)
    shared = again.model.layers[-1].mlp.shared_experts
    assert shared.gate_proj.out_features == shared.down_proj.in_features == 8 * again.config.n_shared_experts
    report = json.loads((tmp_path / "small" / "grail_report.json").read_text())
    kinds = {row["kind"]: (row["units_before"], row["units_after"]) for row in report["groups"]}
    assert kinds["expert-channels"] == kinds["shared-channels"] == (16, 8) and report["standalone"]


def test_a_mixture_with_biases_and_transposed_matrices() -> None:
    compressor = compressed(GPT_OSS.example(), expert_ffn_sparsity=0.6)  # type: ignore[misc]
    assert compressor.model.config.intermediate_size == 8 and compressor.report.standalone


def test_widths_are_rounded_and_the_number_of_experts_is_as_asked() -> None:
    compressor = compressed(mixtral(), expert_ffn_sparsity=0.3, experts=3, round_to=8)
    kinds = {row.kind: row.units_after for row in compressor.report.groups}
    assert kinds["expert-channels"] == 8 and kinds["experts"] == 3


def test_a_forecast_counts_them() -> None:
    told = GrailCompressor(mixtral(), {**FAST, "expert_ffn_sparsity": 0.5}).forecast(rows())
    (kind,) = [kind for kind in told.kinds if kind.kind == "expert-channels"]
    assert (kind.width, kind.least, kind.kept) == ((16, 16), (8, 8), (8, 8))
    assert told.block_parameters_after == told.block_parameters - 3 * 4 * 8 * 3 * 32 and told.outlook is not None


def test_experts_with_few_tokens_are_named() -> None:
    compressor = GrailCompressor(mixtral(), {**FAST, "expert_ffn_sparsity": 0.5, "num_samples": 2})
    compressor.compress(rows(2))
    (note,) = [note for note in compressor.report.warnings if "Few calibration tokens" in note]
    assert "model.layers.0.expert_channels (" in note and "--num-samples" in note


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
    config = {**FAST, "experts": 3, "expert_ffn_sparsity": 0.5}
    GrailCompressor(mixtral(), config).compress(rows(), tmp_path / "once", resume=True)
    stops = 0
    for after in range(3, 12, 3):
        with suppress(Stopped):
            GrailCompressor(mixtral(), config).compress(rows(), tmp_path / "again", resume=True, progress=Stop(after))
            break
        stops += 1
    assert 0 < stops < 3
    for name in ("model.safetensors", "grail_plan.tensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_weights_on_disk_give_the_same(tmp_path: Path) -> None:
    mixtral().save_pretrained(tmp_path / "dense")  # type: ignore[operator]
    outputs = []
    for low in (False, True):
        asked = {**FAST, "experts": 3, "expert_ffn_sparsity": 0.5, "low_memory": low}
        GrailCompressor.from_pretrained(tmp_path / "dense", asked).compress(rows(), tmp_path / f"small{low}")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / f"small{low}").eval()
        outputs.append(again(input_ids=rows(1)[0]["input_ids"][None]).logits)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("build", "config", "error", "message"),
    [
        (mixtral, {"sparsity": 0.5}, ConfigError, "contradict each other"),
        (mixtral, {"selector": "wandapp"}, ConfigError, "Wandapp judges channels by gradients"),
        (mixtral, {"expert_ffn_sparsity": 0.99}, BudgetError, "leaves none of 16"),
        (tiny_llama, {}, BudgetError, "no groups of kind 'expert-channels'"),
    ],
    ids=["and sparsity", "gradients", "all", "no experts"],
)
def test_what_cannot_be_is_refused(
    build: Callable[[], nn.Module], config: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compressed(build(), **{"expert_ffn_sparsity": 0.5, **config})


def test_adapters_carry_over_where_they_are_on_linear_layers(tmp_path: Path) -> None:
    """On attention; experts, routed ones and shared ones, are another shape beside it."""
    torch.manual_seed(0)
    dense: Any = GLM4_MOE.example()  # type: ignore[misc]
    dense.save_pretrained(tmp_path / "dense")
    names = ["q_proj", "v_proj", "o_proj"]
    adapted = get_peft_model(dense, LoraConfig(r=2, target_modules=names))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    asked = {**FAST, "experts": 3, "expert_ffn_sparsity": 0.5}
    GrailCompressor.from_pretrained(tmp_path / "dense", asked).compress(rows(), tmp_path / "small")
    carrying: dict[str, Any] = {"base_model": str(tmp_path / "dense"), "dataset": rows()}
    convert_adapter(tmp_path / "adapter", tmp_path / "carried", tmp_path / "small", **carrying)
    small: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    tokens, whole = torch.stack([row["input_ids"] for row in rows(4)]), adapted.eval()
    with torch.no_grad():
        wanted = whole(input_ids=tokens).logits
        alone = small(input_ids=tokens).logits
        carried = PeftModel.from_pretrained(small, str(tmp_path / "carried")).eval()(input_ids=tokens).logits
    assert float((carried - wanted).norm()) < 0.9 * float((alone - wanted).norm())


def test_several_processes_are_refused() -> None:
    config = GrailConfig(expert_ffn_sparsity=0.25)
    assert config.resolved().expert_selector is None and config.to_dict()["expert_ffn_sparsity"] == 0.25
    with pytest.raises(ConfigError, match="--expert-ffn-sparsity out"):
        check_shareable(Methods.of(config), Ranks(0, 2, None))  # type: ignore[arg-type]
