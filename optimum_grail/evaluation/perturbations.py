"""Small, repeatable damage to inputs: how a model does on what is not quite clean.

Every row draws from a generator of its own, seeded by its number, so that dense and compressed models see the same
inputs, whatever the batch size. Images are damaged as in ImageNet-C, severity 3 of 5, before they are resized.

Reference: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
2019 (arXiv:1903.12261).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from optimum_grail.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

TYPOS = 0.05
"""Share of the letters that are mistyped."""
NOISE = 0.18
"""Standard deviation of the noise, of a range from 0 to 1."""
BLUR = 3 / 224
"""Standard deviation of the blur, of the image's shorter side: 3 pixels of the 224 of ImageNet."""
QUALITY = 15
"""Quality of the JPEG compression, of 100."""
TEXT: Mapping[str, str] = {"typos": "5 % of the letters swapped, dropped, doubled or mistyped"}
"""What is done to texts, by name."""
IMAGES: Mapping[str, str] = {
    "noise": "Gaussian noise, standard deviation 0.18 of the range",
    "blur": "Gaussian blur, standard deviation 3/224 of the shorter side",
    "jpeg": "JPEG compression, quality 15",
}
"""What is done to images, by name."""
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def check_name(name: str | None) -> None:
    """Refuse a name that is none; ``None`` passes.

    Raises:
        ConfigError: the message names the nearest.
    """
    if name is not None and name not in (*TEXT, *IMAGES):
        known = (*TEXT, *IMAGES)
        raise ConfigError(f"There is no perturbation {name!r}; expected {', '.join(known)}.{did_you_mean(name, known)}")


def perturb_texts(name: str | None, texts: Iterable[str], rows: Iterable[int]) -> list[str]:
    """The texts, mistyped where ``name`` is one of :data:`TEXT`.

    Args:
        name: what to do; ``None`` or a perturbation of images: nothing.
        texts: one per row.
        rows: their numbers, which seed the draws.
    """
    if name not in TEXT:
        return list(texts)
    return [mistyped(text, row) for text, row in zip(texts, rows, strict=True)]


def perturb_images(name: str | None, images: Iterable[Image], rows: Iterable[int]) -> list[Image]:
    """The images, damaged where ``name`` is one of :data:`IMAGES`; arguments as of :func:`perturb_texts`."""
    if name is None or name not in IMAGES:
        return list(images)
    return [damaged(name, image, row) for image, row in zip(images, rows, strict=True)]


def mistyped(text: str, seed: int) -> str:
    """``text`` with 5 % of its letters mistyped: swapped with the next letter, left out, doubled, or hit beside on an
    English keyboard, each as likely. Everything but letters stays as it is.

    Args:
        text: any.
        seed: of the draws.
    """
    draw = random.Random(seed)
    letters, typed, index = list(text), [], 0
    while index < len(letters):
        letter = letters[index]
        index += 1
        if not letter.isalpha() or draw.random() >= TYPOS:
            typed.append(letter)
            continue
        slip = draw.randrange(4)
        if slip == 0 and index < len(letters) and letters[index].isalpha():
            typed += [letters[index], letter]
            index += 1
        elif slip == 2:
            typed += [letter, letter]
        elif slip != 1:
            typed.append(_beside(letter, draw))
    return "".join(typed)


def _beside(letter: str, draw: random.Random) -> str:
    """A letter beside ``letter`` on its row of keys; of letters without a key, the letter."""
    row = next((keys for keys in _KEYS if letter.lower() in keys), "")
    place = row.find(letter.lower())
    near = [row[other] for other in (place - 1, place + 1) if place >= 0 and 0 <= other < len(row)]
    if not near:
        return letter
    found = draw.choice(near)
    return found.upper() if letter.isupper() else found


def damaged(name: str, image: Image, seed: int) -> Image:
    """A damaged copy of an RGB image, of the same size.

    Args:
        name: one of :data:`IMAGES`.
        image: mode RGB.
        seed: of the noise.
    """
    from PIL import Image as Pillow
    from PIL import ImageFilter

    if name == "blur":
        return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))
    if name == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=QUALITY)
        return Pillow.open(buffer).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    noisy = (pixels + 255 * NOISE * noise).round().clamp(0, 255).to(torch.uint8)
    return Pillow.frombytes("RGB", image.size, noisy.numpy().tobytes())
