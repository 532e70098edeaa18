"""Gradients by masks and by block weights, against autograd on every sample by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.calibration.batches import Batch, make_batches
from optimum_grail.calibration.stream import capture
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline.blocks import Batches, BlockRun, Streams
from optimum_grail.pipeline.gradients import block_gradients, mask_gradients
from optimum_grail.report.progress import Silent

DRAW = torch.Generator().manual_seed(0)
TEXTS = [{"input_ids": torch.randint(3, 90, (12,), generator=DRAW)} for _ in range(5)]
IMAGES = [{"pixel_values": torch.randn(3, 16, 16, generator=DRAW)} for _ in range(5)]


def padded(rows: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """The rows with masks that leave ever more tokens out."""
    masks = [(torch.arange(12) < 12 - index).long() for index in range(len(rows))]
    return [{**row, "attention_mask": mask} for row, mask in zip(rows, masks, strict=True)]


def single(batch: Batch, index: int) -> dict[str, torch.Tensor]:
    """One sample of a batch."""
    return {name: tensor[index : index + 1] for name, tensor in batch.inputs.items()}


def test_the_mask_gradient_of_a_causal_model_is_weight_times_gradient_of_each_sample() -> None:
    model = tiny_llama().eval()
    layout = resolve(model)
    batches = make_batches(padded(TEXTS), batch_size=3)
    found = mask_gradients(model, layout, batches, 0, Silent())
    rows = [(batch, index) for batch in batches for index in range(len(batch.inputs["input_ids"]))]
    consumer = model.get_submodule("model.layers.1.mlp.down_proj")
    heads = model.get_submodule("model.layers.1.self_attn.o_proj")
    for sample, (batch, index) in enumerate(rows):
        inputs = single(batch, index)
        logits = model(**inputs).logits[:, :-1]
        real = inputs["attention_mask"][:, 1:].bool()
        loss = nn.functional.cross_entropy(logits[real], inputs["input_ids"][:, 1:][real])
        gradients = torch.autograd.grad(loss, [consumer.weight, heads.weight])
        torch.testing.assert_close(
            found["model.layers.1.mlp"][sample].float(), (gradients[0] * consumer.weight).sum(0), rtol=1e-3, atol=1e-5
        )
        by_head = (gradients[1] * heads.weight).sum(0).reshape(4, -1).sum(1)
        torch.testing.assert_close(found["model.layers.1.heads"][sample].float(), by_head, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "samples"),
    [
        pytest.param(tiny_bert, padded(TEXTS), id="bert"),
        pytest.param(tiny_vit, IMAGES, id="vit"),
        pytest.param(tiny_basic, IMAGES, id="resnet"),
        pytest.param(tiny_clip, [a | b for a, b in zip(padded(TEXTS), IMAGES, strict=True)], id="clip"),
    ],
)
def test_every_family_has_mask_gradients_and_is_left_as_it_was(build, samples) -> None:
    model = build().eval()
    layout = resolve(model)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    found = mask_gradients(model, layout, make_batches(samples, batch_size=3), 0, Silent())
    assert {name: rows.shape for name, rows in found.items()} == {g.name: (5, g.units) for g in layout.groups}
    assert all(bool(torch.isfinite(rows).all()) and float(rows.abs().max()) > 0 for rows in found.values())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    again = mask_gradients(model, layout, make_batches(samples, batch_size=3), 0, Silent())
    assert all(torch.equal(rows, again[name]) for name, rows in found.items())


@pytest.mark.parametrize(
    ("build", "samples", "place"),
    [
        pytest.param(tiny_llama, TEXTS, "model.layers.1", id="llama"),
        pytest.param(tiny_basic, IMAGES, None, id="resnet"),
    ],
)
def test_block_gradients_are_those_of_every_sample_by_itself(build, samples, place) -> None:
    model = build().eval()
    layout = resolve(model)
    (stack,) = layout.stacks
    batches = make_batches(samples, batch_size=3)
    captured = capture(model, {stack.name: stack.blocks}, batches)[stack.name]
    path = place or stack.blocks[0]
    block, groups = model.get_submodule(path), layout.of_block(path)
    run = BlockRun(block, path, captured.calls[path], Streams(captured.hidden, None), Batches.of(batches, None), None)
    found = block_gradients(run, groups, model)
    for group in groups:
        weight = model.get_submodule(group.consumer.module).weight
        total = torch.zeros_like(weight)
        for call, hidden in zip(run.calls, captured.hidden, strict=True):
            for index in range(len(hidden)):
                output = call.run(block, hidden.clone())[index]
                total += torch.autograd.grad(output.norm(), weight)[0].square()
        expected = total.sqrt().flatten(1)
        torch.testing.assert_close(found[group.name].float(), expected, rtol=1e-3, atol=1e-5)
