"""Text that a causal model writes itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import takewhile

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.config.source import Writing
from optimum_grail.data.batches import digest
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.selfgen import _cache, _draw, _nucleus, cache_row_bytes, generate_self_text
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError, StatisticsError


def test_rows_are_full_and_hold_no_special_tokens(llama, tokenizer) -> None:
    text = generate_self_text(llama, tokenizer, num_samples=20, seqlen=24).ids
    assert text.shape == (20, 24) and text.dtype == torch.int64
    assert (text[:, 0] == tokenizer.bos_token_id).all()
    rest = text[:, 1:]
    assert not torch.isin(rest, torch.tensor(tokenizer.all_special_ids)).any()
    assert rest.max() < len(tokenizer)  # rows of the embedding that no token uses
    assert len(rest.unique(dim=0)) == 20


def test_the_same_seed_gives_the_same_text_and_leaves_the_global_state_alone(llama, tokenizer) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = generate_self_text(llama, tokenizer, num_samples=6, seqlen=12, seed=5).ids
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, generate_self_text(llama, tokenizer, num_samples=6, seqlen=12, seed=5).ids)
    assert not torch.equal(first, generate_self_text(llama, tokenizer, num_samples=6, seqlen=12, seed=6).ids)


def test_without_bos_rows_begin_with_random_ordinary_tokens(llama, tokenizer) -> None:
    model, plain = copy.deepcopy(llama), copy.deepcopy(tokenizer)
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    plain.bos_token = None
    first = generate_self_text(model, plain, num_samples=64, seqlen=2).ids[:, 0]
    assert len(first.unique()) > 20
    assert not torch.isin(first, torch.tensor(plain.all_special_ids)).any()


def test_the_cache_budget_bounds_the_batch(llama, tokenizer) -> None:
    assert cache_row_bytes(llama, 10) == 2 * 2 * 2 * 8 * 10 * 4  # keys and values, layers, heads, width, tokens, bytes
    seen = []
    handle = llama.register_forward_hook(lambda _, args, kwargs, out: seen.append(len(out.logits)), with_kwargs=True)
    try:
        text = generate_self_text(
            llama, tokenizer, num_samples=7, seqlen=10, cache_bytes=3 * cache_row_bytes(llama, 10)
        ).ids
    finally:
        handle.remove()
    assert (max(seen), text.shape) == (3, (7, 10))


def test_the_preallocated_cache_gives_the_logits_of_a_plain_forward(llama) -> None:
    ids = torch.randint(3, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    cache = _cache(llama, 20)
    with torch.no_grad():
        steps = [llama(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(20)]
        whole = llama(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_draws_follow_the_softmax_and_never_hit_a_suppressed_token() -> None:
    logits = torch.tensor([-torch.inf, 0.0, 1.0, 2.0, -torch.inf]).expand(40000, -1)
    points = torch.rand(40000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = _draw(logits, points).flatten()
    share = torch.bincount(drawn, minlength=5) / 40000
    torch.testing.assert_close(share, logits[0].softmax(dim=0), atol=0.01, rtol=0)
    assert share[0] == share[4] == 0


def test_nan_in_the_model_is_an_error_and_the_mode_is_restored(llama, tokenizer) -> None:
    model = copy.deepcopy(llama).train()
    model.model.layers[0].eval()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match="not finite"):
        generate_self_text(model, tokenizer, num_samples=2, seqlen=4)
    assert model.training and not model.model.layers[0].mlp.training and model.model.layers[1].mlp.training


def test_a_vocabulary_of_special_tokens_is_refused(llama, tokenizer) -> None:
    model = copy.deepcopy(llama)
    model.resize_token_embeddings(3)
    with pytest.raises(DataError, match="special"):
        generate_self_text(model, tokenizer, num_samples=2, seqlen=4)


def test_self_is_a_calibration_source(llama, tokenizer) -> None:
    request = DataRequest("self", num_samples=7, seqlen=40, seed=9)
    data = load_calibration(Recipient(llama, tokenizer, causal=True), request)
    assert (data.source, data.samples, data.tokens, data.seqlen) == ("self, seed 9", 7, 280, 40)
    expected = generate_self_text(llama, tokenizer, num_samples=7, seqlen=40, seed=9).ids
    assert torch.equal(data.batches[0].inputs["input_ids"], expected[[0, 1, 2, 3, 5, 6]])


def test_the_default_writing_is_what_no_writing_gives(llama, tokenizer) -> None:
    one = generate_self_text(llama, tokenizer, num_samples=4, seqlen=20)
    other = generate_self_text(llama, tokenizer, num_samples=4, seqlen=20, writing=Writing())
    request = DataRequest({"self": 3}, num_samples=4, seqlen=20)
    data = load_calibration(Recipient(llama, tokenizer, causal=True), request)
    assert torch.equal(one.ids, other.ids) and one.restarts == 0
    assert digest([{"input_ids": row} for row in one.ids]) == data.sha256


def test_a_low_temperature_and_a_small_nucleus_leave_the_likeliest_token(llama, tokenizer) -> None:
    for writing in (Writing(temperature=0.01, top_p=0.2), Writing(top_p=1e-6)):
        text = generate_self_text(llama, tokenizer, num_samples=3, seqlen=12, writing=writing).ids
        with torch.no_grad():
            logits = llama(input_ids=text).logits
        logits[..., tokenizer.all_special_ids] = -torch.inf
        logits[..., len(tokenizer) :] = -torch.inf
        assert torch.equal(logits[:, 1:-1].argmax(dim=-1), text[:, 2:])


def test_the_nucleus_is_the_least_set_of_likely_tokens_with_the_share() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log()
    kept = {share: _nucleus(logits, share).isfinite().flatten().tolist() for share in (0.4, 0.6, 0.8, 0.95)}
    assert kept == {
        0.4: [False, True, False, False],
        0.6: [False, True, True, False],
        0.8: [False, True, True, True],
        0.95: [True, True, True, True],
    }
    assert _nucleus(logits, 1.0) is logits


def test_frequent_starts_follow_the_models_own_text(llama, tokenizer) -> None:
    model = copy.deepcopy(llama)
    model.lm_head.weight.data[40] *= 150  # after some tokens it is certain, after the others it never comes
    often = generate_self_text(model, tokenizer, num_samples=200, seqlen=2, writing=Writing(starts="frequent")).ids
    written = generate_self_text(model, tokenizer, num_samples=200, seqlen=32).ids[:, 8:]
    share = float((written == 40).float().mean())
    assert share > 0.2 and abs(float((often[:, 1] == 40).float().mean()) - share) < 0.12
    assert not torch.isin(often[:, 1], torch.tensor(tokenizer.all_special_ids)).any()


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two rows begin with together."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def test_rows_go_on_from_documents_of_different_lengths(llama, tokenizer, lines) -> None:
    documents = [" ".join(lines[number : number + 8]) for number in range(0, 80, 8)]
    writing = Writing(starts="general", top_p=1e-6)
    text = generate_self_text(llama, tokenizer, num_samples=6, seqlen=48, writing=writing, documents=documents).ids
    whole = [tokenizer(document)["input_ids"] for document in documents]
    lengths = set()
    with torch.no_grad():
        likeliest = llama(input_ids=text).logits[..., 3 : len(tokenizer)].argmax(dim=-1) + 3
    for row, best in zip(text, likeliest, strict=True):
        own = max(_common(row[1:].tolist(), ids) for ids in whole)
        lengths.add(own)
        assert own >= 8 and torch.equal(best[own:-1], row[own + 1 :])
    assert len(lengths) > 2


def test_chats_hold_the_templates_tokens_and_go_on_with_another_instruction(llama, tokenizer) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}<s>{{ m.content[:3] }}</s>{% endfor %}<s>"
    model = copy.deepcopy(llama)
    model.lm_head.weight.data[1] *= 60
    request = DataRequest("self:starts=chat", num_samples=8, seqlen=64)
    data = load_calibration(Recipient(model, chatty, causal=True), request)
    text = torch.cat([batch.inputs["input_ids"] for batch in data.batches])
    assert (text[:, 0] == 0).all() and data.source == "self:starts=chat"
    ends = text == tokenizer.eos_token_id
    begins = text == tokenizer.bos_token_id
    assert ends.sum() > 20 and (ends[:, :-1] <= begins[:, 1:]).all(), "an end of a turn is followed by a beginning"
    assert not (text == tokenizer.pad_token_id).any()
    with pytest.raises(DataError, match="chat template"):
        load_calibration(Recipient(model, tokenizer, causal=True), request)


def test_restarts_are_noted(llama, tokenizer) -> None:
    request = DataRequest({"self:temperature=0.01,loops=restart": 1}, num_samples=4, seqlen=64)
    model = copy.deepcopy(llama)
    model.config.max_position_embeddings = 256
    data = load_calibration(Recipient(model, tokenizer, causal=True), replace(request, seqlen=160))
    (note,) = [note for note in data.notes if "circles" in note]
    assert note.startswith("rows that went round in circles were begun anew ")


@pytest.mark.parametrize("name", ["stories260K-llama", "babyllama105-llama"])
def test_real_models_write_text_they_find_likely(data_dir, name) -> None:
    model = AutoModelForCausalLM.from_pretrained(data_dir / name, dtype=torch.float32)
    tokenizer, _ = load_processors(data_dir / name)
    text = generate_self_text(model, tokenizer, num_samples=8, seqlen=64).ids
    with torch.no_grad():
        own = float(model(input_ids=text, labels=text).loss)
        shuffled = text[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
        other = float(model(input_ids=shuffled, labels=shuffled).loss)
    assert own < 2.5 < other
