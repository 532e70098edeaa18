"""One model at work."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.evaluation.speed.speed_test import SpeedTest
from optimum_grail.streams.memory import resident_memory


def runner_of(here, path, **sizes):
    return here(path, SpeedTest([path, path], **sizes).prepare()).runner


def test_generation_reads_the_prompt_once_and_then_token_by_token(folders, here):
    """Whatever the checkpoint's own settings for generation: they stop at the first token."""
    runner = runner_of(here, folders["llama"], prompt_tokens=11, new_tokens=5)
    assert runner.load()["seconds"] > 0
    seen = []
    runner._model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = runner.turn(batch=2, passes=1)
    assert seen == [(2, 11), *[(2, 1)] * 4]
    assert list(found) == ["prefill", "decode"] and all(len(spent) == 1 and spent[0] > 0 for spent in found.values())
    seen.clear()
    found = runner.turn(batch=2, passes=3)
    assert len(seen) == 4 * 5, "one more goes before"
    assert [len(spent) for spent in found.values()] == [3, 3]


@pytest.mark.parametrize("name", ["bert", "vit", "clip", "resnet"])
def test_other_models_have_one_part(folders, here, name):
    runner = runner_of(here, folders[name])
    runner.load()
    assert [len(spent) for spent in runner.turn(batch=2, passes=2).values()] == [2]
    facts = runner.facts()
    assert facts["kv_cache_bytes_per_token"] is None and facts["dtype"] == "float32" and facts["device"] == "cpu"


def test_facts_of_a_language_model(folders, here):
    runner = runner_of(here, folders["llama"], prompt_tokens=11, new_tokens=5)
    runner.load()
    config, facts = runner._model.config, runner.facts()
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert facts["kv_cache_bytes_per_token"] == per_token
    assert facts["parameters"] == sum(item.numel() for item in runner._model.parameters())
    assert (facts["bytes"], facts["class"]) == (4 * facts["parameters"], "LlamaForCausalLM")
    assert facts["threads"] == torch.get_num_threads()


@pytest.mark.skipif(resident_memory() is None, reason="the system does not tell")
def test_the_peak_holds_model_and_pass(folders, here, monkeypatch):
    runner = runner_of(here, folders["llama"], prompt_tokens=11, new_tokens=5)
    runner.load()
    weight = torch.ones(2**25)  # 128 MiB that a pass takes for a moment
    before = runner.peak(batch=1)["peak_memory"]
    forward = runner._model.model.forward
    monkeypatch.setattr(runner._model.model, "forward", lambda *a, **k: [weight + 1, forward(*a, **k)][1])
    after = runner.peak(batch=1)["peak_memory"]
    assert after - before > 120 * 2**20
