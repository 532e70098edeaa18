"""A pattern of zeros from the command line to plain transformers, and what it is refused for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import ArchitectureError, ConfigError
from optimum_grail.fit.patterning import check_patternable
from optimum_grail.models.resolve import resolve
from optimum_grail.report.report import Report

TOKENS = [{"input_ids": row} for row in torch.randint(3, 60, (12, 16), generator=torch.Generator().manual_seed(0))]


def example(family: str) -> Any:
    torch.manual_seed(0)
    make = ARCHITECTURES.get(family).example
    return None if make is None else make()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: item for name, item in model.named_modules() if type(item) is nn.Linear and "layer" in name}


def in_pattern(layer: nn.Linear) -> bool:
    width = layer.in_features - layer.in_features % 4
    return bool(((layer.weight[:, :width].unflatten(1, (-1, 4)) != 0).sum(-1) <= 2).all())


def test_alone_it_keeps_every_shape(cli: Callable[..., int], tmp_path: Path, text: Path) -> None:
    torch.manual_seed(0)
    dense = tiny_llama()
    dense.save_pretrained(tmp_path / "dense")
    rows = [row["input_ids"] for row in TOKENS]
    compressor = GrailCompressor.from_pretrained(str(tmp_path / "dense"), {"pattern": "2:4"})
    compressor.compress([{"input_ids": row} for row in rows], tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert [item.shape for item in model.parameters()] == [item.shape for item in dense.parameters()]
    assert len(linears(model)) == 7 * dense.config.num_hidden_layers
    assert all(in_pattern(layer) for layer in linears(model).values())
    assert torch.equal(model.lm_head.weight, dense.lm_head.weight)
    report = Report.load(tmp_path / "out")
    assert any("zeros in the pattern 2:4 (grail)" in warning for warning in report.warnings)
    assert "zeros in the pattern 2:4" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert report.parameters_after == report.parameters_before


def test_fitted_values_beat_masks_and_more_goes_before_it() -> None:
    """Distance of the logits on other rows than those of the calibration."""
    torch.manual_seed(0)
    dense = tiny_llama().eval()
    state = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    held = torch.randint(3, 60, (8, 16), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected = dense(held).logits
    distance = {}
    for selector in ("grail", "magnitude"):
        model = tiny_llama()
        model.load_state_dict(state)
        GrailCompressor(model, {"pattern": "2:4", "pattern_selector": selector}).compress(TOKENS)
        with torch.no_grad():
            distance[selector] = float((model.eval()(held).logits - expected).square().mean())
    assert distance["grail"] < 0.9 * distance["magnitude"]
    model = tiny_llama()
    compressor = GrailCompressor(model, {"ffn_sparsity": 0.5, "pattern": "2:4"})
    compressor.compress(TOKENS)
    assert compressor.report.parameters_after < compressor.report.parameters_before
    assert all(in_pattern(layer) for layer in linears(model).values())


def test_encoders_with_padding_and_the_command(
    cli: Callable[..., int], llama_run: Callable[[str], Any], text: Path, tmp_path: Path, capsys: Any
) -> None:
    torch.manual_seed(0)
    model = example("bert")
    mask = torch.ones(16, dtype=torch.long)
    mask[11:] = 0
    GrailCompressor(model, {"pattern": "1:2"}).compress([{**row, "attention_mask": mask} for row in TOKENS])
    widths = [layer.weight.unflatten(1, (-1, 2)) for layer in linears(model).values()]
    assert widths and all(((width != 0).sum(-1) <= 1).all() for width in widths)
    folder = llama_run("default").folder
    line = ("grail", "compress", "-m", folder, "-o", tmp_path / "out", "--pattern", "2:4", "--allow-recompress")
    data = ("--dataset", text, "--num-samples", "8", "--seqlen", "32", "--pattern-selector", "wanda")
    capsys.readouterr()
    assert cli(*line, *data, "--dry-run") == 0
    assert cli(*line, *data, "--json") == 0
    assert json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""]))
    assert GrailConfig.from_pretrained(tmp_path / "out").pattern == "2:4"


@pytest.mark.parametrize(
    ("family", "rows", "word"),
    [
        ("mixtral", TOKENS, "mixture of experts"),
        ("bart", TOKENS, "fed by another"),
        ("resnet", [{"pixel_values": torch.randn(3, 32, 32)} for _ in range(6)], "no linear layers"),
    ],
)
def test_models_that_it_is_not_for(family: str, rows: list[Any], word: str) -> None:
    model = example(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ArchitectureError, match=word):
        GrailCompressor(model, {"pattern": "2:4"}).compress(rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_runs_that_it_is_not_for() -> None:
    model = tiny_llama()
    layout = resolve(model)
    with pytest.raises(ArchitectureError, match="processes share the run"):
        check_patternable(model, layout, layout, None, shared=True)
    with pytest.raises(ArchitectureError, match="left on disk"):
        check_patternable(model.to("meta"), layout, layout, None, shared=False)
    with pytest.raises(ConfigError, match="needs calibration data"):
        GrailCompressor(tiny_llama(), {"pattern": "2:4", "preset": "magnitude"}).compress()
