"""Files that a configuration can be read from, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimum_grail.config.config import GrailConfig
from optimum_grail.config.recipe import read_recipe
from optimum_grail.errors import ConfigError, GrailError

YAML = """
# a run
sparsity: 0.3
ridge: 1e-3            # YAML takes this for a word
protect: [0, -1, "layers.*.mlp"]
allocation:
  name: knapsack
  min_heads: 2
affine: no
dataset: corpus.txt
"""
RUNS: list[dict[str, Any]] = [
    {},
    {"preset": "wanda", "sparsity": 0.4, "seed": 7},
    {"target_bytes": "60MB", "protect": [0, "heads"], "drop_layers": True},
    {"target_parameters": 10**6, "allocation": {"name": "knapsack", "min_heads": 0}, "ridge": 0.1},
    {"budget": "flops", "round_to": 8, "preset": "grail"},
    {"preset": "comp", "ffn_sparsity": 0.5, "head_sparsity": 0.25, "standalone": False},
    {"allocation": "block-influence:drop=0.5", "drop_layers": True},
]


def test_yaml(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    config = GrailConfig.from_file(tmp_path / "run.yaml")
    assert (config.sparsity, config.ridge, config.affine, config.dataset) == (0.3, 1e-3, False, "corpus.txt")
    assert config.protect == "0/-1/layers.*.mlp"
    assert (config.methods()[2].min_heads, config.methods()[2].protect) == (2, config.protect)


@pytest.mark.parametrize("values", RUNS, ids=str)
def test_a_report_gives_its_configuration_back(values: dict[str, Any], tmp_path: Path, report: Any) -> None:
    resolved = GrailConfig(**values).resolved()
    told = {**report.to_dict(), "config": resolved.to_dict()}
    (tmp_path / "grail_report.json").write_text(json.dumps(told))
    for place in (tmp_path, tmp_path / "grail_report.json"):
        again = GrailConfig.from_file(place)
        assert again.to_dict() == resolved.to_dict()
        assert again.resolved().to_dict() == resolved.to_dict()
        assert again.methods() == GrailConfig(**values).methods()


@pytest.mark.parametrize("values", RUNS, ids=str)
def test_a_saved_configuration_comes_back_before_the_report(values: dict[str, Any], tmp_path: Path) -> None:
    resolved = GrailConfig(**values).resolved()
    resolved.save_pretrained(tmp_path)
    (tmp_path / "grail_report.json").write_text("{")
    assert GrailConfig.from_file(tmp_path).resolved().to_dict() == resolved.to_dict()


def test_reports_of_earlier_versions_are_read(repository: Path) -> None:
    folders = [path.parent for path in (repository / "model_cards").glob("*/grail_report.json")]
    assert folders
    for folder in folders:
        config, told = GrailConfig.from_file(folder), json.loads((folder / "grail_report.json").read_text())["config"]
        assert {key: config.to_dict()[key] for key in told} == told
        assert config.resolved().resolved().to_dict() == config.resolved().to_dict()


def test_a_newer_versions_report_keeps_what_is_not_known(tmp_path: Path, report: Any) -> None:
    told = {**report.to_dict(), "config": {"sparsity": 0.3, "shape": 1}, "versions": {"optimum-grail": "9999.0"}}
    (tmp_path / "grail_report.json").write_text(json.dumps(told))
    with pytest.warns(UserWarning, match="shape"):
        assert GrailConfig.from_file(tmp_path).extra["shape"] == 1


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", '{"model_type": "llama", "hidden_size": 8}', "a model's config.json, not a grail"),
        ("config.json", '{"architectures": ["X"], "grail_config": {}}', "a model's config.json, not a grail"),
        ("sweep.json", '{"rows": [], "metric": "perplexity"}', "none of its fields (rows, metric instead)"),
        ("grail_report.json", '{"parameters_before": 1, "config": null}', "none of its fields"),
        ("a.json", '{"sparsty": 0.3}', "Unknown key 'sparsty' in a grail configuration. Did you mean 'sparsity'?"),
        ("a.yaml", "sparsty: 0.3", "Did you mean 'sparsity'?"),
        ("a.json", '{"sparsity": 0.3, "colour": 1}', "Unknown key 'colour'"),
        ("a.json", '{"quant_method": "gptq", "bits": 4}', "'gptq'"),
        ("a.json", '{"sparsity": 1' + "0" * 5000 + "}", "JSON"),
        ("a.json", '{"num_samples": 1' + "0" * 400 + "}", "num_samples is a number of more than 80 digits"),
        ("a.yaml", "[" * 9000, "deep"),
        ("a.yaml", "sparsity: [", "not YAML"),
        ("a.yaml", "a: &x [1]\nb: [*x, *x]", "aliases"),
        ("a.yaml", "", "holds a NoneType"),
        ("a.yaml", "just words", "holds a str"),
        ("a.yaml", "ridge: some", "ridge is 'some'"),
        ("a.yaml", "!!python/object/apply:os.system [echo]", "not YAML"),
        ("a.yaml", "split: 2020-01-01", "split is datetime.date"),
    ],
)
def test_other_files_are_refused_by_name(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(GrailError) as caught:
        GrailConfig.from_file(tmp_path / name)
    message = str(caught.value)
    assert words in message and name in message and len(message) < 600 and "\n" not in message


def test_a_folder_without_either_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither grail_config\.json nor grail_report\.json"):
        read_recipe(tmp_path)
