"""Agreement of two models' answers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from optimum_grail.errors import StatisticsError
from optimum_grail.evaluation import agreement
from optimum_grail.evaluation.agreement import Answers, Classes, Embeddings
from optimum_grail.evaluation.metrics import Readers
from optimum_grail.evaluation.metrics.perplexity import Perplexity
from optimum_grail.streams import language_head


@pytest.fixture
def windows() -> Tensor:
    return torch.randint(0, 90, (5, 16), generator=torch.Generator().manual_seed(0))


def capped() -> PreTrainedModel:
    """A model that does something to the logits behind its head."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 96, "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, final_logit_softcapping=0.3, initializer_range=0.5))
    return model.eval()


def answers(model: PreTrainedModel, windows: Tensor) -> Answers:
    metric = Perplexity(batch_size=2)
    found = metric.measure(
        model, Readers.of(model, None, None), metric.read([{"input_ids": row} for row in windows]), None
    )
    assert found.answers is not None
    return found.answers


def shaken_(model: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.inference_mode()
def directly(dense: PreTrainedModel, other: PreTrainedModel, windows: Tensor) -> tuple[float, float]:
    """KL and top-1 agreement of whole logits, in float64."""
    p, q = (model(input_ids=windows).logits[:, :-1].double().log_softmax(-1) for model in (dense, other))
    return float((p.exp() * (p - q)).sum(-1).mean()), float((p.argmax(-1) == q.argmax(-1)).double().mean())


@pytest.mark.parametrize("slices", [2**26, 4 * 96 * 7, 1])
def test_it_is_that_of_the_logits_however_they_are_sliced(
    windows: Tensor, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_head, "LOGITS_BYTES", slices)
    dense, other = capped(), shaken_(capped())
    found = answers(other, windows).agreement(answers(dense, windows))
    divergence, same = directly(dense, other, windows)
    assert found["positions"] == 5 * 15
    assert found["kl"] == pytest.approx(divergence, rel=1e-4) and divergence > 1e-3
    assert found["same_token"] == pytest.approx(same) and same < 1


def test_a_model_changed_in_place_is_compared_with_what_it_was(windows: Tensor) -> None:
    model = capped()
    before, dense = answers(model, windows), copy.deepcopy(model)
    found = answers(shaken_(model), windows).agreement(before)
    assert (found["kl"], found["same_token"]) == pytest.approx(directly(dense, model, windows), rel=1e-4)
    assert answers(model, windows).agreement(answers(model, windows))["kl"] == 0


def test_a_head_that_changed_is_noticed(windows: Tensor) -> None:
    model = capped()
    before = answers(model, windows)
    with torch.no_grad():
        model.get_output_embeddings().weight[3] += 0.5
    with pytest.raises(StatisticsError, match="changed the model's head"):
        answers(model, windows).agreement(before)


def test_positions_are_bounded(windows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "POSITIONS", 20)
    dense, other = capped(), shaken_(capped())
    found = answers(other, windows).agreement(answers(dense, windows))
    assert found["positions"] == 20
    p, q = (model(input_ids=windows).logits[:, :-1].flatten(0, 1)[:20].argmax(-1) for model in (dense, other))
    assert found["same_token"] == pytest.approx(float((p == q).double().mean()))


def test_listening_changes_nothing(windows: Tensor, embedded_llama: object) -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded_llama, dtype=torch.float32)
    hooks = len(model.get_output_embeddings()._forward_pre_hooks)
    rows = [{"input_ids": row} for row in windows]
    loss = Perplexity()(model, None, None, rows)["loss"]
    ids = windows[:, 1:, None]
    with torch.no_grad():
        expected = -model(input_ids=windows).logits[:, :-1].log_softmax(-1).gather(2, ids).mean()
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert len(model.get_output_embeddings()._forward_pre_hooks) == hooks


def test_classes_and_embeddings() -> None:
    ours, dense = Classes(torch.tensor([0, 1, 2, 2])), Classes(torch.tensor([0, 1, 1, 2]))
    assert ours.agreement(dense) == {"same_class": 0.75}
    first = Embeddings(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    second = Embeddings(torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    assert first.agreement(second) == {"cosine": 0.5}
