"""lm-eval's tasks on compressed checkpoints, offline with a task file of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail.errors import ConfigError
from optimum_grail.evaluation import lm_eval as module
from optimum_grail.evaluation.lm_eval import evaluate_tasks

ROWS = [
    ("The sun rises in the", [" east", " of of the"], 0),
    ("She looked at him and", [" the the the", " said"], 1),
    ("Once upon a", [" time", " which"], 0),
    ("He put his hand in his", [" pocket", " however"], 0),
    ("They sat down at the", [" quickly", " table"], 1),
]
TASK = """
task: next_words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multiple-choice task with its data."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("task")
    rows = [{"text": text, "choices": choices, "label": label} for text, choices, label in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK.format(data=folder / "rows.jsonl"), encoding="utf-8")
    return folder / "task.yaml"


def accuracy(folder: Path) -> float:
    """The task by hand: which choice the model finds likelier."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = 0
    for text, choices, label in ROWS:
        scores = []
        for choice in choices:
            start = len(tokenizer(text)["input_ids"])
            ids = torch.tensor([tokenizer(text + choice)["input_ids"]])
            with torch.no_grad():
                logs = model(input_ids=ids).logits.log_softmax(-1)[0, start - 1 : -1]
            scores.append(float(logs.gather(1, ids[0, start:, None]).sum()))
        right += scores.index(max(scores)) == label
    return right / len(ROWS)


def test_a_task_of_ones_own_through_the_command(
    task: Path, llama_run: Callable[[str], Any], cli: Callable[..., int], capsys: Any
) -> None:
    folder = llama_run("free").folder
    assert cli("grail", "evaluate", "-m", folder, "--tasks", task, "--json") == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["next_words"]
    assert found["acc"] == pytest.approx(accuracy(folder))
    assert found["documents"] == len(ROWS)


def test_the_first_documents_only(task: Path, embedded_llama: Path) -> None:
    found = evaluate_tasks(embedded_llama, [str(task)], limit=2)
    assert found["tasks"]["next_words"]["documents"] == 2


def test_what_is_wrong_is_told(
    task: Path, embedded_llama: Path, tmp_path: Path, cli: Callable[..., int], capsys: Any, monkeypatch: Any
) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate_tasks(embedded_llama, [str(tmp_path / "none.yaml")])
    (tmp_path / "empty.yaml").write_text("dataset_path: json\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="names no task"):
        evaluate_tasks(embedded_llama, [str(tmp_path / "empty.yaml")])
    for words, message in (
        (("--tasks", task, "--metric", "perplexity"), "Leave out"),
        (("--metric", "perplexity"), "--dataset is missing"),
        ((), "--dataset is missing"),
    ):
        assert cli("grail", "evaluate", "-m", embedded_llama, *words) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed"):
        evaluate_tasks(embedded_llama, [str(task)])
