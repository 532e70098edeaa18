"""Compressed, published, and loaded by its name from an empty cache: the same logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PUBLISH = """
import sys, torch
from optimum_grail import GrailCompressor

common = {"preset": "grail", "num_samples": 6, "seqlen": 32}
forms = {"standalone": {"ffn_sparsity": 0.5}, "table": {"head_sparsity": 0.3, "standalone": False}}
for form, settings in forms.items():
    compressor = GrailCompressor.from_pretrained(sys.argv[1], {**common, **settings})
    model = compressor.compress()
    print(compressor.push_to_hub(f"me/{form}", tags=["mine"], max_shard_size="2MB", private=True))
    with torch.inference_mode():
        torch.save(model(torch.arange(4, 30)[None]).logits, f"{sys.argv[2]}/{form}.pt")
"""
LOAD = """
import os, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

assert not os.listdir(os.environ["HF_HOME"]), "the cache was to be empty"
for form in ("standalone", "table"):
    if form == "table":
        assert "optimum_grail" not in sys.modules
        import optimum_grail
    model = AutoModelForCausalLM.from_pretrained(f"me/{form}")
    assert AutoTokenizer.from_pretrained(f"me/{form}")("a")["input_ids"]
    with torch.inference_mode():
        assert torch.equal(model(torch.arange(4, 30)[None]).logits, torch.load(f"{sys.argv[1]}/{form}.pt"))
    print(form, "is the same")
"""


def test_the_logits_come_back(hub: Any, elsewhere: Callable[..., Any], embedded_llama: Path, tmp_path: Path) -> None:
    done = elsewhere(PUBLISH, embedded_llama, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {"README.md", "grail_plan.json", "grail_report.json", "grail_errors.png", "tokenizer.json"}
    for form, address in zip(("standalone", "table"), done.stdout.split(), strict=True):
        assert address.startswith(f"{hub.url}/me/{form}/commit/")
        repository = hub.repositories[f"me/{form}"]
        assert repository.private and len(repository.commits) == 1
        tree = repository.branches["main"]
        assert expected <= set(tree) and len([name for name in tree if name.startswith("model-")]) > 1
        assert "mine" in yaml.safe_load(tree["README.md"].decode().split("---\n")[1])["tags"]
    assert not list(tmp_path.glob("grail-*")), "the temporary folder goes after a success"
    done = elsewhere(LOAD, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["standalone is the same", "table is the same"]


REFUSED = """
import sys
from optimum_grail import GrailCompressor
from optimum_grail.errors import HubError

compressor = GrailCompressor.from_pretrained(sys.argv[1], {"preset": "magnitude", "ffn_sparsity": 0.5})
compressor.compress()
try:
    compressor.push_to_hub("me/small")
except HubError as error:
    print(error)
"""


def test_after_a_refusal_the_checkpoint_is_where_the_message_says(
    hub: Any, elsewhere: Callable[..., Any], embedded_llama: Path, tmp_path: Path
) -> None:
    hub.fail("PUT /storage", "cut")
    done = elsewhere(REFUSED, embedded_llama)
    assert done.returncode == 0, done.stderr
    assert "broke off" in done.stdout and "Nothing was committed." in done.stdout
    command = done.stdout.partition("repeat with `optimum-cli ")[2].partition("`")[0].split()
    folder = Path(command[2])
    assert command[:2] == ["grail", "push"] and (folder / "model.safetensors").is_file()
    hub.faults.clear()
    again = (
        "import sys; from optimum.commands.optimum_cli import main; sys.argv = ['optimum-cli', *sys.argv[1:]]; main()"
    )
    done = elsewhere(again, *command)
    assert done.returncode == 0, done.stderr
    assert hub.repositories["me/small"].branches["main"]["model.safetensors"]
    assert folder.is_relative_to(tmp_path)


FROM_THE_HUB = """
import sys
from optimum.commands.optimum_cli import main

words = ["grail", "compress", "-m", "org/base", "-o", sys.argv[1], "--ffn-sparsity", "0.5", "--preset", "magnitude"]
sys.argv = ["optimum-cli", *words]
main()
"""
ON_LOAD = """
from optimum_grail import GrailModelForCausalLM

settings = {"preset": "grail", "ffn_sparsity": 0.5, "num_samples": 5, "seqlen": 16}
model = GrailModelForCausalLM.from_pretrained("org/base", grail_config=settings, revision="main")
assert model.config.intermediate_size == 256
"""


@pytest.fixture
def base(hub: Any, embedded_llama: Path, tmp_path: Path) -> str:
    """A dense model on the Hub, with a card; its commit."""
    shutil.copytree(embedded_llama, tmp_path / "base")
    front = "---\nlicense: other\nlicense_name: some-licence\nlicense_link: LICENSE\nlanguage: en\n---\n# Base\n"
    (tmp_path / "base" / "README.md").write_text(front, encoding="utf-8")
    return str(hub.add("org/base", tmp_path / "base"))


def test_the_card_of_a_model_of_the_hub(base: str, hub: Any, elsewhere: Callable[..., Any], tmp_path: Path) -> None:
    done = elsewhere(FROM_THE_HUB, tmp_path / "small")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "org/base" and front["base_model_revision"] == base
    assert front["base_model_relation"] == "finetune"
    assert (front["license"], front["license_name"], front["language"]) == ("other", "some-licence", "en")
    assert f"https://huggingface.co/org/base/tree/{base}" in text
    assert "optimum-cli grail compress -m org/base -o compressed --config grail_config.json" in text
    report = json.loads((tmp_path / "small" / "grail_report.json").read_text(encoding="utf-8"))
    assert (report["base_model"], report["revision"]) == ("org/base", base)


def test_compressed_while_it_is_loaded_from_the_hub(base: str, elsewhere: Callable[..., Any]) -> None:
    done = elsewhere(ON_LOAD)
    assert done.returncode == 0, done.stderr
