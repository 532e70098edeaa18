"""``optimum-cli grail compress --for``: what is asked of the compression, and what is written beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.commands._exporting import Beside
from optimum_grail.export.run import build_target

QUICK = ("--sparsity", "0.3", "--allocation", "knapsack", "--num-samples", "8", "--seqlen", "32")


@pytest.mark.parametrize(
    ("engine", "module", "folder", "wishes"),
    [
        ("onnx", "onnxruntime", "small-onnx", {}),
        ("openvino", "openvino", "small-openvino", {}),
        ("transformers", "transformers", "small-transformers", {"standalone": True}),
        ("vLLM", "transformers", "small-vLLM", {}),
    ],
)
def test_where_it_goes_and_what_it_wishes(
    engine: str, module: str, folder: str, wishes: dict[str, Any], embedded_llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip(module)
    beside = Beside(build_target(engine), str(embedded_llama), tmp_path / "small", False)
    assert beside.output == tmp_path / folder and beside.wishes == wishes


def test_for_plain_transformers(cli, capsys, embedded_llama, tmp_path):
    """What the configuration can say; an allocation that gives every layer its own width is refused."""
    words = ("grail", "compress", "-m", str(embedded_llama), "-o", str(tmp_path / "small"), *QUICK)
    assert cli(*words, "--for", "transformers") == 2
    assert "The stock config cannot say free widths per layer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert cli(*words, "--allocation", "uniform", "--for", "transformers", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["standalone"] and told["export"]["form"] == "stock config"
    assert told["export"]["agreement"] == {"worst": 0.0, "same": 32, "answers": 32}
    config = json.loads((tmp_path / "small-transformers" / "config.json").read_text(encoding="utf-8"))
    assert "layers" not in config["grail_config"]


def test_what_an_engine_cannot_take_is_refused_at_once(cli, capsys, embedded_llama, tmp_path):
    words = ("grail", "compress", "-m", str(embedded_llama), "-o", str(tmp_path / "small"), *QUICK)
    assert cli(*words, "--for", "transformers", "--no-standalone") == 2
    assert re.search(r"standalone=False.*Drop --no-standalone", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_installed(cli, capsys, embedded_llama, tmp_path, monkeypatch):
    monkeypatch.setattr("optimum_grail.export.graphs.find_spec", lambda name: None)
    words = ("grail", "compress", "-m", str(embedded_llama), "-o", str(tmp_path / "small"), *QUICK)
    assert cli(*words, "--for", "openvino") == 2
    assert "pip install 'optimum-grail[openvino]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
