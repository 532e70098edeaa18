"""Quantization after compression: quantized, saved, loaded again, measured; each library where it is installed."""

from __future__ import annotations

import inspect
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

from optimum_grail.compressor import GrailCompressor
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_
from optimum_grail.report.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def torchao_int8() -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def bitsandbytes_int8() -> Any:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_nf4() -> Any:
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


LIBRARIES: dict[Callable[[], Any], float] = {torchao_int8: 0.02, bitsandbytes_int8: 0.03, bitsandbytes_nf4: 0.1}
"""What transformers quantizes with while it loads, and the relative change of the logits that it may cost."""


@torch.no_grad()
def logits(model: Any, windows: Tensor) -> Tensor:
    return model.eval()(input_ids=windows[:4]).logits.float()


def change(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def tensor_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def block_bytes(model: Any) -> int:
    """Bytes of the saved blocks."""
    buffer = io.BytesIO()
    torch.save(model.model.layers.state_dict(), buffer)
    return buffer.tell()


def dynamic(model: nn.Module) -> Any:
    """PyTorch's dynamic quantization of all linear layers to int8."""
    if set(torch.backends.quantized.supported_engines) <= {"none"}:
        pytest.skip("This build of torch has no engine for quantized layers.")
    return torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear}, dtype=torch.qint8)


CASES = [(torchao_int8, "default"), (torchao_int8, "free"), (bitsandbytes_int8, "default"), (bitsandbytes_int8, "free")]


@pytest.fixture(scope="module", params=["default", "free"])
def folder(request: pytest.FixtureRequest, llama_run: Callable[[str], Any]) -> Path:
    """A checkpoint that plain transformers loads; one with widths of its own in each layer."""
    path: Path = llama_run(request.param).folder
    return path


@pytest.mark.parametrize(("library", "recipe"), [*CASES, (bitsandbytes_nf4, "rounded")])
def test_quantized_while_loading_saved_and_loaded(
    library: Callable[[], Any],
    recipe: str,
    llama_run: Callable[[str], Any],
    held_windows: Tensor,
    text: Path,
    tmp_path: Path,
) -> None:
    folder = llama_run(recipe).folder
    wanted = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), held_windows)
    config = library()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    model.save_pretrained(tmp_path)  # before a pass: bitsandbytes packs four bits anew for some processors then
    got = logits(model, held_windows)
    assert 0 < change(got, wanted) < LIBRARIES[library]
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["quantization_config"]["quant_method"] in ("torchao", "bitsandbytes")
    assert saved["grail_config"]["widths"]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path), held_windows), got)
    assert tensor_bytes(tmp_path) < 0.6 * 2 * tensor_bytes(folder), "twice: the folder is in 16 bits, this model in 32"
    measured = {"seqlen": 128, "num_samples": 4}
    after = evaluate_path(tmp_path, str(text), "perplexity", **measured)["perplexity"]
    before = evaluate_path(folder, str(text), "perplexity", **measured)["perplexity"]
    assert after == pytest.approx(before, rel=0.1)


def test_rounded_widths_are_what_the_kernel_of_four_bits_takes(llama_run: Callable[[str], Any]) -> None:
    """bitsandbytes packs four bits for processors with bfloat16 instructions, and refuses other widths there."""
    packing = pytest.importorskip("bitsandbytes.functional")
    block = inspect.signature(packing._convert_weight_packed_for_cpu).parameters["block_n"].default
    for recipe, fits in (("rounded", True), ("default", False)):
        blocks = llama_run(recipe).compressor.model.model.layers
        linears = [module for module in blocks.modules() if isinstance(module, nn.Linear)]
        taken = [linear.out_features % block == 0 and linear.in_features % 2 == 0 for linear in linears]
        assert all(taken) is fits


def skipping(library: Callable[[], Any], names: list[str]) -> Any:
    """The configuration with ``names`` left out, as the guide says."""
    config = library()
    if isinstance(config, TorchAoConfig):
        config.modules_to_not_convert = names
    else:
        config.llm_int8_skip_modules = [*names, "lm_head"]
    return config


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_without_some_sub_blocks(library: Callable[[], Any], embedded_llama: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    layout = resolve(model)
    for index in (2, 5):
        narrow_(model, layout.groups[index], 0)
    write_config_(model, layout, {})
    model.save_pretrained(tmp_path / "small")
    windows = torch.arange(3, 35)[None]
    empty = [name for name, item in model.named_modules() if isinstance(item, nn.Linear) and not item.weight.numel()]
    assert len(empty) == 7
    options: dict[str, Any] = {"dtype": torch.float32, "quantization_config": skipping(library, empty)}
    quantized = AutoModelForCausalLM.from_pretrained(tmp_path / "small", **options)
    assert 0 < change(logits(quantized, windows), logits(model, windows)) < LIBRARIES[library]
    quantized.save_pretrained(tmp_path / "twin")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "twin")
    assert torch.equal(logits(again, windows), logits(quantized, windows))


