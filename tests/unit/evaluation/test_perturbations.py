"""Damaged inputs: changed where they should be, the same every time."""

from __future__ import annotations

import difflib
import string

import pytest
import torch
from PIL import Image

from optimum_grail.errors import ConfigError
from optimum_grail.evaluation.perturbations import (
    IMAGES,
    TEXT,
    check_name,
    damaged,
    mistyped,
    perturb_images,
    perturb_texts,
)

PROSE = "The quick brown fox jumps over the lazy dog, 12 times a day; nobody minds. " * 60


def picture(size: tuple[int, int] = (48, 32)) -> Image.Image:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(40, 216, (size[1], size[0], 3), generator=draw, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def values(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()


def test_five_percent_of_the_letters_are_mistyped() -> None:
    sentence, seeds = "The quick brown fox jumps over the lazy dog, twice a day.", range(400)
    pairs = [difflib.SequenceMatcher(None, sentence, mistyped(sentence, seed), False) for seed in seeds]
    edits = [edit[0] for pair in pairs for edit in pair.get_opcodes() if edit[0] != "equal"]
    letters = len(seeds) * sum(letter.isalpha() for letter in sentence)
    assert 0.04 < len(edits) / letters < 0.07  # a swap counts as two
    assert set(edits) == {"replace", "insert", "delete"}


def test_all_four_slips_happen_and_a_neighbour_is_beside() -> None:
    typed = {mistyped("ab", seed) for seed in range(4000)}
    assert {"ab", "ba", "b", "a", "aab", "abb", "sb", "av", "an"} <= typed
    assert {mistyped("A", seed) for seed in range(2000)} == {"A", "", "AA", "S"}


def test_what_is_no_letter_stays() -> None:
    typed = mistyped(PROSE, 7)
    others = string.digits + string.punctuation + " "
    assert [c for c in typed if c in others] == [c for c in PROSE if c in others]
    assert mistyped("12, 34; 56!", 1) == "12, 34; 56!" and mistyped("", 1) == ""


def test_letters_of_other_alphabets_are_swapped_dropped_or_doubled_only() -> None:
    assert set("".join(mistyped("日本語", seed) for seed in range(500))) == set("日本語")


@pytest.mark.parametrize("name", list(IMAGES))
def test_images_change_and_keep_their_size(name: str) -> None:
    image = picture()
    first, again = damaged(name, image, 5), damaged(name, image, 5)
    assert (first.size, first.mode) == (image.size, "RGB")
    assert first.tobytes() == again.tobytes() != image.tobytes()
    assert image.tobytes() == picture().tobytes(), "the original stays"


def test_noise_has_the_documented_deviation_and_a_seed_of_its_own() -> None:
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    noisy = values(damaged("noise", grey, 1))
    assert float((noisy / 255).std()) == pytest.approx(0.18, rel=0.03)
    assert damaged("noise", grey, 2).tobytes() != damaged("noise", grey, 1).tobytes()


def test_blur_evens_out_and_grows_with_the_image() -> None:
    small, large = picture((32, 32)), picture((224, 224))
    kept = [float(values(damaged("blur", image, 0)).std() / values(image).std()) for image in (small, large)]
    assert kept[1] < kept[0] < 1


def test_rows_are_seeded_by_their_number_not_by_their_batch() -> None:
    texts = [PROSE, PROSE, PROSE]
    whole = perturb_texts("typos", texts, range(3))
    assert len(set(whole)) == 3 and whole == [perturb_texts("typos", [PROSE], [row])[0] for row in range(3)]
    images = perturb_images("noise", [picture()] * 2, range(4, 6))
    assert images[1].tobytes() == perturb_images("noise", [picture()], [5])[0].tobytes()


def test_nothing_is_done_where_nothing_applies() -> None:
    image = picture()
    assert perturb_texts(None, ["a"], [0]) == perturb_texts("jpeg", ["a"], [0]) == ["a"]
    assert perturb_images("typos", [image], [0]) == perturb_images(None, [image], [0]) == [image]


def test_unknown_names_are_refused() -> None:
    for name in (None, *TEXT, *IMAGES):
        check_name(name)
    with pytest.raises(ConfigError, match=r"no perturbation 'blurr'.*Did you mean 'blur'"):
        check_name("blurr")
