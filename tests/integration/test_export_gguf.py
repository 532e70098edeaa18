"""Files for llama.cpp, through llama.cpp itself: the same distributions as PyTorch's and the same tokens."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures._tiny import seeded
from optimum_grail.architectures.llama import MISTRAL
from optimum_grail.compressor import GrailCompressor
from optimum_grail.export.gguf.splitting import KNOWN
from optimum_grail.export.run import export_model
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import write_config_
from optimum_grail.models.surgery import narrow_

install()
pytest.importorskip("gguf")
engine = pytest.importorskip("xllamacpp")
STEPS = 16
TOLERANCE = 1e-4
WORDS = ["<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "ab"]
"""Whole characters: what is half a character is left out of the server's answers."""
ROWS = len(WORDS) + 6
"""Of the embeddings, as models have them: a few more than there are tokens."""
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "factor": 4.0,
    "short_factor": [1.0 + 0.1 * index for index in range(8)],
    "long_factor": [1.0 + 0.5 * index for index in range(8)],
    "original_max_position_embeddings": 256,
}
SOME = ((3, 90), (4, 33), (1, 96), (2, 17))
"""Key-value heads and channels by layer."""
Widths = Sequence[tuple[int, int]]


def tiny(family: str, **settings: Any) -> Any:
    """A small random model of a family; vectors are perturbed, so that a forgotten one shows."""
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    model: Any = seeded(lambda: getattr(transformers, f"{family}ForCausalLM")(config))
    with torch.no_grad():
        model.get_output_embeddings().weight[[1, *range(len(WORDS), ROWS)]] = 0  # after an end nothing is said
    return model


def narrowed(model: Any, widths: Widths) -> Any:
    """The model with these key-value heads and channels by layer."""
    layout = resolve(model)
    for index, (heads, channels) in enumerate(widths):
        for group in layout.of_block(f"model.layers.{index}"):
            narrow_(model, group, heads if group.kind == "heads" else channels)
    write_config_(model, layout, {"version": "0"})
    return model


def saved(model: Any, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """The model in a folder, with a tokenizer whose tokens are characters, or with another one."""
    words = Tokenizer(models.BPE({word: index for index, word in enumerate(WORDS)}, [("a", "b")]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    characters = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    (tokenizer or characters).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def served(path: Path, context: int = 256) -> Any:
    """A file in llama.cpp, computing as exactly as it can, in one thread: several wait for each other, and spin."""
    params = engine.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.n_parallel = str(path), context, 0, 1
    params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32  # 16 bits, its default, cost digits
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return engine.Server(params)


def disagreement(model: Any, path: Path, prompt: list[int]) -> tuple[float, int]:
    """Greatest difference of a log-probability in :data:`STEPS` greedy steps, and how many tokens are the same."""
    request = {"prompt": prompt, "max_tokens": STEPS, "temperature": 0, "n_probs": 10_000}
    steps = served(path, context=len(prompt) + 2 * STEPS).handle_completions(request)["choices"][0]["logprobs"][
        "content"
    ]
    written = [step["id"] for step in steps]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1].float()
    worst = 0.0
    for step, wanted in zip(steps, logits.log_softmax(-1), strict=True):
        found = {item["id"]: item["logprob"] for item in step["top_logprobs"]}
        worst = max(worst, max(abs(found[token] - float(wanted[token])) for token in range(len(wanted))))
    return worst, sum(int(token == int(best)) for token, best in zip(written, logits.argmax(-1), strict=True))


PROMPT = [0, 50, 7, 33, 96, 20, 45]


def check(model: Any, folder: Path, form: str, prompt: list[int] = PROMPT, tolerance: float = TOLERANCE) -> None:
    """Save, export, and compare."""
    done = export_model(saved(model, folder / "small"), folder / "small.gguf", "gguf:type=f32")
    assert done.form == form
    reloaded = AutoModelForCausalLM.from_pretrained(folder / "small").eval()
    worst, same = disagreement(reloaded, done.path, prompt)
    assert worst < tolerance
    assert same == STEPS


@pytest.mark.parametrize(
    ("family", "settings", "form"),
    [
        ("Llama", {}, "llama"),
        ("Llama", {"tie_word_embeddings": True}, "llama"),
        ("Llama", {"attention_bias": True, "mlp_bias": True}, "llama"),
        ("Llama", {"rope_parameters": LLAMA3}, "llama"),
        ("Llama", {"rope_parameters": YARN}, "llama"),
        ("Mistral", {"sliding_window": None}, "llama"),
        ("Qwen2", {"num_attention_heads": 4, "num_key_value_heads": 2}, "qwen2"),
        ("Qwen2", {}, "deci"),  # llama.cpp's qwen2 takes heads only as wide as the stream
        ("Qwen3", {}, "qwen3"),
    ],
)
def test_a_dense_model_has_its_own_architecture(family: str, settings: Any, form: str, tmp_path: Path) -> None:
    check(tiny(family, **settings), tmp_path, form)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("Llama", {"rope_parameters": LLAMA3}),
        ("Mistral", {"sliding_window": None}),
        ("Qwen2", {}),
    ],
)
def test_widths_of_their_own(family: str, settings: Any, tmp_path: Path) -> None:
    check(narrowed(tiny(family, **settings), SOME), tmp_path, "deci")


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("widths", "form"),
    [
        (((4, 96), (0, 50), (2, 96), (0, 40)), "deci"),  # without attention
        (((4, 0), (3, 50), (2, 0), (0, 40)), "deci"),  # no feed-forward network, before an attention and before none
        (((4, 50), (3, 50), (2, 30), (1, 0)), "deci"),  # none at the end
        (((0, 50), (3, 50), (2, 30), (1, 10)), "deci"),  # no attention at the beginning
        (((0, 0), (3, 50), (0, 0), (1, 10)), "deci"),  # whole layers
        (((0, 0), (0, 0), (4, 40), (0, 0)), "llama"),  # one layer is left
        (((4, 60), (0, 0), (4, 60), (4, 60)), "llama"),  # what is left is uniform
    ],
)
def test_sub_blocks_that_have_gone(widths: Widths, form: str, biased: bool, tmp_path: Path) -> None:
    """Where there are biases, those of what has gone stay; the very first has no sub-block before it to go to."""
    first = biased and widths[0] == (0, 0)
    check(narrowed(tiny("Llama", attention_bias=biased, mlp_bias=biased), widths), tmp_path, "deci" if first else form)


