"""A model after a run: modes and dtypes given back, changes undone or the model marked."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.errors import CheckpointError
from optimum_grail.models.intact import evaluating, kept_intact_, refuse_half_compressed
from optimum_grail.models.precision import cast_


def half_trained() -> nn.Module:
    """A model in bfloat16 whose submodules are in different modes."""
    model = tiny_llama().to(torch.bfloat16).train()
    model.model.layers[0].eval()
    return model


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def replace_a_weight_(model: nn.Module) -> None:
    layer = model.get_submodule("model.layers.1.mlp.down_proj")
    layer.weight = nn.Parameter(layer.get_parameter("weight")[:, :5])


def test_every_submodule_has_its_mode_back_and_new_ones_have_the_models() -> None:
    model = half_trained()
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model).values())
        model.model.layers[0].mlp.act_fn = nn.ReLU()
    assert modes(model) == before | {"model.layers.0.mlp.act_fn": True}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_failed_before_a_weight_was_replaced_left_nothing_behind(error: type[BaseException]) -> None:
    model, undone = half_trained(), []
    before, state = modes(model), copy.deepcopy(model.state_dict())
    with pytest.raises(error), kept_intact_(model) as undo:
        undo.callback(undone.append, "biases")
        cast_(model, torch.float32)
        raise error
    refuse_half_compressed(model)
    assert undone == ["biases"] and modes(model) == before
    assert all(
        value.dtype == state[name].dtype and value.equal(state[name]) for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_failed_after_that_left_a_mark(error: type[BaseException]) -> None:
    model, undone = half_trained(), []
    before = modes(model)
    with pytest.raises(error), kept_intact_(model) as undo:
        undo.callback(undone.append, "biases")
        cast_(model, torch.float32)
        replace_a_weight_(model)
        raise error
    assert undone == [] and modes(model) == before and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for item in (model, copy.deepcopy(model)):
        with pytest.raises(CheckpointError, match=r"half compressed.*Load the dense model again"):
            refuse_half_compressed(item)
        with pytest.raises(CheckpointError, match="half compressed"), kept_intact_(item):
            pytest.fail("the body must not run")


def test_success_keeps_the_changes_unless_it_was_a_look() -> None:
    model, undone = half_trained(), []
    with kept_intact_(model, always=True) as undo:
        undo.callback(undone.append, "biases")
        cast_(model, torch.float32)
    assert undone == ["biases"] and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with kept_intact_(model) as undo:
        undo.callback(undone.append, "again")
        replace_a_weight_(model)
    refuse_half_compressed(model)
    assert undone == ["biases"]