def test_the_quantized_twin_goes_into_report_and_card(
    cli: Callable[..., int], llama_run: Callable[[str], Any], text: Path, tmp_path: Path
) -> None:
    parent, twin = tmp_path / "small", tmp_path / "small-int8"
    shutil.copytree(llama_run("default").folder, parent)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32, quantization_config=torchao_int8())
    model.save_pretrained(twin)
    AutoTokenizer.from_pretrained(parent).save_pretrained(twin)
    words = ("--dataset", text, "--metric", "perplexity", "--seqlen", "128", "--num-samples", "4", "--add-to", parent)
    for label in ((), ("--label", "int8 | torchao"), ("--label", "int8 | torchao")):
        assert cli("grail", "evaluate", "-m", twin, *words, *label) == 0
    plain, named = Report.load(parent).derived
    assert (plain["name"], named["name"]) == ("small-int8", "int8 | torchao")
    assert (
        plain["value"]
        == named["value"]
        == evaluate_path(twin, str(text), "perplexity", seqlen=128, num_samples=4)["perplexity"]
    )
    assert named["bytes"] == tensor_bytes(twin) and named["seconds"]["derived"] > 0 < named["seconds"]["compressed"]
    card = (parent / "README.md").read_text(encoding="utf-8")
    assert "## Made from it" in card and "| int8 \\| torchao | perplexity on rows.txt: " in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--add-to", "nowhere"), "report"),
        (("--label", "int8"), "--add-to"),
        (("--tasks", "arc_easy", "--add-to", "nowhere"), "--tasks"),
    ],
)
def test_what_cannot_be_noted_is_refused_before_anything_is_measured(
    words: tuple[str, ...], message: str, cli: Callable[..., int], text: Path, capsys: Any
) -> None:
    data = () if "--tasks" in words else ("--dataset", text, "--metric", "perplexity")
    assert cli("grail", "evaluate", "-m", "neither", *data, *words) == 2
    assert message in capsys.readouterr().err


def test_quanto(folder: Path, held_windows: Tensor, tmp_path: Path, quanto: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = logits(model, held_windows)
    quantized = quanto.QuantizedModelForCausalLM.quantize(model, weights=quanto.qint8)
    got = logits(quantized._wrapped, held_windows)
    assert 0 < change(got, wanted) < 0.02
    quantized.save_pretrained(tmp_path)
    again = quanto.QuantizedModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again._wrapped, held_windows), got)


def test_dynamic_quantization(folder: Path, held_windows: Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = logits(model, held_windows)
    quantized = dynamic(model)
    got = logits(quantized, held_windows)
    assert 0 < change(got, wanted) < 0.1
    torch.save(quantized.state_dict(), tmp_path / "int8.pt")
    again = dynamic(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(torch.load(tmp_path / "int8.pt", weights_only=False))
    assert torch.equal(logits(again, held_windows), got)


def test_blocks_shrink_by_three_quarters_and_by_nineteen_twentieths(embedded_llama: Path) -> None:
    """Int8 is a quarter of float32; of a model pruned by 80 %, a twentieth."""
    dense = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    small = GrailCompressor.from_pretrained(
        embedded_llama, {"preset": "magnitude", "sparsity": 0.8}, dtype="float32"
    ).compress()
    whole = block_bytes(dense)
    assert block_bytes(dynamic(dense)) / whole == pytest.approx(0.25, abs=0.02)
    assert block_bytes(dynamic(small)) / whole == pytest.approx(0.05, abs=0.02)


def test_group_wise_quantization_through_round_to(compress_llama: Callable[..., GrailCompressor]) -> None:
    """GPTQ and its kin scale groups of input features: widths must be multiples of the group's size."""
    quantization = pytest.importorskip("torchao.quantization")
    granularity = pytest.importorskip("torchao.quantization.granularity")
    grouped = quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=granularity.PerGroup(32))
    settings = {"preset": "magnitude", "sparsity": 0.4}
    plain = compress_llama(**settings).model
    assert plain.config.intermediate_size % 32 != 0
    with pytest.raises(AssertionError, match="divisible"):
        quantization.quantize_(plain.float(), grouped)
    rounded = compress_llama(**settings, round_to=32).model.float()
    assert rounded.config.intermediate_size % 32 == 0
    wanted = logits(rounded, torch.arange(3, 35)[None])
    quantization.quantize_(rounded, grouped)
    assert 0 < change(logits(rounded, torch.arange(3, 35)[None]), wanted) < 0.3
