"""Classes that come with calibration rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from PIL import Image
from torch.utils.data import DataLoader

from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError

CLASSES = [0, 1, 1, 0, 1, 0, 0, 1, 1]


def shades() -> list[Image.Image]:
    """One grey per row, dark first."""
    return [Image.new("RGB", (16, 16), (20 * index,) * 3) for index in range(len(CLASSES))]


def load(model: Any, dataset: Any, *, main_input: str = "image", **options: Any) -> CalibrationData:
    processors = options.pop("tokenizer", None), options.pop("processor", None)
    recipient = Recipient(model, *processors, options.pop("causal", False), main_input)
    return load_calibration(recipient, DataRequest(dataset, **{"label_column": "label", "num_samples": 6, **options}))


def read(data: CalibrationData, name: str) -> list[tuple[float, int]]:
    """Mean of an input and class, of every sample."""
    pairs = []
    for batch in data.batches:
        assert batch.labels is not None and "labels" not in batch.inputs
        means = batch.inputs[name].float().flatten(1).mean(1).tolist()
        pairs += list(zip(means, batch.labels.tolist(), strict=True))
    return pairs


def test_images_keep_their_classes(vit, vit_processor) -> None:
    rows = Dataset.from_list([{"image": p, "label": c} for p, c in zip(shades(), CLASSES, strict=True)])
    data = load(vit, rows, processor=vit_processor)
    order = sorted(value for value, _ in read(load(vit, rows, processor=vit_processor, num_samples=9), "pixel_values"))
    assert all(CLASSES[order.index(value)] == label for value, label in read(data, "pixel_values"))
    assert [batch.head().labels.shape for batch in data.batches] == [(1,)] * len(data.batches)
    plain = load(vit, rows, processor=vit_processor, label_column=None)
    assert all(batch.labels is None for batch in plain.batches) and plain.sha256 != data.sha256


def test_names_of_the_model_count(vit, vit_processor) -> None:
    order = ClassLabel(names=[vit.config.id2label[1], vit.config.id2label[0]])
    table = Dataset.from_dict({"image": shades(), "label": CLASSES}).cast_column("label", order)
    swapped = load(vit, table, processor=vit_processor, num_samples=9)
    assert [label for _, label in sorted(read(swapped, "pixel_values"))] == [1 - label for label in CLASSES]


def test_texts_keep_their_classes(bert, tokenizer) -> None:
    rows = [{"text": "the cat " * (index + 1), "label": label} for index, label in enumerate(CLASSES)]
    data = load(bert, rows, main_input="text", tokenizer=tokenizer, seqlen=32)
    for batch in data.batches:
        tokens = batch.inputs["attention_mask"].sum(1).tolist()
        words = [tokenizer("the cat " * (index + 1), return_length=True)["length"][0] for index in range(9)]
        assert [CLASSES[words.index(count)] for count in tokens] == batch.labels.tolist()


def test_ready_samples_bring_classes(vit) -> None:
    pictures = [torch.full((3, 16, 16), float(index)) for index in range(len(CLASSES))]
    rows = [{"pixel_values": picture, "label": label} for picture, label in zip(pictures, CLASSES, strict=True)]
    pairs = DataLoader(list(zip(pictures, CLASSES, strict=True)), batch_size=3)
    for dataset in (rows, pairs):
        found = read(load(vit, dataset, num_samples=9), "pixel_values")
        assert all(CLASSES[int(value)] == label for value, label in found)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 7], "labels from 0 to 7, and the model has 2 classes"),
        (["a", "b", "c"], "Row 0 of column 'label' is 'a', expected a class number"),
    ],
)
def test_what_is_no_class_is_refused(vit, vit_processor, labels, message) -> None:
    rows = Dataset.from_dict({"image": shades()[:3], "label": labels})
    with pytest.raises(DataError, match=message):
        load(vit, rows, processor=vit_processor)


def test_missing_labels_are_told(vit, vit_processor, llama, tokenizer, lines) -> None:
    with pytest.raises(DataError, match=r"no column 'label'.*--label-column"):
        load(vit, Dataset.from_dict({"image": shades()}), processor=vit_processor)
    with pytest.raises(DataError, match="item 0 has None as 'label', expected class numbers"):
        load(vit, [{"pixel_values": torch.zeros(3, 16, 16)}])
    with pytest.raises(DataError, match=r"label_column='label': .* labels are the next tokens"):
        load(llama, lines, main_input="text", causal=True, tokenizer=tokenizer)