QWEN3 = replace(MISTRAL, model_types=("qwen3",))


@pytest.mark.parametrize("widths", [SOME, ((0, 50), (2, 30), (3, 0), (4, 96))])
def test_qwen3_with_tied_embeddings(widths: Widths, tmp_path: Path) -> None:
    """Its norms of heads are those of no other; whether a map of the package serves it is of no matter here."""
    with ARCHITECTURES.serving(QWEN3):
        check(narrowed(tiny("Qwen3", tie_word_embeddings=True), widths), tmp_path, "openelm")


def test_two_sets_of_frequencies(tmp_path: Path) -> None:
    """llama.cpp chooses one by its context, transformers by the text's length."""
    model = tiny("Llama", rope_parameters=LONGROPE)
    check(model, tmp_path / "short", "llama")
    check(model, tmp_path / "long", "llama", PROMPT + [index % 90 + 3 for index in range(250)], 5e-4)


def real(source: Path, folder: Path, kind: str = "f32") -> Callable[[str], tuple[list[int], list[int]]]:
    """Export a model that was trained; gives for a text the tokens of llama.cpp and of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    server = served(export_model(source, folder / "real.gguf", {"name": "gguf", "type": kind}).path)

    def both(text: str) -> tuple[list[int], list[int]]:
        """Tokens by llama.cpp's server, over the loopback: there is no other way to ask it."""
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        question = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(question, timeout=20) as answer:
            return json.load(answer)["tokens"], list(tokenizer(text)["input_ids"])

    return both


TEXTS = (
    "Hello, World!  It's 1234 3.5 times\n\n  the élan of 日本 🦙 ?I'm 'Tom' ......==== \t\tx\r\n",
    " leading and trailing ",
    "",
    "<s>marks</s> within<|im_start|>user\nhi<|im_end|>\n",
)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_text_is_split_as_by_the_tokenizer(
    name: str, embedded_llama: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bytewise = name == "byte-level"
    both = real(embedded_llama if bytewise else request.getfixturevalue("data_dir") / "stories260K-llama", tmp_path)
    for text in TEXTS:
        got, wanted = both(text)
        assert got == wanted


STEP: dict[str, Callable[[str], dict[str, Any]]] = {
    "bytes": lambda use: {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": bool(use)},
    "digits": lambda one: {"type": "Digits", "individual_digits": bool(one)},
    "split": lambda text: {"type": "Split", "pattern": {"Regex": text}, "behavior": "Isolated", "invert": False},
}
"""A step of :data:`KNOWN` as tokenizer.json has it."""


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "tekken"])
def test_every_known_way_to_split_is_llama_cpps(name: str, prose: Any, tmp_path: Path) -> None:
    """A tokenizer of that way, made of the text at hand."""
    ((steps, whole),) = [key for key, value in KNOWN.items() if value == name]
    definition = json.loads(Tokenizer(models.BPE(ignore_merges=whole)).to_str())
    nodes = [STEP[kind](value) for kind, value in steps]
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": nodes}
    words, options = Tokenizer.from_str(json.dumps(definition)), {"special_tokens": ["<s>", "</s>"], "vocab_size": 600}
    options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    words.train([str(prose.calibration)], trainers.BpeTrainer(**options))
    model = tiny("Llama", num_hidden_layers=1, vocab_size=600)
    saved(model, tmp_path / "it", PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>"))
    both = real(tmp_path / "it", tmp_path)
    hard = "McDONALD's naïve 12345 ÀÉß we'LL  x\n\n\ny\t\t z 中文abc ½ …!?"
    for text in (*TEXTS, hard, prose.held.read_text("utf-8")[:5000]):
        got, wanted = both(text)
        assert got == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"allocation": "uniform"}, "llama"),
        ({"allocation": "knapsack"}, "deci"),
        ({"allocation": "knapsack", "affine": True}, "deci"),
        ({"allocation": "balanced:depth=true"}, "llama"),
        ({"preset": "comp", "sparsity": 0.5}, "deci"),
    ],
)
def test_what_was_really_compressed(settings: Any, form: str, data_dir: Path, tmp_path: Path) -> None:
    config = {"sparsity": 0.4, "num_samples": 8, "seqlen": 32, **settings}
    compressor = GrailCompressor.from_pretrained(data_dir / "stories260K-llama", config)
    compressor.compress(save_directory=tmp_path / "small")
    done = export_model(tmp_path / "small", tmp_path / "small.gguf", "gguf:type=f32")
    assert done.form == form
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    prompt = AutoTokenizer.from_pretrained(tmp_path / "small")("Once upon a time, there was a")["input_ids"]
    worst, same = disagreement(model, done.path, list(prompt))
    assert worst < TOLERANCE
    assert same == STEPS
