"""``optimum-cli grail benchmark``, on tiny random models."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.evaluation.speed import speed_test
from optimum_grail.report import speed_view
from optimum_grail.streams.memory import resident_memory

WORK = ("--prompt-tokens", "16", "--new-tokens", "4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A language model, and one of images."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_llama().save_pretrained(root / "llama")
    tiny_vit().save_pretrained(root / "vit")
    return {"llama": str(root / "llama"), "vit": str(root / "vit"), "root": str(root)}


@pytest.fixture
def nothing_runs(monkeypatch):
    """No process is started: what is wrong is told before."""

    def start(*args):
        raise AssertionError("a process was started")

    monkeypatch.setattr(speed_test, "Worker", start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-m {llama}", "compares nothing"),
        ("-m {llama} -m {vit}", "their speeds cannot be compared"),
        ("-m {llama} -m ./nowhere", "'./nowhere' does not exist"),
        ("-m {llama} -m {root}", "holds no config.json"),
        ("-m {llama} -m {llama}", "has a context of 128"),
        ("-m {llama} -m {llama} --prompt-tokens 9 --new-tokens 1", "--new-tokens is 1; expected at least 2"),
        ("-m {vit} -m {vit} --new-tokens 9", "models of images generate nothing"),
        ("-m {vit} -m {vit} --repeats 1", "expected at least 2"),
        ("-m {vit} -m {vit} --json {root}", "is a folder"),
        ("-m {vit} -m {vit} --json {vit}/config.json", "exists. Choose another name"),
        ("-m {vit} -m {vit} --json {vit}/config.json --overwrite", "nothing in it says that optimum-grail wrote it"),
        ("-m {vit} -m {vit} --plot {vit}/config.json --overwrite", "nothing in it says that optimum-grail wrote it"),
        ("-m {vit} -m {vit} --json {root}/x --plot {root}/x", "Name two files"),
        ("-m {vit} -m {vit} --dtype float32 --device nodevice", "cannot be used"),
    ],
)
def test_bad_input_is_told_before_the_work(cli, capsys, folders, nothing_runs, monkeypatch, words, message):
    monkeypatch.setattr(speed_view, "can_plot", lambda: True)
    assert cli("grail", "benchmark", *words.format(**folders).split()) == 2
    assert message in capsys.readouterr().err


def test_sizes_are_checked(parse_words, capsys):
    for flag in ("--batch-size", "--prompt-tokens", "--new-tokens", "--repeats"):
        with pytest.raises(SystemExit) as end:
            parse_words("grail", "benchmark", "-m", "x", "-m", "y", flag, "0")
        assert end.value.code == 2
        assert f"{flag} is 0; expected a whole number >= 1" in capsys.readouterr().err


def test_no_plot_without_matplotlib(cli, capsys, folders, nothing_runs, monkeypatch):
    monkeypatch.setattr(speed_view, "can_plot", lambda: False)
    assert cli("grail", "benchmark", "-m", folders["vit"], "-m", folders["vit"], "--plot", "x.png") == 2
    assert "Figures need matplotlib: pip install" in capsys.readouterr().err


def test_two_real_processes(cli, capsys, folders, tmp_path):
    """Of two models one is wider by 28 MiB, and so is its process."""
    config = LlamaConfig(**tiny_llama().config.to_dict() | {"vocab_size": 2**20 // 8, "tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):
        LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    small = folders["llama"]
    file, words = tmp_path / "deep" / "speed.json", ("--batch-size", "2", "--repeats", "2", *WORK)
    assert cli("grail", "benchmark", "-m", str(tmp_path / "wide"), "-m", small, *words, "--json", str(file)) == 0
    shown = capsys.readouterr()
    assert "wide" in shown.out and "decode, batch of 2" in shown.out and f"Written to {file}" in shown.out
    assert "batches of 2: 8 of 8 in" in shown.err and "torchao" not in shown.err
    found = json.loads(file.read_text())
    assert found["written_by"] == speed_view.WRITTEN_BY
    assert found["settings"]["batch_sizes"] == [2] and found["settings"]["dtype"] == "auto"
    wide, narrow = found["models"]
    parts = {(item["part"], item["model"]): item for item in found["rows"]}
    assert set(parts) == {(part, name) for part in ("load", "prefill", "decode") for name in ("wide", "llama")}
    assert parts["prefill", "llama"]["ideal"] > 2, "the head is wider too"
    if resident_memory() is not None:
        more = parts["decode", "wide"]["peak_memory"] - parts["decode", "llama"]["peak_memory"]
        weights = wide["bytes"] - narrow["bytes"]
        assert 0.8 * weights < more < 2.5 * weights
    assert cli("grail", "benchmark", "-m", small, "-m", small, "--json", str(file)) == 2, "nothing is overwritten"
