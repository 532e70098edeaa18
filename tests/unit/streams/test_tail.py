"""Sensitivities: the loss against the dense outputs, whatever those are."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.batches import Batch
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.streams.capture import capture
from optimum_grail.streams.outputs import Outputs, loss_against, outputs_of
from optimum_grail.streams.tail import Tail, leaving


def text(rows: int = 3, length: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 90, (rows, length), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def later_of(model: nn.Module, batch: Batch, stack: int = 0) -> tuple[Tail, str, list[Any], list[Tensor]]:
    layout = resolve(model)
    found = layout.stacks[stack]
    tail = Tail.of(model, layout, [batch])
    captured = capture(model, {item.name: item.blocks for item in layout.stacks}, [batch])[found.name]
    return tail, found.name, [(path, captured.calls[path]) for path in found.blocks], captured.hidden


@torch.no_grad()
@pytest.mark.parametrize("family", ["gptj", "bloom", "gpt_neo"])
def test_blocks_that_put_out_tuples_are_passed_by_in_tuples(family: str) -> None:
    """A tensor in place of the tuple would have its first sample taken for all of them."""
    model, batch = ARCHITECTURES.get(family).example(), Batch(text(), "fit")
    dense = model(**batch.inputs).logits
    tail, stack, later, hidden = later_of(model, batch)
    assert tail.damage(stack, later, hidden) == pytest.approx(0, abs=1e-6)
    with leaving(model, tail.stacks, {stack: tail.last[stack][0]}):
        torch.testing.assert_close(model(**batch.inputs).logits, dense)
    with leaving(model, tail.stacks, {stack: tail.last[stack][0].flip(0)}):
        torch.testing.assert_close(model(**batch.inputs).logits, dense.flip(0))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_damage_is_the_mean_divergence_from_the_dense_logits(masked: bool) -> None:
    model, inputs = tiny_llama(), text()
    if masked:
        inputs["attention_mask"][1, 6:] = 0
    dense = model(**inputs).logits.log_softmax(-1)
    tail, stack, later, hidden = later_of(model, Batch(inputs, "fit"))
    assert tail.damage(stack, later, hidden) == pytest.approx(0, abs=1e-6)
    model.model.layers[1].mlp.down_proj.weight.mul_(0.3)
    rows = (dense.exp() * (dense - model(**inputs).logits.log_softmax(-1))).sum(-1)
    expected = rows[inputs["attention_mask"].bool()].mean()
    assert tail.damage(stack, later, hidden) == pytest.approx(float(expected), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("stack", [0, 1])
def test_one_tower_is_damaged_while_the_other_stays_dense(stack: int) -> None:
    model = tiny_clip()
    draw = torch.Generator().manual_seed(2)
    batch = Batch(text() | {"pixel_values": torch.randn(3, 3, 16, 16, generator=draw)}, "fit")
    dense = model(**batch.inputs)
    tail, name, later, hidden = later_of(model, batch, stack)
    other = resolve(model).stacks[1 - stack].blocks[0]
    model.get_submodule(f"{other}.mlp.fc2").weight.mul_(0.5)  # must not count
    model.get_submodule(f"{later[0][0]}.mlp.fc2").weight.mul_(0.5)
    broken = copy.deepcopy(model)
    broken.get_submodule(f"{other}.mlp.fc2").weight.mul_(2)
    after = broken(**batch.inputs)
    expected = 0.0
    for key in ("image_embeds", "text_embeds"):
        expected += float((after[key] - dense[key]).square().sum() / (dense[key] - dense[key].mean(0)).square().sum())
    assert expected > 1e-4
    assert tail.damage(name, later, hidden) == pytest.approx(expected, rel=1e-3)


def test_a_mask_as_wide_as_an_embedding_is_not_taken_for_its_rows() -> None:
    ours, dense, mask = torch.randn(4, 16), torch.randn(4, 16), torch.zeros(4, 16)
    mask[:, :5] = 1
    found = loss_against(Outputs(None, (ours,)), Outputs(None, (dense,)), mask)
    assert found == loss_against(Outputs(None, (ours,)), Outputs(None, (dense,)), None)


def test_hidden_states_count_their_real_rows() -> None:
    ours, dense = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    loss, _ = loss_against(Outputs(None, (ours,)), Outputs(None, (dense,)), mask)
    rows, wanted = ours[mask.bool()], dense[mask.bool()]
    assert loss == pytest.approx(float((rows - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()))


def test_a_single_embedding_is_measured_against_its_size() -> None:
    """It does not vary, so its variance would be zero and every damage astronomic."""
    dense = torch.ones(1, 4)
    assert loss_against(Outputs(None, (dense * 1.1,)), Outputs(None, (dense,)), None)[0] == pytest.approx(
        0.01, rel=1e-3
    )


def test_outputs_are_picked_from_whatever_a_model_returns() -> None:
    tensor = torch.ones(2, 3)
    assert outputs_of(tensor).logits is not None
    assert outputs_of({"logits": tensor, "last_hidden_state": tensor}).logits is not None
    assert len(outputs_of({"image_embeds": tensor, "text_embeds": tensor, "last_hidden_state": tensor}).embeddings) == 2
    assert len(outputs_of({"last_hidden_state": tensor}).embeddings) == 1
    for nothing in (SimpleNamespace(), {"loss": tensor}, (tensor,)):
        with pytest.raises(ArchitectureError, match="--allocation uniform"):
            outputs_of(nothing)
