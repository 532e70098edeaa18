"""Accuracy and retrieval."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset
from PIL import Image

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.data.batches import overlap
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError
from optimum_grail.evaluation.metrics import Readers
from optimum_grail.evaluation.metrics.accuracy import Accuracy
from optimum_grail.evaluation.metrics.retrieval import Retrieval, recall


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    return [
        Image.fromarray(torch.randint(0, 255, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(9)
    ]


@pytest.fixture(scope="module")
def seen(folders, pictures):
    """Model, image processor, and the classes that the model sees."""
    model = load_model(folders["vit"], device="cpu")
    _, processor = load_processors(folders["vit"])
    with torch.no_grad():
        classes = model(**processor(images=pictures, return_tensors="pt")).logits.argmax(dim=-1).tolist()
    return model, processor, classes


def table(pictures, labels) -> Dataset:
    return Dataset.from_list([{"image": p, "label": label} for p, label in zip(pictures, labels, strict=True)])


@pytest.mark.parametrize("batch_size", [2, 64])
def test_accuracy_counts_hits(seen, pictures, batch_size) -> None:
    model, processor, classes = seen
    wrong = [*classes[:6], *((label + 1) % 3 for label in classes[6:])]
    result = Accuracy(batch_size=batch_size)(model, None, processor, table(pictures, wrong))
    assert (result["accuracy"], result["correct"], result["rows"]) == (pytest.approx(6 / 9), 6, 9)
    assert Accuracy(num_samples=4)(model, None, processor, table(pictures, wrong))["rows"] == 4


def test_labels_may_be_names_in_any_order(seen, pictures) -> None:
    model, processor, classes = seen
    names = [model.config.id2label[label] for label in classes]
    rows = table(pictures, [name.upper() for name in names])
    assert Accuracy()(model, None, processor, rows)["accuracy"] == 1
    order = ClassLabel(names=["cow", "cat", "dog"])
    rows = table(pictures, names).cast_column("label", order)
    assert Accuracy()(model, None, processor, rows)["accuracy"] == 1
    rows = table(pictures, classes).cast_column("label", ClassLabel(names=["x", "y", "z"]))
    assert Accuracy()(model, None, processor, rows)["accuracy"] == 1  # unknown names: numbers count


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0] * 9, {"label_column": "y"}, "no column 'y'.*--label-column"),
        ([7] * 9, {}, "labels from 7 to 7, and the model has 3 classes"),
        (["fish"] * 9, {}, "'fish', expected a class number or one of the model's labels"),
        ([0.5] * 9, {}, "is 0.5, expected"),
        ([0] * 9, {"image_column": "z"}, "no column 'z'"),
    ],
)
def test_unusable_labels_are_refused(seen, pictures, labels, options, message) -> None:
    model, processor, _ = seen
    with pytest.raises(DataError, match=message):
        Accuracy(**options)(model, None, processor, table(pictures, labels))


def test_a_missing_processor_is_refused(seen, pictures) -> None:
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        Accuracy()(seen[0], None, None, table(pictures, [0] * 9))


def test_evaluation_images_seen_in_calibration_are_recognised(seen, pictures) -> None:
    model, processor, _ = seen
    data = load_calibration(Recipient(model, None, processor, main_input="image"), DataRequest(pictures[:6]))
    metric = Accuracy()
    marks = metric.fingerprints(Readers.of(model, None, processor), metric.read(table(pictures[4:], [0] * 5)))
    assert overlap(data, marks) == 2


def test_recall_lets_any_equal_caption_count() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.3, 0.2, 0.1]])
    assert recall(scores, torch.tensor([0, 1, 2]), 1) == 0
    assert recall(scores, torch.tensor([0, 0, 1]), 1) == pytest.approx(2 / 3)
    assert recall(scores, torch.tensor([0, 1, 2]), 2) == pytest.approx(2 / 3)
    assert recall(scores, torch.tensor([0, 1, 2]), 10) == 1


def test_retrieval_is_the_rank_of_the_right_row(folders, tokenizer, pictures) -> None:
    model = load_model(folders["clip"], device="cpu")
    _, processor = load_processors(folders["clip"])
    captions = [f"{index % 7} thing" for index in range(9)]
    rows = Dataset.from_list([{"image": p, "caption": c} for p, c in zip(pictures, captions, strict=True)])
    result = Retrieval(batch_size=4)(model, tokenizer, processor, rows)
    with torch.no_grad():
        text = tokenizer(captions, padding="max_length", max_length=24, return_tensors="pt")
        text.pop("token_type_ids", None)
        logits = model(**text, **processor(images=pictures, return_tensors="pt")).logits_per_image
    for name, scores in (("image_to_text", logits), ("text_to_image", logits.T)):
        best = scores.argmax(dim=1).tolist()
        expected = sum(captions[index] == captions[other] for index, other in enumerate(best)) / 9
        assert result[f"{name}_r1"] == pytest.approx(expected)
        assert result[f"{name}_r10"] == 1
    assert result["rows"] == 9
    assert Retrieval(max_rows=4)(model, tokenizer, processor, rows)["rows"] == 4
    assert Retrieval(num_samples=3)(model, tokenizer, processor, rows)["rows"] == 3


def test_retrieval_needs_two_towers(seen, pictures, tokenizer) -> None:
    with pytest.raises(DataError, match="ViTForImageClassification is none"):
        Retrieval()(seen[0], tokenizer, seen[1], table(pictures, [0] * 9))
