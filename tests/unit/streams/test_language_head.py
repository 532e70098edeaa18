"""A language model's head by itself: the same logits, a slice at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.streams import language_head
from optimum_grail.streams.language_head import LanguageHead, run_blocks, short
from optimum_grail.streams.outputs import Outlet, Outputs, divergences


def capped() -> Any:
    """A model that squeezes its logits behind the head."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    config = Gemma2Config(
        vocab_size=96, num_attention_heads=4, num_key_value_heads=2, final_logit_softcapping=1.0, **sizes
    )
    return Gemma2ForCausalLM(config).eval()


def text(rows: int = 3, length: int = 9) -> dict[str, Tensor]:
    ids = torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def head_of(model: Any) -> LanguageHead:
    found = LanguageHead.of(model, short(text()))
    assert found is not None
    return found


@torch.no_grad()
@pytest.mark.parametrize(("build", "direct"), [(tiny_llama, True), (capped, False)])
def test_its_logits_are_the_models(build: Any, direct: bool) -> None:
    model = build()
    head = head_of(model)
    assert head.direct == direct, "what is done behind a head is done by the model's own forward"
    entering = head.entering(text())
    expected = model(**text(), use_cache=False).logits
    torch.testing.assert_close(head.logits(entering.flatten(0, 1)), expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_a_model_without_a_head_has_none() -> None:
    pixels = {"pixel_values": torch.zeros(1, 3, 16, 16)}
    assert LanguageHead.of(tiny_vit(), pixels) is None and LanguageHead.of(nn.Linear(2, 2), {}) is None
    assert LanguageHead.of(tiny_bert(), text()) is None


@torch.no_grad()
@pytest.mark.parametrize("slices", [1, 4 * 96 * 7, 2**24])
def test_a_loss_holds_a_slice_of_logits(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_head, "LOGITS_BYTES", slices)
    dense, other = capped(), capped()
    for parameter in other.model.layers.parameters():
        parameter.mul_(1.5)
    head, other_head, inputs, most = head_of(dense), head_of(other), text(), 0
    real = LanguageHead.logits

    def measured(self: LanguageHead, rows: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(rows))
        return real(self, rows)

    monkeypatch.setattr(LanguageHead, "logits", measured)
    inputs["attention_mask"][1, 5:] = 0
    outlets = [Outlet(model, head) for model in (dense, other)]
    ours, wanted = outlets[1].outputs(inputs), outlets[0].outputs(inputs)
    assert ours.logits is None and wanted.entering is not None
    found, rows = Outlet(other, head).loss(
        Outputs(None, entering=other_head.entering(inputs)), wanted, inputs["attention_mask"]
    )
    whole = [model(**inputs, use_cache=False).logits for model in (dense, other)]
    expected = divergences(whole[0], whole[1], inputs["attention_mask"])
    assert rows == len(expected) == 3 * 9 - 4
    assert found == pytest.approx(float(expected.mean()), rel=1e-3) and found > 0.0001
    assert most <= max(1, slices // (4 * 96))


def test_slopes_are_those_of_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_llama(), text()
    found = []
    for slices in (2**24, 4 * 96 * 2):
        monkeypatch.setattr(language_head, "LOGITS_BYTES", slices)
        outlet = Outlet(model, head_of(model))
        slopes = outlet.slopes(outlet.outputs(inputs), None, torch.Generator().manual_seed(4))
        found.append(slopes.gradients[0])
        assert slopes.scale == 2 * 3 * 9
    assert torch.allclose(found[0], found[1], atol=1e-6) and float(found[0].abs().sum()) > 0


def test_a_pass_for_the_blocks_makes_no_logits() -> None:
    model: Any = tiny_llama()
    calls: list[str] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    model.model.layers[-1].register_forward_hook(lambda *_: calls.append("block"))
    run_blocks(model, text())
    assert calls == ["block"]
    run_blocks(tiny_vit(), {"pixel_values": torch.zeros(1, 3, 16, 16)})


def test_text_is_cut_short_and_images_are_not() -> None:
    assert short({**text(), "use_cache": False})["input_ids"].shape == (1, 4)
    images = {**text(), "pixel_values": torch.zeros(3, 3, 4, 4)}
    assert short(images)["input_ids"].shape == (3, 9)
