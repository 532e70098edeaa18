"""Hooks and replaced forwards last as long as they are wanted, and not longer when something fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.streams.hooks import first, given, hooked, patched_forward


class Scale(nn.Module):
    """Multiplies; complains about negative numbers."""

    def forward(self, x: Tensor, *, by: float = 2.0) -> Tensor:
        if bool((x < 0).any()):
            raise RuntimeError("negative")
        return x * by


def clean(module: nn.Module) -> bool:
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def test_hooks_see_and_change_what_goes_in_and_what_comes_out() -> None:
    model, seen, one = Scale(), [], torch.ones(1)

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return (args[0] + 1,), {"by": 10.0}

    with hooked(before=[(model, before)], after=[(model, lambda module, args, output: output + 0.5)]):
        assert model(one, by=3.0).item() == 20.5
    assert seen == [((one,), {"by": 3.0})]
    assert model(one).item() == 2 and clean(model)


@pytest.mark.parametrize("enter", [lambda m: hooked(after=[(m, print)]), lambda m: patched_forward(m, {"": m.forward})])
def test_nothing_stays_when_the_body_fails(enter: Any) -> None:
    model = Scale()
    with pytest.raises(RuntimeError, match="negative"), enter(model):
        model(-torch.ones(1))
    assert clean(model)


def test_nothing_stays_when_a_later_hook_cannot_be_attached() -> None:
    model = Scale()
    with pytest.raises(AttributeError), hooked(before=[(model, print)], after=[(None, print)]):  # type: ignore[list-item]
        pass
    assert clean(model)


def test_a_forward_that_was_replaced_already_comes_back() -> None:
    model = Scale()
    own = model.forward = lambda x: x - 1  # as accelerate does
    with patched_forward(model, {"": lambda x: x}):
        assert model(torch.ones(1)).item() == 1
    assert model.forward is own


def test_hidden_states_are_found_by_position_and_by_name() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    assert first((x, y)) is x and first(y) is y
    assert given((x, y), {"a": y}) is x and given((), {"a": y, "b": x}) is y
