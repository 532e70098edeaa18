"""Encoder-decoders: the decoder is fitted on what the smaller encoder puts out, and the result writes as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.bart import tiny_bart, tiny_mbart, tiny_whisper
from optimum_grail.architectures.t5 import tiny_mt5, tiny_t5
from optimum_grail.architectures.wav2vec2 import tiny_wav2vec2
from optimum_grail.compressor import GrailCompressor
from optimum_grail.errors import DataError
from optimum_grail.models.resolve import resolve

Sample = dict[str, Tensor]


def batched(sample: Sample) -> Sample:
    """One batch of it; Whisper's samples, as its processor makes them, are batches of one."""
    return {key: value if "input_features" in sample else value[None] for key, value in sample.items()}


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "bart": tiny_bart,
    "mbart": tiny_mbart,
    "mt5": tiny_mt5,
    "t5": tiny_t5,
    "whisper": tiny_whisper,
}


def samples(name: str, count: int = 30) -> list[Sample]:
    draw = torch.Generator().manual_seed(0)

    def text(length: int) -> Tensor:
        return torch.randint(3, 90, (length,), generator=draw)

    if name == "whisper":
        return [
            {"input_features": torch.randn(1, 8, 24, generator=draw), "decoder_input_ids": text(7)[None]}
            for _ in range(count)
        ]
    found = []
    for index in range(count):
        words, said = text(8 + index % 5), text(5 + index % 3)
        masks = {"attention_mask": torch.ones_like(words), "decoder_attention_mask": torch.ones_like(said)}
        found.append({"input_ids": words, "decoder_input_ids": said, **masks})
    return found


@pytest.fixture(scope="module", params=BUILDS, name="run")
def _run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("both") / "out"
    compressor = GrailCompressor(
        BUILDS[request.param](),
        {"sparsity": 0.3, "allocation": "knapsack", "standalone": False, "num_samples": 30},
    )
    compressor.compress(samples(request.param), folder)
    return request.param, compressor, folder


@torch.no_grad()
def test_both_sides_shrink_and_come_back(run: Any) -> None:
    name, compressor, folder = run
    again = type(compressor.model).from_pretrained(folder).eval()
    batch = batched(samples(name, 1)[0])
    assert torch.equal(again(**batch).logits, compressor.model(**batch).logits)
    assert compressor.report.achieved == pytest.approx(0.3, abs=0.03)
    before, after = resolve(BUILDS[name]()).widths, resolve(again).widths
    assert any(after[key] < before[key] for key in before if "encoder" in key)
    assert any(after[key] < before[key] for key in before if "decoder" in key)


@torch.no_grad()
def test_the_smaller_model_writes_with_a_cache_as_without(run: Any) -> None:
    name, compressor, _ = run
    sample = {key: value for key, value in batched(samples(name, 1)[0]).items() if not key.startswith("decoder")}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1}
    if name == "whisper":
        sample["decoder_input_ids"] = torch.tensor([[2, 5]])
    model = compressor.model
    model.generation_config.forced_eos_token_id = None
    written = [
        super(type(model), model).generate(**sample, **options, use_cache=cached)
        if name == "whisper"
        else model.generate(**sample, **options, use_cache=cached)
        for cached in (True, False)
    ]
    assert written[0].shape[1] >= 6 and torch.equal(written[0], written[1])


@torch.no_grad()
def test_it_is_nearer_than_plain_pruning(run: Any) -> None:
    name, compressor, _ = run
    if name == "mt5":
        pytest.skip("its random example has nothing that repairs")
    plain = GrailCompressor(
        BUILDS[name](), {"sparsity": 0.3, "selector": "magnitude", "compensator": "none", "allocation": "uniform"}
    )
    plain.compress(samples(name))
    dense, gaps = BUILDS[name](), []
    for model in (compressor.model, plain.model):
        gap = 0.0
        for sample in samples(name):
            batch = batched(sample)
            gap += float((model(**batch).logits - dense(**batch).logits).square().mean())
        gaps.append(gap)
    assert gaps[0] < gaps[1]


def test_sounds_are_given_as_the_model_takes_them(tmp_path: Path) -> None:
    rows = [{"input_values": torch.randn(100)} for _ in range(12)]
    compressor = GrailCompressor(tiny_wav2vec2(), {"ffn_sparsity": 0.5, "num_samples": 12})
    compressor.compress(rows, tmp_path / "out")
    assert compressor.report.achieved_units["mlp"] == 0.5
    lines = tmp_path / "lines.txt"
    lines.write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"neither text nor images.*as its processor returns them"):
        GrailCompressor(tiny_wav2vec2(), {"ffn_sparsity": 0.5}).compress(str(lines))
