"""Compressed models leave for other engines: ONNX Runtime through transformers' exporter, and CTranslate2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.resnet import tiny_bottleneck
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_

install()
TOLERANCE = 1e-4
IDS = torch.arange(3, 35).view(2, 16)  # two rows: one would be exported as a constant
PIXELS = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
pytestmark = pytest.mark.slow


def non_uniform(build: Callable[[], nn.Module]) -> Any:
    """A model whose groups all have other widths."""
    model = build()
    layout = resolve(model)
    for index, group in enumerate(layout.groups):
        narrow_(model, group, max(1, group.units - 1 - index % 3))
    write_config_(model, layout, {"version": "0"})
    return model.eval()


def through_onnx(model: Any, inputs: dict[str, Any], folder: Path, *, dynamic: bool = True) -> Callable[..., list[Any]]:
    """Export, save, and open the file with ONNX Runtime; returns the session as a function."""
    exporter = pytest.importorskip("transformers.exporters.exporter_onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = exporter.OnnxExporter().export(model, inputs, config=exporter.OnnxConfig(dynamic=dynamic))
    exported.save_pretrained(folder)
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def run(**given: torch.Tensor) -> list[Any]:
        outputs: list[Any] = session.run(None, {key: v.numpy() for key, v in given.items() if key in wanted})
        return outputs

    return run


@pytest.mark.parametrize("recipe", ["default", "free"])
def test_a_compressed_checkpoint_in_onnx_runtime(
    recipe: str, llama_run: Callable[[str], Any], held_windows: torch.Tensor, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_run(recipe).folder, dtype=torch.float32).eval()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    run = through_onnx(model, {**inputs, "use_cache": False}, tmp_path)
    for ids in (held_windows[:3, :50], held_windows[3:4]):
        mask = torch.ones_like(ids)
        mask[0, 20:] = 0
        with torch.no_grad():
            wanted = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        got = torch.from_numpy(run(input_ids=ids, attention_mask=mask)[0])[mask.bool()]
        assert (got - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (tiny_bert, {"input_ids": IDS}),
        (tiny_vit, {"pixel_values": PIXELS[:, :, :16, :16]}),
        (tiny_bottleneck, {"pixel_values": PIXELS}),
    ],
)
def test_widths_of_their_own_in_onnx_runtime(
    build: Callable[[], nn.Module], inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = non_uniform(build)
    run = through_onnx(model, dict(inputs), tmp_path, dynamic=False)
    with torch.no_grad():
        wanted = model(**inputs)[0]
    assert (torch.from_numpy(run(**inputs)[0]) - wanted).abs().max() < TOLERANCE


def test_the_strictest_engine_loads_what_keeps_its_heads(embedded_llama: Path, tmp_path: Path) -> None:
    """CTranslate2 takes the size of a head to be hidden size / heads: with whole heads it agrees to the last digits."""
    engine = pytest.importorskip("ctranslate2")
    converters = pytest.importorskip("ctranslate2.converters")
    compressor = GrailCompressor.from_pretrained(embedded_llama, {"preset": "magnitude", "ffn_sparsity": 0.5})
    compressor.compress(save_directory=tmp_path / "small")
    assert compressor.report.standalone
    converters.TransformersConverter(str(tmp_path / "small")).convert(str(tmp_path / "engine"))
    tokens = AutoTokenizer.from_pretrained(embedded_llama).convert_ids_to_tokens(IDS[0].tolist())
    generator = engine.Generator(str(tmp_path / "engine"), device="cpu", compute_type="float32")
    got = torch.tensor(np.array(generator.forward_batch([tokens])))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (got - model(input_ids=IDS[:1]).logits).abs().max() < TOLERANCE
