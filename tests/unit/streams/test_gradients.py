"""Gradients by masks and by block weights, against autograd on every sample by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optimum_grail import GrailCompressor, GrailConfig
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import DataError
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.streams.blocks import Batches, BlockRun, Streams
from optimum_grail.streams.capture import capture
from optimum_grail.streams.gradients import block_gradients, check_labels, mask_gradients

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


def test_labels_take_the_place_of_predictions() -> None:
    model = tiny_vit().eval()
    layout = resolve(model)
    classes = torch.tensor([0, 1, 1, 0, 1])
    batches = make_batches([{**row, "labels": c} for row, c in zip(IMAGES, classes, strict=True)], batch_size=3)
    check_labels(model, batches)
    found = mask_gradients(model, layout, batches, 0, Silent())
    group = next(group for group in layout.groups if group.kind == "mlp")
    consumer = model.get_submodule(group.consumer.module)
    rows = [(batch, index) for batch in batches for index in range(len(batch.inputs["pixel_values"]))]
    for sample, (batch, index) in enumerate(rows):
        loss = nn.functional.cross_entropy(model(**single(batch, index)).logits, batch.labels[index : index + 1])
        gradient = torch.autograd.grad(loss, consumer.weight)[0]
        expected = (gradient * consumer.weight).sum(0)
        torch.testing.assert_close(found[group.name][sample].float(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "samples", "labels", "message"),
    [
        pytest.param(tiny_clip, [a | b for a, b in zip(TEXTS, IMAGES, strict=True)], 1, "has no classes", id="clip"),
        pytest.param(tiny_vit, IMAGES, 1000, "go from 1000 to 1000, and ViT.* has .* classes", id="beyond"),
        pytest.param(tiny_vit, IMAGES, [1, 0], r"shape \[3, 2\], expected \[3\]: one class for each", id="shape"),
        pytest.param(tiny_vit, IMAGES, None, "has no labels, expected", id="none"),
    ],
)
def test_labels_that_do_not_fit_are_refused(build, samples, labels, message) -> None:
    given = {} if labels is None else {"labels": torch.tensor(labels)}
    with pytest.raises(DataError, match=message):
        check_labels(build().eval(), make_batches([{**row, **given} for row in samples], batch_size=3))


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


def test_a_run_scores_by_the_labels_it_is_given() -> None:
    plans = []
    for label in (0, 1):
        rows = [{**row, "label": torch.tensor(label)} for row in IMAGES * 2]
        compressor = GrailCompressor(tiny_vit(), GrailConfig(preset="fisher", sparsity=0.4, label_column="label"))
        compressor.compress(rows)
        assert not any("Labels" in warning for warning in compressor.report.warnings)
        plans.append(compressor.plan)
    assert any(plans[0].widths[name] != width for name, width in plans[1].widths.items())


def test_labels_without_use_are_told() -> None:
    compressor = GrailCompressor(tiny_vit(), GrailConfig(preset="wanda", label_column="label"))
    compressor.compress([{**row, "label": torch.tensor(1)} for row in IMAGES * 2])
    assert any("Labels were read and not used" in warning for warning in compressor.report.warnings)
