"""Several evaluation sets and damaged inputs of one run, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.config import GrailConfig
from optimum_grail.data.batches import Batch, CalibrationData
from optimum_grail.errors import ConfigError, DataError
from optimum_grail.evaluation.before_and_after import BeforeAndAfter
from optimum_grail.evaluation.comparison import Comparisons
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.evaluation.for_sweep import SweepMetric
from optimum_grail.report.progress import Silent

TEXT = ["It was a bright cold day in April, and the clocks were striking thirteen."] * 4
PAIRS = [
    {"sentence1": f"there are {n} cats on the old mat", "sentence2": f"{n * n} dogs ran away", "score": float(n)}
    for n in range(6)
]


def pictures() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 255, (16, 16, 3), generator=draw, dtype=torch.uint8).numpy() for _ in range(6)]
    return Dataset.from_list([{"image": Image.fromarray(image), "label": n % 3} for n, image in enumerate(images)])


def prepared(folder: Path, dataset: Any, **options: Any) -> tuple[Any, Comparisons]:
    model = load_model(folder, device="cpu")
    return model, Comparisons.prepare(model, dataset, *load_processors(folder), GrailConfig(), **options)


def rows_of(folder: Path, dataset: Any, data: CalibrationData | None = None, **options: Any) -> list[dict[str, Any]]:
    """What a run reports that doubles every weight of the blocks."""
    model, comparisons = prepared(folder, dataset, **options)
    watch = BeforeAndAfter(comparisons, Silent())
    watch.dense(model, None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(2 if ".layer" in name else 1)
    watch.compressed(model, data)
    assert watch.notes == ()
    return list(watch.results)


def test_every_set_is_a_row_with_its_agreement(folders: dict[str, Path]) -> None:
    rows = rows_of(folders["llama"], {"first": TEXT, "second": [*TEXT, "And so on."]})
    assert [(row["metric"], row["dataset"]) for row in rows] == [("perplexity", "first"), ("perplexity", "second")]
    assert [row["source"] for row in rows] == ["list of 4 in memory", "list of 5 in memory"]
    for row in rows:
        assert row["dense"] != row["compressed"] and "corpus" not in row, "nothing was calibrated"
        assert row["agreement"]["kl"] > 0 and 0 <= row["agreement"]["same_token"] <= 1


def test_rows_say_where_the_data_comes_from(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("books/test.txt", "books/train.txt", "code/test.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(TEXT) + name)
    source = str(tmp_path / "books/train.txt")
    batch = Batch({"input_ids": torch.ones(1, 8, dtype=torch.int64)}, "fit")
    data = CalibrationData((batch,), source, "", 1, 1, 64, "text", frozenset())
    sets = [str(tmp_path / "books/test.txt"), str(tmp_path / "code/test.txt"), source]
    rows = rows_of(folders["llama"], {name: name for name in sets}, data)
    assert [row["corpus"] for row in rows] == ["in corpus", "out of corpus", "in corpus"]
    (row,) = rows_of(folders["llama"], sets[1], data)
    assert (row["dataset"], row["corpus"], "source" in row) == (sets[1], "out of corpus", False)


def test_images_are_damaged_in_three_ways(folders: dict[str, Path]) -> None:
    rows = rows_of(folders["vit"], pictures(), robustness=True)
    assert [row.get("perturbation") for row in rows] == [None, "noise", "blur", "jpeg"]
    assert {row["metric"] for row in rows} == {"accuracy"}
    assert "quality 15" in rows[3]["protocol"] and "quality" not in rows[0]["protocol"]
    assert all(0 <= row["agreement"]["same_class"] <= 1 for row in rows)


def test_sentences_are_mistyped(folders: dict[str, Path]) -> None:
    plain, typos = rows_of(folders["bert"], PAIRS, robustness=True)
    assert (typos["metric"], typos["perturbation"]) == ("spearman", "typos")
    assert plain["dense"] != typos["dense"] and plain["agreement"]["cosine"] != typos["agreement"]["cosine"]


@pytest.mark.parametrize(
    ("dataset", "message"), [(TEXT, "perplexity is not measured on damaged"), (None, "Name some with --eval-dataset")]
)
def test_robustness_without_effect_is_refused(folders: dict[str, Path], dataset: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(folders["llama"], dataset, robustness=True)


def test_a_set_has_its_own_columns_and_splits(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"title": "x", "body": line} for line in TEXT]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.jsonl")
    _, comparisons = prepared(folders["llama"], f"{tmp_path}:split=train,text_column=body")
    assert comparisons.items[0].metric.text_column == "body"
    assert comparisons.items[0].rows.source == f"{tmp_path}, train"
    with pytest.raises(ConfigError, match="no option 'image_column'"):
        prepared(folders["llama"], f"{tmp_path}:image_column=body")


def test_a_sweep_gets_every_set_and_the_first_as_its_figure(folders: dict[str, Path]) -> None:
    model, comparisons = prepared(folders["llama"], {"first": TEXT, "second": TEXT[:2] + ["Not the same."] * 3})
    settings = SweepMetric(comparisons, Silent()).settings
    found = settings["measure"](model)
    assert list(found["sets"]) == ["first", "second"]
    assert found["perplexity"] == found["sets"]["first"]["perplexity"] != found["sets"]["second"]["perplexity"]
    assert settings["corpora"](None) == {"first": None, "second": None}


@pytest.mark.parametrize(
    ("name", "metric", "dataset", "keys"),
    [
        ("llama", "perplexity", TEXT, {"kl", "same_token", "positions"}),
        ("vit", "accuracy", None, {"same_class"}),
        ("bert", "spearman", PAIRS, {"cosine"}),
    ],
)
def test_evaluate_compares_with_a_reference(
    folders: dict[str, Path], name: str, metric: str, dataset: Any, keys: set[str]
) -> None:
    folder = folders[name]
    found = evaluate_path(folder, dataset or pictures(), metric, device="cpu", reference=folder)
    assert keys <= set(found) and found["reference"] == str(folder)
    assert found[f"reference_{metric}"] == found[metric]
    assert found.get("kl", 0) == 0 and found.get("same_class", 1) == 1 == pytest.approx(found.get("cosine", 1))


def test_a_reference_of_another_size_is_refused_before_anything_is_loaded(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"vocab_size=259, the reference .* has vocab_size=None"):
        evaluate_path(folders["llama"], TEXT, "perplexity", reference=folders["vit"])


def test_evaluate_takes_several_sets_and_perturbations(folders: dict[str, Path]) -> None:
    found = evaluate_path(folders["bert"], {"a": PAIRS, "b": PAIRS[:4]}, "spearman", device="cpu", perturb="typos")
    assert [(row["dataset"], row["rows"]) for row in found["sets"]] == [("a", 6), ("b", 4)]
    plain = evaluate_path(folders["bert"], PAIRS, "spearman", device="cpu")
    assert plain["spearman"] != found["sets"][0]["spearman"]
    with pytest.raises(ConfigError, match=r"'jpeg' does not apply to what BertModel reads\. Choose typos"):
        evaluate_path(folders["bert"], PAIRS, "spearman", perturb="jpeg")
