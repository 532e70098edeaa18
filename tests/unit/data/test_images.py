"""Images and image-text pairs as calibration data."""

from __future__ import annotations

import io
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from PIL import Image

from optimum_grail.data import images
from optimum_grail.data.batches import overlap
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (20, 20), (12 * index, 255 - 12 * index, 90)) for index in range(12)]


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def load(model: Any, dataset: Any, processor: Any, **options: Any) -> Any:
    main_input, held_out = options.pop("main_input", "image"), options.pop("held_out", True)
    recipient = Recipient(model, options.pop("tokenizer", None), processor, False, main_input)
    return load_calibration(recipient, DataRequest(dataset, **{"num_samples": 8, **options}), held_out=held_out)


def test_every_form_of_image_gives_the_same_samples(vit, vit_processor, pictures, tmp_path) -> None:
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(str(tmp_path / f"{index:02d}.png"))
        picture.save(paths[-1])
    raw = [png(picture) for picture in pictures]
    typed = Dataset.from_dict({"n": list(range(12)), "img": raw}).cast_column("img", datasets.Image())
    forms = [
        typed,
        Dataset.from_dict({"name": ["x"] * 12, "data": raw}),
        Dataset.from_dict({"data": [{"bytes": item, "path": None} for item in raw]}),
        Dataset.from_dict({"caption": ["x"] * 12, "path": paths}),
        Dataset.from_list([{"image": picture} for picture in pictures]),
        pictures,
        paths,
    ]
    loaded = [load(vit, form, vit_processor) for form in forms]
    assert len({data.sha256 for data in loaded}) == 1
    assert (loaded[0].samples, loaded[0].tokens, loaded[0].seqlen, loaded[0].kind) == (8, 0, None, "image")
    assert [batch.split for batch in loaded[0].batches] == ["fit", "held"]
    assert loaded[0].batches[0].inputs["pixel_values"].shape == (7, 3, 16, 16)
    assert overlap(loaded[0], load(vit, pictures, vit_processor, seed=1).fingerprints) >= 4


def test_an_image_folder(vit, vit_processor, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for index, picture in enumerate(pictures):
        folder = tmp_path / "data" / ("odd" if index % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index}.png")
    assert load(vit, tmp_path / "data", vit_processor).samples == 8


def test_grey_and_transparent_images_become_rgb() -> None:
    for mode in ("L", "RGBA", "P", "1"):
        assert images.open_image(Image.new(mode, (4, 4)), "here").mode == "RGB"


def test_pixels_come_from_the_processor(vit, vit_processor, pictures) -> None:
    data = load(vit, pictures[:5], vit_processor, held_out=False)
    expected = vit_processor(images=pictures[:5], return_tensors="pt")["pixel_values"]
    assert torch.equal(data.batches[0].inputs["pixel_values"], expected)
    assert data.sha256 != load(vit, pictures[:5][::-1], vit_processor, held_out=False).sha256


def test_pairs_are_padded_to_the_positions_of_the_text_tower(clip, clip_processor, tokenizer, pictures) -> None:
    rows = Dataset.from_list([{"image": p, "caption": f"small cat {i}"} for i, p in enumerate(pictures)])
    data = load(clip, rows, clip_processor, tokenizer=tokenizer, main_input="pair")
    inputs = data.batches[0].inputs
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "input_ids": (7, 24),
        "attention_mask": (7, 24),
        "pixel_values": (7, 3, 16, 16),
    }  # and no token_type_ids, which this tokenizer gives and CLIP does not take
    assert 0 < data.tokens < 8 * 24
    assert tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True).startswith("small cat")


def test_pairs_keep_image_and_caption_together(clip, clip_processor, tokenizer, pictures) -> None:
    rows = Dataset.from_list([{"image": p, "caption": "" if i == 3 else f"{i}"} for i, p in enumerate(pictures)])
    data = load(clip, rows, clip_processor, tokenizer=tokenizer, main_input="pair", held_out=False)
    whole = clip_processor(images=pictures, return_tensors="pt")["pixel_values"]
    for ids, pixels in zip(*(data.batches[0].inputs[key] for key in ("input_ids", "pixel_values")), strict=True):
        assert torch.equal(pixels, whole[int(tokenizer.decode(ids, skip_special_tokens=True))])


def test_bad_images_are_named(vit, vit_processor, pictures, tmp_path) -> None:
    with pytest.raises(DataError, match=r"no image column, only text \((large_)?string\).*--image-column"):
        load(vit, Dataset.from_dict({"text": ["a"]}), vit_processor)
    with pytest.raises(DataError, match="no column 'x'"):
        load(vit, Dataset.from_dict({"text": ["a"]}), vit_processor, image_column="x")
    with pytest.raises(DataError, match=r"column 'path', row 0 cannot be read"):
        load(vit, Dataset.from_dict({"path": [str(tmp_path / "no.png")]}), vit_processor)
    with pytest.raises(DataError, match=r"column 'data', row 0 cannot be read"):
        load(vit, Dataset.from_dict({"data": [b"broken"]}), vit_processor)
    with pytest.raises(DataError, match="holds int"):
        load(vit, Dataset.from_dict({"n": [1]}), vit_processor, image_column="n")
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        load(vit, pictures, None)
