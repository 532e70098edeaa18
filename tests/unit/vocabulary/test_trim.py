"""A model with a smaller vocabulary, in a folder, loaded as any model is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from optimum_grail import Wishes, trim_vocabulary
from optimum_grail.checkpoints.files import written_files
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.config import GrailConfig
from optimum_grail.vocabulary.trim import Trimmed

TEXTS = [
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money.",
]


def trimmed(model: Path, folder: Path, **more: Any) -> Trimmed:
    return trim_vocabulary(model, folder, [*TEXTS], **more)


def settings(folder: Path, name: str, **changes: Any) -> None:
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**values, **changes}), encoding="utf-8")


@torch.no_grad()
def assert_alike(dense: Path, small: Path, texts: list[str]) -> None:
    """Tokens, logits and what is written are the same, but for the numbers."""
    kept = json.loads((small / "grail_vocabulary.json").read_text(encoding="utf-8"))["kept"]
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (dense, small)]
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (dense, small)]
    for text in texts:
        old, new = (tokenizer(text, return_tensors="pt").input_ids for tokenizer in tokenizers)
        assert [kept[id_] for id_ in new[0].tolist()] == old[0].tolist()
        expected, found = (model(ids).logits for model, ids in zip(models, (old, new), strict=True))
        assert torch.equal(found[..., : len(kept)], expected[..., kept])
        assert tokenizers[1].decode(new[0]) == tokenizers[0].decode(old[0])
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        assert getattr(tokenizers[0], name) == getattr(tokenizers[1], name)


def test_the_embedded_model(embedded_llama: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    result = trimmed(embedded_llama, small, eval_dataset={"other": ["Nobody expected marmalade sandwiches."]})
    assert_alike(embedded_llama, small, TEXTS)
    assert (result.tokens_before, result.rows_before) == (4096, 4096)
    assert 256 < result.tokens_after == result.rows_after < 500
    weights = load_file(small / "model.safetensors")
    assert sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) == result.bytes_after
    assert result.data[0].share == 1.0
    assert result.evaluation[0].name == "other" and result.evaluation[0].growth > 0
    assert written_files(small) == {path.name for path in small.iterdir()}
    note = json.loads((small / "grail_vocabulary.json").read_text(encoding="utf-8"))
    assert note["tokens_after"] == result.tokens_after == len(note["kept"]) and note["versions"]
    card = (small / "README.md").read_text(encoding="utf-8")
    assert f"{result.tokens_after:,} of 4,096 tokens stay" in card and "Of the tokens of `other`" in card
    assert card.startswith((embedded_llama / "README.md").read_text(encoding="utf-8").rstrip())


def test_sentencepiece(data_dir: Path, tmp_path: Path) -> None:
    stories = data_dir / "stories260K-llama"
    result = trimmed(stories, tmp_path / "small")
    assert result.tokens_after < result.tokens_before == 512
    assert_alike(stories, tmp_path / "small", TEXTS)
    first, second = (AutoTokenizer.from_pretrained(path) for path in (stories, tmp_path / "small"))
    unknown = "é 中 🙂"  # spelled in bytes by both
    assert second.convert_ids_to_tokens(second(unknown).input_ids) == first.convert_ids_to_tokens(
        first(unknown).input_ids
    )


def test_wordpiece(minilm: Path, tmp_path: Path) -> None:
    result = trimmed(minilm, tmp_path / "small")
    assert result.tokens_after < 0.3 * result.tokens_before
    names = [minilm, tmp_path / "small"]
    first, second = (AutoTokenizer.from_pretrained(path)(TEXTS, padding=True) for path in names)
    kept = json.loads((tmp_path / "small" / "grail_vocabulary.json").read_text(encoding="utf-8"))["kept"]
    assert [[kept[id_] for id_ in row] for row in second.input_ids] == first.input_ids


CLASSES = {
    "GPT2Tokenizer": "byte_level",
    "Qwen2Tokenizer": "byte_level",
    "RobertaTokenizer": "byte_level",
    "LlamaTokenizer": "sentencepiece_bpe",
    "GemmaTokenizer": "sentencepiece_bpe",
    "CLIPTokenizer": "ends_of_words",
    "T5Tokenizer": "unigram",
    "XLMRobertaTokenizer": "unigram",
    "BertTokenizer": "wordpiece",
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_build_their_tokenizer_themselves(
    name: str, named: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    """They take the vocabulary from tokenizer.json and add what their family needs; embeddings have rows to spare."""
    dense, small = tmp_path / "dense", tmp_path / "small"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1100, bos_token_id=0, eos_token_id=0, **sizes))
    model.save_pretrained(dense)
    named(CLASSES[name]).save(str(dense / "tokenizer.json"))
    (dense / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}), encoding="utf-8")
    result = trimmed(dense, small)
    assert result.rows_before == 1100 and result.rows_after == result.tokens_after < 0.6 * result.tokens_before
    assert type(AutoTokenizer.from_pretrained(small)).__name__ == name
    assert_alike(dense, small, TEXTS)


def shared(rows: int) -> Any:
    """Biases of the logits that are no parameters, and one embedding for both sides."""
    sides = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=rows, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32, **sides)
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


def untied(rows: int) -> Any:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=rows, tie_word_embeddings=False, **sizes))


@torch.no_grad()
@pytest.mark.parametrize("make", [shared, untied])
def test_encoder_decoders(make: Callable[[int], Any], named: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    dense, small = tmp_path / "dense", tmp_path / "small"
    named("unigram").save(str(dense.with_suffix(".json")))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(dense.with_suffix(".json")), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(dense)
    start = max(id_ for id_ in tokenizer.get_vocab().values())
    model = make(len(tokenizer) + 28)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": start}
    model.eval().save_pretrained(dense)
    settings(dense, "config.json", **ends)
    settings(dense, "generation_config.json", forced_eos_token_id=1, **ends)
    result = trimmed(dense, small, wishes=Wishes(round_to=8))
    kept = json.loads((small / "grail_vocabulary.json").read_text(encoding="utf-8"))["kept"]
    loaded = AutoModelForSeq2SeqLM.from_pretrained(small).eval()
    assert kept[loaded.config.decoder_start_token_id] == start and loaded.config.vocab_size == result.rows_after
    new = AutoTokenizer.from_pretrained(small)(TEXTS[0], return_tensors="pt").input_ids
    old = torch.tensor(kept)[new]
    expected, found = (net(input_ids=ids, decoder_input_ids=ids).logits for net, ids in ((model, old), (loaded, new)))
    assert torch.equal(found[..., : len(kept)], expected[..., kept])


def test_every_id_of_the_configs(model: Path, tmp_path: Path) -> None:
    """Tokens that a config names stay, and rows without a token are never written."""
    settings(model, "config.json", pad_token_id=4000, eos_token_id=[1, 3999])
    settings(model, "generation_config.json", pad_token_id=4000, suppress_tokens=[4000, 4001], forced_bos_token_id=77)
    result = trimmed(model, tmp_path / "small", wishes=Wishes(round_to=64))
    assert result.rows_after % 64 == 0 and result.rows_after > result.tokens_after
    config, generation, note = (
        json.loads((tmp_path / "small" / name).read_text(encoding="utf-8"))
        for name in ("config.json", "generation_config.json", "grail_vocabulary.json")
    )
    kept = note["kept"]
    assert kept[config["pad_token_id"]] == 4000 and [kept[id_] for id_ in config["eos_token_id"]] == [1, 3999]
    assert config["vocab_size"] == result.rows_after and kept[generation["forced_bos_token_id"]] == 77
    empty = list(range(result.tokens_after, result.rows_after))
    assert generation["suppress_tokens"] == [kept.index(4000), *empty]
    assert result.reasons["named by a config"] == 3
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert loaded.get_input_embeddings().weight[result.tokens_after :].count_nonzero() == 0
    ids = AutoTokenizer.from_pretrained(tmp_path / "small")(TEXTS[0], return_tensors="pt")
    assert int(loaded.generate(**ids, max_new_tokens=8, do_sample=False).max()) < result.tokens_after


def test_a_chat_template_stays_with_its_tokens(model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}Presently {{ m.role }}: {{ m.content }}{% endfor %}"
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(model)
    result = trimmed(model, tmp_path / "small")
    after = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert after.chat_template == template and result.reasons["chat template"] > 0
    assert after.tokenize("Presently user:") == tokenizer.tokenize("Presently user:")


def test_nothing_is_written_where_nothing_is_asked_for(embedded_llama: Path, tmp_path: Path) -> None:
    dry = trimmed(embedded_llama, None)  # type: ignore[arg-type]
    assert dry.output is None and list(tmp_path.iterdir()) == []
    written = trimmed(embedded_llama, tmp_path / "small")
    assert {**written.to_dict(), "output": None} == dry.to_dict()


def test_all_tokens_are_needed(embedded_llama: Path, tmp_path: Path) -> None:
    every = list(AutoTokenizer.from_pretrained(embedded_llama).get_vocab())
    result = trimmed(embedded_llama, tmp_path / "small", wishes=Wishes(keep=every))
    assert result.tokens_after == 4096 and result.bytes_after == result.bytes_before
    first, second = (load_file(path / "model.safetensors") for path in (embedded_llama, tmp_path / "small"))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_twice_is_once(embedded_llama: Path, tmp_path: Path) -> None:
    once = trimmed(embedded_llama, tmp_path / "once")
    twice = trimmed(tmp_path / "once", tmp_path / "twice")
    assert twice.tokens_before == twice.tokens_after == once.tokens_after
    assert_alike(tmp_path / "once", tmp_path / "twice", TEXTS)


def test_folders_of_this_machine_are_not_told(embedded_llama: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXTS[0], encoding="utf-8")
    trim_vocabulary(embedded_llama, tmp_path / "small", str(corpus))
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert "`corpus.txt`" in card and str(tmp_path) not in card


def test_a_compressed_model(embedded_llama: Path, tmp_path: Path) -> None:
    """Layers keep widths of their own; what speaks of the larger vocabulary stays behind."""
    compressor = GrailCompressor.from_pretrained(
        str(embedded_llama), GrailConfig(sparsity=0.2, num_samples=8, seqlen=32)
    )
    compressor.compress(TEXTS * 40, save_directory=tmp_path / "narrow")
    trimmed(tmp_path / "narrow", tmp_path / "small")
    assert_alike(tmp_path / "narrow", tmp_path / "small", TEXTS)
    names = {path.name for path in (tmp_path / "small").glob("grail_*")}
    assert names == {"grail_vocabulary.json", "grail_files.json"}
