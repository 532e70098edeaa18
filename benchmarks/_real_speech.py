"""Whisper: word error on clips that a speech synthesiser makes, since no spoken corpus comes with the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from _common import REPOSITORY, data_folder
from _real_models import Model
from _real_subjects import Sets, Subject
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoTokenizer

from optimum_grail.data.rows import read_rows
from optimum_grail.errors import DataError
from optimum_grail.evaluation.agreement import Answers, Classes

CLIPS = REPOSITORY / "build" / "clips"
RATE = 16000
VOICES = ("en-us", "en-gb")
SENTENCE = re.compile(r"(?<=[.!?]) +")
LANGUAGE = {"language": "en", "task": "transcribe"}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def word_errors(said: Sequence[str], wanted: Sequence[str]) -> int:
    """Words to insert, drop or replace: the Levenshtein distance."""
    row = list(range(len(wanted) + 1))
    for count, word in enumerate(said, start=1):
        before, row[0] = row[0], count
        for place, other in enumerate(wanted, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def sentences(path: str, column: str, count: int) -> list[str]:
    """The first ``count`` sentences of 8 to 16 words, without numbers, names in capitals or quotes."""
    texts = read_rows(str(data_folder() / path)).data[column]
    pieces = (" ".join(piece.split()) for text in texts for piece in SENTENCE.split(text))
    plain = (piece for piece in pieces if re.fullmatch(r"[A-Z][a-z ,']+[.!?]?", piece) and 8 <= len(words(piece)) <= 16)
    return [piece for _, piece in zip(range(count), plain, strict=False)]


def clip(text: str, voice: str, name: str) -> Any:
    """A clip of ``text`` at 16 kHz, float32 in [-1, 1]; kept on disk."""
    path = CLIPS / f"{name}.wav"
    if not path.is_file():
        CLIPS.mkdir(parents=True, exist_ok=True)
        subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", str(path), text], check=True)
    rate, samples = wavfile.read(path)
    return resample_poly(samples / 32768, RATE, rate).astype(numpy.float32)


class Speech(Subject):
    """Word error on sentences of books (whose other sentences calibrate) and of captions and news."""

    metric, headline = "word error", "books, spoken"
    texts = (("books, spoken", "classic-books/test.parquet", "text"), ("STS-B, spoken", "stsb/dev.csv", "sentence1"))

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if shutil.which("espeak-ng") is None:
            raise DataError("espeak-ng is not installed, and without it there are no clips: apt-get install espeak-ng.")
        self.features: Any = AutoFeatureExtractor.from_pretrained(self.folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)

    @property
    def processors(self) -> tuple[Any, Any]:
        """Tokenizer and feature extractor, which are saved beside the compressed model."""
        return self.tokenizer, self.features

    def spoken(self, texts: Sequence[str], name: str) -> Any:
        """Spectrograms ``[clips, 80, 3000]``."""
        clips = [clip(text, VOICES[i % len(VOICES)], f"{name}-{i}") for i, text in enumerate(texts)]
        return self.features(clips, sampling_rate=RATE, return_tensors="pt")["input_features"]

    def calibration(self, other: bool) -> Any:
        """Clips with what is said in them, as the decoder reads it."""
        texts = sentences("classic-books/valid.parquet", "text", self.model.samples)
        self.tokenizer.set_prefix_tokens(**LANGUAGE, predict_timestamps=False)
        heard = self.spoken(texts, "calibration")
        said = [self.tokenizer(f" {text}", return_tensors="pt")["input_ids"][0][:-1] for text in texts]
        pairs = zip(heard, said, strict=True)
        return [{"input_features": sound, "decoder_input_ids": ids} for sound, ids in pairs]

    def sets(self) -> Sets:
        return {}

    def transcribed(self, module: nn.Module, texts: Sequence[str], name: str) -> list[str]:
        """What the model hears in clips of the texts."""
        any_module: Any = module
        found: list[str] = []
        for part in self.spoken(texts, name).split(8):
            with torch.inference_mode():
                ids = any_module.generate(input_features=part, max_new_tokens=48, do_sample=False, **LANGUAGE)
            found += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return found

    def scores(self, module: nn.Module) -> dict[str, float]:
        found = {}
        for name, path, column in self.texts:
            texts = sentences(path, column, self.model.rows)
            heard = self.transcribed(module, texts, path.partition("/")[0])
            wrong = sum(word_errors(words(a), words(b)) for a, b in zip(heard, texts, strict=True))
            found[name] = wrong / sum(len(words(text)) for text in texts)
        return found

    def answers(self, module: nn.Module) -> Answers | None:
        """The likeliest next tokens, the right ones before them given."""
        any_module: Any = module
        samples = self.calibration(False)[:8]
        with torch.inference_mode():
            said = [
                any_module(**{key: value[None] for key, value in sample.items()}).logits[0].argmax(-1)
                for sample in samples
            ]
        return Classes(torch.cat(said))

    def shown(self, module: nn.Module) -> str:
        texts = sentences("classic-books/test.parquet", "text", 1)
        return f"{self.transcribed(module, texts, 'classic-books')[0].strip()} (said: {texts[0]})"

    def example(self) -> dict[str, Tensor]:
        return {key: value[None] for key, value in self.calibration(False)[0].items()}
