"""What was measured of the dense model comes back as it was, or is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation.agreement import Classes, Embeddings, NextTokens
from optimum_grail.evaluation.kept import from_tensors, to_tensors
from optimum_grail.evaluation.metrics import Measured
from optimum_grail.streams.language_head import LanguageHead

RESULT = {"accuracy": 0.1 + 0.2, "samples": 7, "protocol": "as they are", "perplexity": math.inf}


def text(value: str) -> Tensor:
    return torch.tensor(list(value.encode()), dtype=torch.uint8)


def read(hidden: Tensor, ids: Tensor) -> dict[str, Tensor]:
    return {"0/hidden": hidden, "0/said": torch.zeros(1, 1), "0/ids": ids}


def test_numbers_and_answers_come_back() -> None:
    model = tiny_llama()
    head = LanguageHead.of(model, {"input_ids": torch.tensor([[5, 7]]), "use_cache": False})
    assert head is not None
    hidden = torch.randn(5, model.config.hidden_size)
    answers = [
        Classes(torch.arange(4)),
        Embeddings(torch.randn(3, 2)),
        NextTokens(head, hidden, head.logits(hidden[:4])),
        None,
    ]
    tensors = to_tensors([Measured(RESULT, item) for item in answers])
    found = from_tensors(tensors, ["accuracy"] * 4, model)
    assert [item.result for item in found] == [RESULT] * 4
    assert [type(item.answers) for item in found] == [Classes, Embeddings, NextTokens, type(None)]
    for one, other in zip(answers[:3], found, strict=False):
        pairs = zip(vars(one).values(), vars(other.answers).values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
    assert found[2].answers.agreement(answers[2]) == answers[2].agreement(answers[2])


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("0/result"),
        lambda found: found.update({"0/result": text("{")}),
        lambda found: found.update({"0/result": text("[" * 100_000)}),
        lambda found: found.update({"0/result": text("[1]")}),
        lambda found: found.update({"0/result": text('{"accuracy": "high"}')}),
        lambda found: found.update({"0/result": text('{"accuracy": {"a": 1}}')}),
        lambda found: found.update({"0/result": text('{"recall": 1}')}),
        lambda found: found.update({"0/result": torch.tensor([255], dtype=torch.uint8)}),
        lambda found: found.update({"0/hidden": torch.zeros(3), "0/said": torch.zeros(1, 1)}),
        lambda found: found.update(read(torch.zeros(3), torch.tensor([[1]]))),
        lambda found: found.update(read(torch.zeros(3, 7), torch.tensor([[1]]))),
        lambda found: found.update(read(torch.zeros(3, 32), torch.tensor([[10**9]]))),
        lambda found: found.update(read(torch.zeros(3, 32), torch.zeros(1000, 1000, dtype=torch.int64))),
    ],
)
def test_what_is_no_result_is_refused(change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = to_tensors([Measured({"accuracy": 1.0})])
    change(tensors)
    with pytest.raises(CheckpointError, match=r"is damaged: .*Delete its state's folder"):
        from_tensors(tensors, ["accuracy"], tiny_llama())
