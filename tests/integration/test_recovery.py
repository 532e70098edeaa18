"""Recovery: the compressed model comes nearer to the dense one, and an interrupted run ends as if it had not been."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import ArchitectureError, CheckpointError, OutputError, RecoveryError
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.recovery import Recipe, recover, training
from optimum_grail.recovery.distil import divergence, logits_of, mean_divergence
from optimum_grail.report.progress import Silent
from optimum_grail.report.report import Report

recover_module = importlib.import_module("optimum_grail.recovery.recover")
SMALL = Recipe(steps=12, num_samples=20, seqlen=64, batch_size=4, rank=4, learning_rate=3e-3, save_every=4)


class Interrupting(Silent):
    """Stops the run after so many steps, as Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def update(self, advance: int, description: str) -> None:
        if description.startswith("step"):
            self.left -= advance
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def recovered(llama_run: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The non-uniform checkpoint after a short recovery on its dense model's own text."""
    folder = tmp_path_factory.mktemp("recovered") / "out"
    recover(llama_run("free").folder, folder, SMALL, eval_dataset=str(text))
    return folder


def test_the_recovered_model_is_nearer_to_the_dense_one(
    recovered: Path, llama_run: Callable[[str], Any], text: Path
) -> None:
    run = llama_run("free")
    report = Report.load(recovered)
    assert report.recovery["kl_after"] < 0.97 * report.recovery["kl_before"]
    measured = report.recovery["evaluation"]
    again = evaluate_path(recovered, str(text), "perplexity", seqlen=128)["perplexity"]
    assert measured["before"] != measured["after"] == pytest.approx(again, rel=1e-2), "rounded to 16 bits since"
    (row,) = (row for row in report.evaluation if row["metric"] == "perplexity")
    assert row["compressed"] == measured["after"]
    model = AutoModelForCausalLM.from_pretrained(recovered)
    before = AutoModelForCausalLM.from_pretrained(run.folder)
    assert model.dtype == before.dtype
    assert [p.shape for p in model.parameters()] == [p.shape for p in before.parameters()]


def test_the_folder_is_a_checkpoint_whose_card_tells_of_it(recovered: Path, llama_run: Callable[[str], Any]) -> None:
    before = {file.name for file in llama_run("free").folder.iterdir()}
    assert {file.name for file in recovered.iterdir()} == before
    assert not recovered.with_name("out.recovery").exists()
    card = (recovered / "README.md").read_text(encoding="utf-8")
    assert "## Recovery" in card and "12 steps of LoRA (rank 4" in card
    assert "without any training" not in card
    assert "without any training" in (llama_run("free").folder / "README.md").read_text(encoding="utf-8")


def test_interrupted_and_resumed_equals_uninterrupted(
    recovered: Path, llama_run: Callable[[str], Any], text: Path, tmp_path: Path
) -> None:
    folder = llama_run("free").folder
    with pytest.raises(KeyboardInterrupt):
        recover(folder, tmp_path / "out", SMALL, progress=Interrupting(7))
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out.recovery").glob("checkpoint-*")] == ["checkpoint-4"]
    with pytest.raises(CheckpointError, match="other settings"):
        recover(folder, tmp_path / "out", Recipe(steps=3))
    seen = Interrupting(1000)
    recover(folder, tmp_path / "out", SMALL, progress=seen)
    assert 1000 - seen.left == SMALL.steps - 4
    one, two = (load_file(path / "model.safetensors") for path in (recovered, tmp_path / "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_of_the_states_along_the_way_the_nearest_is_kept(
    llama_run: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurements of all states but the second are made to look worse: it is the second that comes out."""
    real: list[float] = []

    def measure(*models_and_data: Any) -> float:
        real.append(mean_divergence(*models_and_data))
        return real[-1] + (len(real) != 3)

    monkeypatch.setattr(training, "mean_divergence", measure)
    found = recover(llama_run("free").folder, tmp_path / "out", SMALL).recovery
    assert [point["step"] for point in found["curve"]] == [0, 4, 8, 12]
    assert real[3] < real[2], "by itself the last one would have been kept"
    assert found["kl_after"] == pytest.approx(real[2], rel=1e-4), "factors were merged since"


def test_training_that_only_harms_writes_nothing(llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, steps=2, learning_rate=10.0)
    with pytest.raises(RecoveryError, match="no state was nearer"):
        recover(llama_run("free").folder, tmp_path / "out", recipe)
    assert list(tmp_path.iterdir()) == []


def test_all_weights_resumed_and_in_limited_time(llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    folder = llama_run("free").folder
    recipe = dataclasses.replace(SMALL, weights="full", steps=8, save_every=3, learning_rate=1e-3)
    with pytest.raises(KeyboardInterrupt):
        recover(folder, tmp_path / "one", recipe, progress=Interrupting(5))
    for name in ("one", "two"):
        report = recover(folder, tmp_path / name, recipe)
        assert [point["step"] for point in report.recovery["curve"]] == [0, 3, 6, 8]
        assert report.recovery["kl_after"] < report.recovery["kl_before"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    before = load_file(folder / "model.safetensors")
    assert not any(torch.equal(one[name], before[name]) for name in one), "norms and embeddings learn too"
    card = (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    assert "8 steps of all weights (4 samples each)" in card and "after 3," in card
    timed = dataclasses.replace(recipe, steps=None, save_every=None, minutes=0.05)
    found = recover(folder, tmp_path / "three", timed)
    assert found.recovery["steps"] > 1 and found.seconds["recovery"] < 60


def test_texts_are_rewritten_unless_they_are_to_be_read_as_they_are(
    cli: Callable[..., int],
    llama_run: Callable[[str], Any],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[int] = []
    monkeypatch.setattr(recover_module, "_answered", lambda run, rows: written.append(len(rows)) or rows)
    small = ("--steps", "4", "--num-samples", "10", "--seqlen", "48", "--batch-size", "4")
    line = ("grail", "recover", "-m", llama_run("free").folder, "--dataset", text, *small)
    assert cli(*line, "-o", tmp_path / "as-they-are", "--no-rewrite") == 0 and written == []
    assert cli(*line, "-o", tmp_path / "rewritten") == 0 and written == [10]


def test_command_on_a_text_of_the_users(
    cli: Callable[..., int], llama_run: Callable[[str], Any], text: Path, tmp_path: Path, capsys: Any
) -> None:
    sizes = {"steps": 3, "num-samples": 10, "seqlen": 48, "batch-size": 4, "rank": 2, "learning-rate": 1e-3}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    folder = llama_run("default").folder
    assert cli("grail", "recover", "-m", folder, "-o", tmp_path / "out", "--dataset", text, "--json", *words) == 0
    found = json.loads(capsys.readouterr().out)["recovery"]
    assert found["steps"] == 3
    assert found["kl_after"] < found["kl_before"]


def test_models_that_do_not_write_learn_on_the_samples(tmp_path: Path) -> None:
    """Samples need no labels, though the compression read some."""
    torch.manual_seed(0)
    dense = tiny_vit()
    rows = [{"pixel_values": image} for image in torch.randn(40, 3, 16, 16)]
    dense.save_pretrained(tmp_path / "dense")
    config = {"sparsity": 0.5, "num_samples": 20, "label_column": "label"}
    compressor = GrailCompressor(tiny_vit(), config, source=str(tmp_path / "dense"))
    compressor.compress([{**row, "label": index % 2} for index, row in enumerate(rows)], tmp_path / "small")
    small = tmp_path / "small"  # made as the first version wrote it
    (small / "grail_files.json").unlink()
    (small / "grail_plan.tensors").rename(small / "grail_plan.safetensors")
    (small / "id_rsa").write_text("private")
    recipe = Recipe(steps=10, num_samples=40, batch_size=8, rank=4, learning_rate=1e-2)
    report = recover(tmp_path / "small", tmp_path / "out", recipe, dataset=rows)
    assert report.recovery["kl_after"] < report.recovery["kl_before"]
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]
    assert (tmp_path / "out" / "grail_plan.tensors").is_file() and not (tmp_path / "out" / "id_rsa").exists()
    given = tiny_vit().bfloat16().train()
    recover(tmp_path / "small", tmp_path / "out", recipe, base_model=given, dataset=rows, overwrite=True)
    assert given.training and {parameter.dtype for parameter in given.parameters()} == {torch.bfloat16}


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    gaps = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(teacher, student, mask), (gaps[0, 0] + gaps[0, 1] + gaps[1, 0]) / 3)
    torch.testing.assert_close(divergence(teacher[:, 0], student[:, 0], None), gaps[:, 0].mean())


def test_what_is_wrong_is_told_before_any_work(llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="report"):
        recover(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="not empty"):
        recover(llama_run("free").folder, tmp_path / "full")
    with pytest.raises(ArchitectureError, match="no logits"):
        logits_of(torch.nn.Linear(2, 2), {"input": torch.zeros(1, 2)})
