"""Whether a difference between an engine and PyTorch is seen, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from optimum_grail.errors import ArchitectureError
from optimum_grail.export.agreement import PROMPT, STEPS, Agreement, compare, insist
from optimum_grail.export.sessions import Session

CONFIG = SimpleNamespace(vocab_size=50, image_size=4, num_channels=3)


class Counting(Session):
    """Logits that depend on every token so far; ``change`` may spoil what a call gives."""

    def __init__(self, change: Callable[[int, Tensor], Tensor] = lambda call, values: values) -> None:
        self.change = change
        self.restart()

    def restart(self) -> None:
        self.calls, self.sum = 0, torch.zeros(2, 1)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        ids = inputs["input_ids"]
        heard = self.sum + (ids * inputs["attention_mask"][:, -ids.shape[1] :]).cumsum(1)
        self.sum, self.calls = heard[:, -1:], self.calls + 1
        return self.change(self.calls, torch.sin(heard[..., None] * torch.arange(1.0, 51.0)))


class Fixed(Session):
    """The same answer to everything."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def restart(self) -> None:
        pass

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.values


def test_the_same_model_agrees() -> None:
    assert compare(Counting(), Counting(), "decoder", CONFIG, True) == Agreement(0.0, 2 * STEPS, 2 * STEPS)


@pytest.mark.parametrize("call", [1, 2, STEPS])
def test_a_difference_at_any_step_is_seen(call: int) -> None:
    spoilt = Counting(lambda now, values: values + torch.arange(50.0) * 1e-3 * (now == call))
    found = compare(spoilt, Counting(), "decoder", CONFIG, True)
    assert 1e-3 < found.worst < 0.1


def test_no_number_is_no_agreement() -> None:
    spoilt = Counting(lambda now, values: values * torch.nan if now == 3 else values)
    with pytest.raises(ArchitectureError, match="nan"):
        insist(compare(spoilt, Counting(), "decoder", CONFIG, True), "an engine", "LlamaForCausalLM")


def test_what_padding_says_is_of_no_matter() -> None:
    """Nobody reads the outputs at tokens that the mask leaves out."""

    def spoilt(call: int, values: Tensor) -> Tensor:
        values[0, :2] += (call == 1) * torch.arange(50.0)
        return values

    assert compare(Counting(spoilt), Counting(), "decoder", CONFIG, True).worst == 0
    wanted = torch.randn(2, PROMPT, 8, generator=torch.Generator().manual_seed(0))
    got = wanted.clone()
    got[0, -1] += 5
    assert compare(Fixed(got), Fixed(wanted), "encoder", CONFIG, False).worst == 0
    got[1, -1] += 5
    assert compare(Fixed(got), Fixed(wanted), "encoder", CONFIG, False).worst > 1


def test_classes_and_a_single_number() -> None:
    wanted = torch.tensor([[0.1, 0.2, 0.3]])
    assert compare(Fixed(wanted + 7), Fixed(wanted), "image", CONFIG, True) == Agreement(
        pytest.approx(0, abs=1e-6), 1, 1
    )
    assert compare(Fixed(wanted.flip(1)), Fixed(wanted), "image", CONFIG, True).same == 0
    assert compare(Fixed(torch.tensor([[3.0]])), Fixed(torch.tensor([[4.0]])), "image", CONFIG, True).worst == 0.25


@pytest.mark.parametrize(("worst", "same"), [(2e-4, 8), (0.0, 7)])
def test_what_is_not_near_enough(worst: float, same: int) -> None:
    with pytest.raises(ArchitectureError, match=r"an engine computes something else .* of this Model.*Nothing was wr"):
        insist(Agreement(worst, same, 8), "an engine", "Model")
    fine: Any = Agreement(5e-5, 8, 8)
    assert insist(fine, "an engine", "Model") is fine and "8 of 8 answers" in fine.sentence("an engine")
