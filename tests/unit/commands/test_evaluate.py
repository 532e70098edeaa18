"""``optimum-cli grail evaluate``, on the tiny random LLaMA of its map."""

from __future__ import annotations

import inspect
import json

import pytest

from optimum_grail.commands.evaluate import COLUMNS, METRICS, PERTURBATIONS, SIZES
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.evaluation.metrics import METRICS as REGISTRY
from optimum_grail.evaluation.perturbations import IMAGES, TEXT
from optimum_grail.report.progress import RichProgress


def test_every_metric_is_named_in_the_help():
    assert sorted(METRICS.split("|")) == REGISTRY.names()
    assert PERTURBATIONS.split("|") == [*TEXT, *IMAGES]


def test_every_argument_of_the_function_is_a_flag(parse_words):
    parameters = set(inspect.signature(evaluate_path).parameters) - {"progress", "model_path", "config_name"}
    args = parse_words("grail", "evaluate", "-m", "x", "--dataset", "y", "--metric", "z")
    assert parameters <= set(vars(args))
    assert len(COLUMNS) == 4 and len(SIZES) == 4


def test_passes_everything_on(cli, capsys, monkeypatch):
    seen = {}

    def measure(*args, **kwargs):
        seen.update(kwargs, args=args)
        return {"metric": "spearman", "spearman": 0.5, "rows": 1000}

    monkeypatch.setattr("optimum_grail.evaluation.evaluate.evaluate_path", measure)
    words = "--text-column a --text-pair-column b --image-column c --label-column d --seqlen 8 --num-samples 9"
    words += " --max-tokens 10 --batch-size 11 --split s --dataset-config-name n --dtype float32 --device cpu"
    words += " --perturb typos --reference z"
    assert cli("grail", "evaluate", "-m", "x", "--dataset", "y", "--metric", "spearman", *words.split()) == 0
    assert isinstance(seen.pop("progress"), RichProgress)
    assert seen == {
        "args": ("x", "y", "spearman"),
        "text_column": "a",
        "text_pair_column": "b",
        "image_column": "c",
        "label_column": "d",
        "seqlen": 8,
        "num_samples": 9,
        "max_tokens": 10,
        "batch_size": 11,
        "perturb": "typos",
        "reference": "z",
        "split": "s",
        "config_name": "n",
        "dtype": "float32",
        "device": "cpu",
        "trust_remote_code": False,
        "allow_pickle": False,
    }
    shown = capsys.readouterr().out
    assert "spearman  0.5\n" in shown and "rows  1,000\n" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--metric perplexty --dataset x.txt", "Did you mean 'perplexity'"),
        ("--metric perplexity --dataset x.txt --label-column l", "no option 'label_column'"),
        ("--metric perplexity --dataset ./no/such/file.txt", "no/such/file.txt"),
        ("--metric perplexity --dataset ./no/such/file.txt:split=test a/b", "no/such/file.txt"),
        ("--metric perplexity --dataset a/b a/b", "'a/b' is named twice"),
        ("--metric perplexity --dataset a/b:3", "weights belong to calibration data"),
        ("--metric perplexity --dataset a/b:splitt=test", "Did you mean 'split'"),
        ("--metric perplexity --dataset a/b --perturb typos", "no option 'perturb'"),
        ("--metric spearman --dataset a/b --perturb typo", "Did you mean 'typos'"),
        ("--tasks x --perturb typos", "--perturb is for a metric"),
        ("--metric perplexity --dataset a/b c/d --add-to x", "--add-to notes one metric on one data set"),
    ],
)
def test_bad_input(cli, capsys, embedded_llama, words, message):
    assert cli("grail", "evaluate", "-m", str(embedded_llama), *words.split()) == 2
    assert message in capsys.readouterr().err


def test_missing_model(cli, capsys):
    assert cli("grail", "evaluate", "-m", "./nowhere", "--metric", "perplexity", "--dataset", "x.txt") == 2
    assert "./nowhere" in capsys.readouterr().err


def test_sizes_are_checked(parse_words, capsys):
    with pytest.raises(SystemExit) as end:
        parse_words("grail", "evaluate", "-m", "x", "--dataset", "y", "--metric", "z", "--max-tokens", "0")
    assert end.value.code == 2
    assert "--max-tokens is 0; expected a whole number >= 1" in capsys.readouterr().err


def test_measures_a_real_model(cli, capsys, embedded_llama, tmp_path):
    (tmp_path / "text.txt").write_text("It was a dark and stormy night; the rain fell in torrents. " * 60)
    words = ("--metric", "perplexity", "--dataset", str(tmp_path / "text.txt"), "--seqlen", "64", "--num-samples", "4")
    assert cli("grail", "evaluate", "-m", str(embedded_llama), *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "perplexity"
    assert 1 < found["perplexity"] < 1000
