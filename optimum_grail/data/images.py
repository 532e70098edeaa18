"""Image rows, and image-text pairs, to samples."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optimum_grail.data.text import describe_columns, require_column
from optimum_grail.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

    from optimum_grail.data.foreign import Processor

_PATH_COLUMNS = ("image", "img", "image_path", "path", "file_name", "file")
_CHUNK = 64


def image_column(rows: Dataset, asked: str | None = None) -> str:
    """Name of the image column: ``asked``, else the first column of images or image bytes, else one of file paths.

    Raises:
        DataError: the asked column is missing, or no column can hold images.
    """
    if asked is not None:
        require_column(rows, asked, "--image-column")
        return asked
    for name, feature in rows.features.items():
        if _holds_images(feature):
            return name
    for name in _PATH_COLUMNS:
        if getattr(rows.features.get(name), "dtype", None) in ("string", "large_string"):
            return name
    raise DataError(
        f"The dataset has no image column, only {describe_columns(rows)}. "
        "Choose a dataset of images, or name the column of images, image bytes or paths with --image-column."
    )


def _holds_images(feature: object) -> bool:
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    return (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", None) in (
        "binary",
        "large_binary",
    )


def open_image(value: object, where: str) -> Image:
    """Decode one cell to an RGB image.

    Args:
        value: a PIL image, bytes, ``{"bytes": …, "path": …}`` or a path.
        where: column and row for the message.

    Raises:
        DataError: it is none of these, or the file is missing or broken.
    """
    from PIL import Image as Pillow

    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    try:
        if isinstance(value, Pillow.Image):
            return value.convert("RGB")
        if isinstance(value, bytes):
            return Pillow.open(io.BytesIO(value)).convert("RGB")
        if isinstance(value, (str, Path)):
            return Pillow.open(value).convert("RGB")
    except OSError as error:
        raise DataError(
            f"The image in {where} cannot be read ({error}). Replace that row or choose --image-column."
        ) from error
    raise DataError(
        f"{where} holds {type(value).__name__}, expected an image, image bytes or a path to an image. "
        "Name the right column with --image-column."
    )


def read_images(rows: Dataset, column: str, indices: Sequence[int]) -> Iterator[Image]:
    """Yield the RGB images of ``rows[indices]``, one at a time.

    Raises:
        DataError: a row holds no readable image.
    """
    for index in indices:
        where = f"column {column!r}, row {index}"
        try:
            value = rows[index][column]
        except OSError as error:  # `datasets` decodes on access
            raise DataError(
                f"The image in {where} cannot be read ({error}). Replace that row or choose --image-column."
            ) from error
        yield open_image(value, where)


def image_processor(processor: Processor | None, what: str) -> Processor:
    """The image processor in ``processor``, which may be one or a processor of several kinds of input (CLIP).

    Raises:
        DataError: there is none; ``what`` names the model in the message.
    """
    from transformers import ProcessorMixin

    found = getattr(processor, "image_processor", None) if isinstance(processor, ProcessorMixin) else processor
    if found is None:
        raise DataError(
            f"{what} has no image processor (preprocessor_config.json is missing). "
            "Put that file into the model folder, or pass processor=AutoImageProcessor…"
        )
    return found


def encode_images(images: Sequence[Image], processor: Processor) -> dict[str, Tensor]:
    """Model inputs for images: ``pixel_values`` float32 ``[N, 3, height, width]`` and what else the processor gives.

    The PIL backends of transformers work without torchvision; a batch costs one call of the processor.
    """
    encoded = processor(images=list(images), return_tensors="pt")
    return {key: value for key, value in encoded.items() if isinstance(value, Tensor) and len(value) == len(images)}


def image_samples(images: Sequence[Image], processor: Processor) -> list[dict[str, Tensor]]:
    """One sample per image (``pixel_values`` float32 ``[3, height, width]``)."""
    samples: list[dict[str, Tensor]] = []
    for start in range(0, len(images), _CHUNK):
        encoded = encode_images(images[start : start + _CHUNK], processor)
        samples += [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    return samples


def pair_samples(
    images: Sequence[Image], texts: Sequence[dict[str, Tensor]], processor: Processor
) -> list[dict[str, Tensor]]:
    """One sample per image-text pair: the text's inputs and the image's side by side."""
    return [{**text, **image} for text, image in zip(texts, image_samples(images, processor), strict=True)]


def stacked(samples: Sequence[dict[str, Tensor]], key: str) -> Tensor:
    """The entry ``key`` of all samples, along a new first axis."""
    return torch.stack([sample[key] for sample in samples])
