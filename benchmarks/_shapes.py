"""The small models that ``shapes.py`` trains: shape, samples to learn, calibrate and measure on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from _common import data_folder
from _training import BOOKS, SEED, WINDOW, windows
from torch import Tensor
from transformers import (
    AutoTokenizer,
    ConvNextConfig,
    ConvNextForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from optimum_grail.data.rows import read_rows

Samples = Mapping[str, Tensor]
VOCABULARY = 4096
MASK, PAD = VOCABULARY, VOCABULARY + 1
"""Tokens beyond the tokenizer's."""
MASKED = 0.15
MEASURED = 400
"""Windows of a text that are measured on."""
HALF = WINDOW // 2
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NOISE = 0.3
"""Deviation of the noise on normalised images."""


@dataclass(frozen=True)
class Shape:
    """A small model of a family.

    Args:
        name: of the family.
        model: builds it with random weights.
        samples: from windows or images to arguments of the model, labels among them.
        batch: samples per step of the training.
        peak: highest learning rate.
        shifted: whether labels are the inputs, of which the first is not predicted.
        accuracy: whether images are classified.
    """

    name: str
    model: Callable[[], PreTrainedModel]
    samples: Callable[[Tensor], Samples]
    batch: int = 8
    peak: float = 3e-3
    shifted: bool = False
    accuracy: bool = False

    def train(self) -> Samples:
        """What it learns."""
        return images("cifar10-jpeg/train*") if self.accuracy else self.samples(text(BOOKS, "train-00000*"))

    def calibration(self) -> Samples:
        """What it is compressed with."""
        return images("cifar10-lossless/train*") if self.accuracy else self.samples(text(BOOKS, "valid*"))

    def evaluation(self) -> Mapping[str, Samples]:
        """In corpus and out of it."""
        if not self.accuracy:
            other = data_folder() / "wikitext-2"
            sets = {"books": text(BOOKS, "test*"), "wikitext-2": text(other, "test*")}
            return {name: self.samples(rows[:MEASURED]) for name, rows in sets.items()}
        clean = images("cifar10-lossless/test*")
        noise = torch.randn(clean["pixel_values"].shape, generator=torch.Generator().manual_seed(SEED))
        return {"CIFAR-10": clean, "with noise": {**clean, "pixel_values": clean["pixel_values"] + NOISE * noise}}


@cache
def text(folder: Path, pattern: str) -> Tensor:
    """Windows of the texts in some files."""
    return windows(AutoTokenizer.from_pretrained(BOOKS / "tokenizer-bpe4096"), sorted(folder.glob(pattern)))


@cache
def images(pattern: str) -> Samples:
    """Normalised images ``[N, 3, 32, 32]`` and their classes."""
    pixels, labels = [], []
    for file in sorted(data_folder().glob(pattern)):
        rows = read_rows(str(file)).data.with_format("torch")
        pixels.append(torch.stack(list(rows["img"])))
        labels.append(torch.as_tensor(rows["label"]))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return {"pixel_values": (torch.cat(pixels) / 255 - mean) / deviation, "labels": torch.cat(labels)}


def continued(rows: Tensor) -> Samples:
    """Every token is predicted from those before it."""
    return {"input_ids": rows, "labels": rows}


def masked(rows: Tensor) -> Samples:
    """Some tokens are masked and predicted from all others."""
    drawn = torch.rand(rows.shape, generator=torch.Generator().manual_seed(SEED)) < MASKED
    return {"input_ids": rows.masked_fill(drawn, MASK), "labels": rows.masked_fill(~drawn, -100)}


def halves(rows: Tensor) -> Samples:
    """The decoder goes on where the encoder's half of a window ends."""
    start = torch.full((len(rows), 1), PAD)
    answers = rows[:, HALF:].contiguous()
    return {
        "input_ids": rows[:, :HALF],
        "decoder_input_ids": torch.cat([start, answers[:, :-1]], 1),
        "labels": answers,
    }


def gpt2() -> PreTrainedModel:
    """Six layers of 192."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=WINDOW, n_embd=192, n_layer=6, n_head=6, bos_token_id=0)
    )


def qwen3() -> PreTrainedModel:
    """Six layers of 192, two query heads per key-value head."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=32,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
        )
    )


def roberta() -> PreTrainedModel:
    """Six layers of 192."""
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=VOCABULARY + 2,
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=6,
            intermediate_size=768,
            max_position_embeddings=WINDOW + PAD + 1,
            pad_token_id=PAD,
        )
    )


def t5() -> PreTrainedModel:
    """Four and four layers of 192, gated."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY + 2,
            d_model=192,
            d_kv=32,
            d_ff=512,
            num_layers=4,
            num_heads=6,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=PAD,
            decoder_start_token_id=PAD,
        )
    )


def convnext() -> PreTrainedModel:
    """Three stages of two blocks, 64 to 256 channels, on images of 32 x 32."""
    return ConvNextForImageClassification(
        ConvNextConfig(
            image_size=32,
            patch_size=2,
            num_stages=3,
            hidden_sizes=[64, 128, 256],
            depths=[2, 2, 2],
            layer_scale_init_value=1.0,
            num_labels=10,
        )
    )


SHAPES = (
    Shape("convnext", convnext, lambda pixels: {"pixel_values": pixels}, batch=64, accuracy=True),
    Shape("gpt2", gpt2, continued, shifted=True),
    Shape("qwen3", qwen3, continued, shifted=True),
    Shape("roberta", roberta, masked),
    Shape("t5", t5, halves),
)
