"""Tiny tokenizers of every kind, trained on the spot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from optimum_grail.data.genres import read_genre

SIZE = 900
DATA = [
    "The quick brown fox jumps over the lazy dog, and the dog does not care at all.",
    "It was the best of times, it was the worst of times; don't ask which.",
    "Numbers such as 1234 and words such as unbelievably long ones are split.\n\nA second paragraph.",
]


def _corpus() -> list[str]:
    return [text[:4000] for text in read_genre("general/fiction")["text"][:20]] + DATA


def byte_level() -> Tokenizer:
    """As in GPT-2; its special token comes first, another one is added at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", tokenizer.token_to_id("<|end|>"))]
    )
    return tokenizer


def whole_words_first() -> Tokenizer:
    """As in LLaMA 3: a word that is a token is that token, whatever the merges say."""
    tokenizer = byte_level()
    tokenizer.model.ignore_merges = True
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """As in LLaMA 2: spaces are characters, and what is not known is spelled in bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        _corpus(), trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False)
    )
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def ends_of_words() -> Tokenizer:
    """As in CLIP: the last character of a word is another symbol than within."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def unigram() -> Tokenizer:
    """As in T5 and XLM-R."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """As in BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        _corpus(), trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


MAKERS = (byte_level, whole_words_first, sentencepiece_bpe, ends_of_words, unigram, wordpiece)


@pytest.fixture(scope="session")
def trained() -> Callable[[Callable[[], Tokenizer]], Tokenizer]:
    """A tokenizer by its maker, trained once."""
    known: dict[str, str] = {}

    def get(make: Callable[[], Tokenizer]) -> Tokenizer:
        if make.__name__ not in known:
            known[make.__name__] = make().to_str()
        return Tokenizer.from_str(known[make.__name__])

    return get


@pytest.fixture(scope="session", params=MAKERS, ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest, trained: Callable[..., Tokenizer]) -> Tokenizer:
    """One of every kind."""
    return trained(request.param)


@pytest.fixture(scope="session")
def data() -> list[str]:
    """Sentences, and every word of them at the beginning of a text and after a space."""
    return [*DATA, *(form for word in words_of(DATA) for form in (word, f"x {word}"))]


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Those of the sentences."""
    return words_of(DATA)


def words_of(texts: list[str]) -> list[str]:
    return sorted({word for text in texts for word in text.split()})


@pytest.fixture(scope="session")
def named(trained: Callable[..., Tokenizer]) -> Callable[[str], Tokenizer]:
    """A tokenizer by its maker's name."""
    return lambda name: trained({make.__name__: make for make in MAKERS}[name])


@pytest.fixture
def model(embedded_llama: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(embedded_llama, tmp_path / "model"))
