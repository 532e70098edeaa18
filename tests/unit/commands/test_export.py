"""``optimum-cli grail export``: what it prints, and what it refuses before it writes anything."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from optimum_grail.export.run import build_target, export_model
from optimum_grail.export.targets import TARGETS

gguf = pytest.importorskip("gguf")


@pytest.fixture
def model(embedded_llama: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(embedded_llama, tmp_path / "model"))


def settings(folder: Path, name: str, **changes: Any) -> None:
    """Change a JSON file; ``None`` takes a value out."""
    path = folder / name
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def refused(cli, capsys, model, tmp_path):
    """Run on bad input; returns the message. Nothing may have been written."""

    def run(*words: str, output: str = "out.gguf") -> str:
        before = sorted(tmp_path.rglob("*"))
        assert cli("grail", "export", "-m", str(model), "-o", str(tmp_path / output), "--to", "gguf", *words) == 2
        shown = capsys.readouterr()
        assert sorted(tmp_path.rglob("*")) == before
        assert shown.out == ""
        return shown.err.strip().splitlines()[-1]

    return run


def test_a_file_and_what_its_tensors_became(cli, capsys, model, tmp_path):
    out = tmp_path / "small.gguf"
    assert cli("grail", "export", "-m", str(model), "-o", str(out), "--to", "gguf", "--type", "q8_0") == 0
    shown = capsys.readouterr().out
    assert re.search(r"ffn_down\.weight +q8_0 +6 ", shown) and re.search(r"attn_norm\.weight +f32 +6 ", shown)
    assert f"Written to {out}: llama.cpp, architecture llama, " in shown
    assert gguf.GGUFReader(out).fields["general.file_type"].contents() == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "small.gguf"]


def test_json(cli, capsys, model, tmp_path):
    out = tmp_path / "small.gguf"
    assert cli("grail", "export", "-m", str(model), "-o", str(out), "--to", "gguf:type=f32", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["engine"], found["form"]) == (str(out), "llama.cpp", "llama")
    assert found["bytes"] == sum(row["bytes"] for row in found["tensors"]) < out.stat().st_size


def test_rows_that_do_not_divide_are_counted(cli, capsys, data_dir, tmp_path):
    out = tmp_path / "small.gguf"
    words = ("grail", "export", "-m", str(data_dir / "stories260K-llama"), "-o", str(out), "--to", "gguf", "--type")
    assert cli(*words, "q4_0") == 0
    assert "5 of 36 matrices (110,080 bytes) stay f16" in (shown := capsys.readouterr().out)
    assert "--round-to 32" in shown
    assert cli(*words, "f16", "--overwrite") == 0
    assert "--round-to" not in capsys.readouterr().out


def test_the_target_exists(refused, tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    assert "pass --overwrite" in refused()
    assert (tmp_path / "out.gguf").read_text() == "mine"


@pytest.mark.parametrize(("output", "message"), [("out", "expected NAME.gguf"), ("model", "expected NAME.gguf")])
def test_no_name_for_a_file(refused, output, message):
    assert message in refused(output=output)


def test_options(refused):
    assert "type of the export target 'gguf' is 'q9'; expected f32 or f16" in refused("--type", "q9")
    assert "no option 'size'" in refused("--to", "gguf:size=3")
    assert "Did you mean 'gguf'?" in refused("--to", "ggu")


def test_weights_are_missing(refused, model):
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "'model.layers.3.mlp.up_proj.weight'; they would be random" in refused()


def test_shapes_do_not_fit(refused, model):
    settings(model, "config.json", intermediate_size=500)
    assert "do not fit config.json" in refused()


def test_weights_are_not_finite(refused, model):
    weights = load_file(model / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "'blk.3.ffn_up.weight' has a weight of nan" in refused()


def test_no_tokenizer(refused, model):
    (model / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refused()


def test_a_tokenizer_that_is_not_known(refused, model, cli, tmp_path):
    path = model / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, values["pre_tokenizer"]]}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert "pass --pre-tokenizer NAME" in refused()
    words = ("-o", str(tmp_path / "out.gguf"), "--to", "gguf", "--pre-tokenizer", "gpt-2")
    assert cli("grail", "export", "-m", str(model), *words) == 0


def test_other_families_are_refused_with_what_has_a_home(refused, model):
    settings(model, "config.json", architectures=["Gemma3ForCausalLM"], model_type="gemma3_text")
    message = refused()
    assert (
        "is Gemma3ForCausalLM ('gemma3_text')" in message
        and "--allocation uniform" in message
        and "llama, mistral, qwen2" in message
    )


def test_a_model_of_another_kind(refused, model):
    sizes = {
        "vocab_size": 16,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(model)
    assert "is BertForMaskedLM ('bert')" in refused()


@pytest.mark.parametrize("architectures", ["LlamaForCausalLM", [["LlamaForCausalLM"]], [], ["LlamaForNothing"]])
def test_a_class_that_is_none(refused, model, architectures):
    settings(model, "config.json", architectures=architectures)
    assert "Error: " in refused()


def test_quantized_weights(refused, model):
    settings(model, "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "quantized already" in refused()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}, "every length of text"),
    ],
)
def test_what_other_engines_do_not_compute(refused, model, changes, message):
    settings(model, "config.json", **changes)
    assert message in refused()


def test_no_such_model(cli, capsys, tmp_path):
    assert cli("grail", "export", "-m", str(tmp_path / "none"), "-o", str(tmp_path / "a.gguf"), "--to", "gguf") == 2
    assert "does not exist" in capsys.readouterr().err


def test_from_python(model, tmp_path):
    done = export_model(model, tmp_path / "a.gguf", {"name": "gguf", "type": "bf16"})
    assert {row.type for row in done.rows} == {"bf16", "f32"}
    again = export_model(model, tmp_path / "a.gguf", build_target("gguf"), overwrite=True)
    assert again.path == done.path and {row.type for row in again.rows} == {"f16", "f32"}
    assert "gguf" in TARGETS.names()


QUICK = ("--preset", "magnitude", "--ffn-sparsity", "0.4")


def test_compressing_for_an_engine(cli, capsys, model, tmp_path):
    """Widths that can be quantized, and the file beside the folder."""
    words = ("grail", "compress", "-m", str(model), "-o", str(tmp_path / "to" / "small"), *QUICK)
    assert cli(*words, "--for", "llama.cpp:type=q8_0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"]["config"]["round_to"] == 32
    assert found["export"]["output"] == str(tmp_path / "to" / "small.gguf")
    fields = gguf.GGUFReader(tmp_path / "to" / "small.gguf").fields
    assert fields["llama.feed_forward_length"].contents() % 32 == 0
    assert not any("--round-to" in note for note in found["export"]["notes"])
    assert cli(*words, "--for", "llama.cpp", "--overwrite", "--round-to", "7") == 0
    assert gguf.GGUFReader(tmp_path / "to" / "small.gguf").fields["llama.feed_forward_length"].contents() % 7 == 0


def test_what_an_engine_cannot_take_is_refused_before_the_work(cli, capsys, model, tmp_path):
    words = ("grail", "compress", "-m", str(model), "-o", str(tmp_path / "small"), *QUICK, "--for")
    (tmp_path / "small.gguf").write_text("mine")
    assert cli(*words, "gguf") == 2
    assert "small.gguf' exists" in capsys.readouterr().err
    (tmp_path / "small.gguf").unlink()
    (model / "tokenizer.json").unlink()
    assert cli(*words, "gguf") == 2
    assert "no tokenizer.json" in capsys.readouterr().err
    assert cli(*words, "llama-cpp") == 2
    assert "Unknown export target 'llama-cpp'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_wishes(model):
    assert build_target("gguf").wishes(model) == {"round_to": 32}
    settings(model, "config.json", architectures=["Qwen3ForCausalLM"], model_type="qwen3", tie_word_embeddings=False)
    assert build_target("gguf").wishes(model) == {"round_to": 32, "allocation": "uniform"}
