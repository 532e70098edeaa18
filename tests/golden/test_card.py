"""A whole card, word for word. ``OPTIMUM_GRAIL_WRITE_GOLDEN=1 pytest tests/golden`` writes it anew after a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from optimum_grail.hub import card as card_module
from optimum_grail.hub.card import build_card
from optimum_grail.report.report import Calibration, GroupRow, Report

GOLDEN = Path(__file__).parent / "card.md"
PRESENT = ("README.md", "grail_errors.png", "modeling_grail.py", "tokenizer.json")


@pytest.fixture
def report() -> Report:
    """A run in which everything was measured."""
    return Report(
        model="/home/someone/models/Llama-1B",
        model_type="llama",
        model_class="LlamaForCausalLM",
        base_model="some-org/Llama-1B",
        revision="4f2ac0de",
        asked={"sparsity": 0.5},
        parameters_before=1_235_814_400,
        parameters_after=749_275_136,
        block_parameters_before=973_078_528,
        block_parameters_after=486_539_264,
        bytes_before=2_471_628_800,
        bytes_after=1_498_550_272,
        groups=(
            GroupRow("model.layers.0.heads", "heads", 8, 8, 0.0, 0.0, chosen="fit"),
            GroupRow("model.layers.0.mlp", "mlp", 8192, 3000, 0.21, 0.043, ridge=0.01, tau=1.0, chosen="fit"),
        ),
        calibration=Calibration("Salesforce/wikitext", "0f" * 32, 128, 262_144, 2048, ("streams in bfloat16",)),
        config={
            "quant_method": "grail",
            "sparsity": 0.5,
            "selector": "obs",
            "compensator": "grail-plus",
            "dataset": "Salesforce/wikitext",
            "seqlen": None,
        },
        standalone=False,
        forward={
            "inputs": {"input_ids": {"shape": [1, 2048], "dtype": "torch.int64"}},
            "outputs": {"logits": [1, 2048, 128256]},
            "dtype": "bfloat16",
            "device": "cuda",
            "latency": [
                {"batch": 1, "dense": 0.0521, "compressed": 0.0334},
                {"batch": 8, "dense": 1.9, "compressed": 0.81},
            ],
            "memory": [{"batch": 1, "dense": 2_684_354_560, "compressed": 1_073_741_824}],
        },
        datasets=("Salesforce/wikitext",),
        evaluation=(
            {
                "metric": "perplexity",
                "dataset": "Salesforce/wikitext",
                "dense": 9.71,
                "plain": 51.4,
                "compressed": 14.02,
                "protocol": "windows of 2048 tokens, no overlap",
            },
        ),
        derived=(
            {
                "name": "int8 (torchao)",
                "metric": "perplexity",
                "dataset": "Salesforce/wikitext",
                "value": 14.05,
                "protocol": "windows of 2048 tokens, no overlap",
                "bytes": 812_345_678,
                "seconds": {"compressed": 0.04, "derived": 0.03},
            },
        ),
        seconds={"fit": 301.5, "evaluation": 20.0},
        peak_memory=9 * 2**30,
        versions={"python": "3.12.1", "torch": "2.13.0", "optimum-grail": "0.1.0"},
        hardware={"processor": "A Processor", "cores": 16, "device": "cuda:0", "memory": 128 * 2**30},
        warnings=("Calibration and evaluation data share rows.",),
        command="optimum-cli grail compress -m some-org/Llama-1B -o /home/someone/out --dataset Salesforce/wikitext",
    )


def test_the_card_is_this(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_module, "citations", lambda config: ("@article{one,\n}", "@article{two,\n}"))
    inherited = {"license": "other", "license_name": "llama3.2", "license_link": "LICENSE.txt", "language": ["en"]}
    text = str(build_card(report, inherited=inherited, present=PRESENT, tags=("mine",))).rstrip() + "\n"
    if os.environ.get("OPTIMUM_GRAIL_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_golden_card_is_one_the_hub_reads() -> None:
    card = ModelCard(GOLDEN.read_text(encoding="utf-8"))
    front = yaml.safe_load(GOLDEN.read_text(encoding="utf-8").split("---\n")[1])
    assert ModelCardData(**front).to_dict() == card.data.to_dict() == front
    assert front["base_model"] == "some-org/Llama-1B" and front["base_model_relation"] == "finetune"
    assert "/home" not in card.content
    code = card.content.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
