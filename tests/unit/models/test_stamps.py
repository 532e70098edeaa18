"""What counts as a change of a module, and what does not."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn

from optimum_grail.models.stamps import Stamp, is_as, stamp, tensor_of

NAMES = ("weight", "bias", "running_mean")


def stamped(module: nn.Module) -> dict[str, Stamp]:
    return {name: stamp(module, name) for name in NAMES}


def another(module: nn.Module) -> None:
    module.register_parameter("weight", nn.Parameter(module.get_parameter("weight").detach().clone()))


def extra(module: nn.Module) -> None:
    module.register_parameter("scale", nn.Parameter(torch.ones(1)))


def in_place(name: str) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        with torch.no_grad():
            tensor_of(module, name).add_(0)

    return change


@pytest.mark.parametrize("change", [another, extra, in_place("bias"), in_place("running_mean")])
def test_changes_are_seen(change: Callable[[nn.Module], None]) -> None:
    module = nn.BatchNorm1d(3)
    before = stamped(module)
    assert is_as(module, before)
    change(module)
    assert not is_as(module, before)


def test_a_pass_in_eval_mode_is_no_change() -> None:
    module = nn.BatchNorm1d(3).eval()
    before = stamped(module)
    module(torch.randn(4, 3)).sum().backward()
    assert is_as(module, before)


def test_names_with_dots_are_of_modules_inside() -> None:
    outer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert tensor_of(outer, "0.weight") is outer[0].weight and tensor_of(outer, "1.running_var") is outer[1].running_var
    before = {name: stamp(outer, name) for name, _ in outer.named_parameters()}
    assert is_as(outer, before)
    outer[1].register_parameter("more", nn.Parameter(torch.ones(1)))
    assert not is_as(outer, before)
    with pytest.raises(AttributeError):
        tensor_of(outer, "0.nothing")


def test_a_stamp_keeps_nothing_alive() -> None:
    module = nn.Linear(2, 2)
    held, _ = stamp(module, "weight")
    assert held() is module.weight
    another(module)
    gc.collect()
    assert held() is None
