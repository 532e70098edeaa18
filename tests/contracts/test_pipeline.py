"""Survey, allocation and fit on the example of every architecture map: what holds for one family holds for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations import ALLOCATIONS
from optimum_grail.allocations._curved import Curved
from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures._tiny import one_per_kind
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.contracts import Refit
from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.fit import fit as fit_module
from optimum_grail.fit.classifier import classifiers_of
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import expressible
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.wanda import Wanda
from optimum_grail.streams.blocks import Streams
from optimum_grail.survey.findings import Curve, Findings
from optimum_grail.survey.survey import Survey
from optimum_grail.widths.allocate import allocate
from optimum_grail.widths.request import Request

EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    **{spec.model_types[0]: spec.example for spec in one_per_kind(ARCHITECTURES.specs()) if spec.example},
    "llama": tiny_llama,
    "clip": tiny_clip,
    "resnet-basic": tiny_basic,
}
TEXT = [name for name, build in EXAMPLES.items() if any(s.mask for s in resolve(build()).stacks)]
PLUS = Methods(Obs(), GrailPlus(), Balanced())
PAPER = Methods(Wanda(), Grail(), Uniform(), "joint")
PLAIN = Methods(Magnitude(), NoCompensation(), Uniform())


@pytest.fixture(params=EXAMPLES, name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return EXAMPLES[request.param]()


@pytest.fixture(params=TEXT, name="text_model")
def _text_model(request: pytest.FixtureRequest) -> nn.Module:
    return EXAMPLES[request.param]()


def samples_of(model: nn.Module, count: int = 10, padding: int = 0) -> list[dict[str, Tensor]]:
    """Random inputs: texts of different lengths, padded to one length and ``padding`` further, and images; or what the
    map says, with other random numbers."""
    draw = torch.Generator().manual_seed(1)
    families = {getattr(module.config, "model_type", "") for module in model.modules() if hasattr(module, "config")}
    made = [spec.inputs for spec in ARCHITECTURES.specs() if spec.inputs and families & set(spec.model_types)]
    if made:
        return [drawn(made[0](), index, draw) for index in range(count)]
    config = model.config
    vision = getattr(config, "vision_config", config)
    samples = []
    for index in range(count):
        sample: dict[str, Tensor] = {}
        if hasattr(getattr(config, "text_config", config), "vocab_size") and model.main_input_name != "pixel_values":
            sides = [("", 12, 15), ("decoder_", 6, 9)][: 1 + bool(getattr(config, "is_encoder_decoder", False))]
            for side, length, longest in sides:
                length, longest = length + index % 4, longest + padding
                ids, mask = torch.ones(longest, dtype=torch.int64), torch.zeros(longest, dtype=torch.int64)
                ids[:length], mask[:length] = torch.randint(3, 90, (length,), generator=draw), 1
                sample |= {f"{side}input_ids": ids, f"{side}attention_mask": mask}
        if hasattr(vision, "num_channels"):
            size = getattr(vision, "image_size", 32)
            sample["pixel_values"] = torch.randn(3, size, size, generator=draw)
        samples.append(sample)
    return samples


def drawn(inputs: Mapping[str, Tensor], index: int, draw: torch.Generator) -> dict[str, Tensor]:
    """One sample of ``inputs``, its numbers and tokens drawn anew."""
    sample = {name: tensor[index % len(tensor)] for name, tensor in inputs.items()}
    for name, tensor in sample.items():
        if tensor.is_floating_point():
            sample[name] = torch.randn(tensor.shape, generator=draw)
        elif name.endswith("input_ids"):
            sample[name] = torch.randint(3, 90, tensor.shape, generator=draw)
    return sample


def batches_of(model: nn.Module, batch_size: int = 4, count: int = 10, padding: int = 0) -> tuple[Batch, ...]:
    return make_batches(samples_of(model, count, padding), batch_size=batch_size)


@torch.no_grad()
def outputs_of(model: nn.Module, batch: Batch) -> Tensor:
    result = model(**batch.inputs, return_dict=True)
    names = ("logits", "logits_per_text", "text_embeds", "image_embeds", "last_hidden_state")
    return next(result[name] for name in names if name in result)


def half(model: nn.Module) -> dict[str, int]:
    """Half of the units of every group."""
    return {group.name: group.units // 2 for group in resolve(model).groups}


def fit_(model: nn.Module, methods: Methods, widths: dict[str, int], batches: Sequence[Batch]) -> Plan:
    return FitRun(model, resolve(model), methods, widths, batches, 0, Silent()).run_()


def survey(model: nn.Module, batches: Sequence[Batch]) -> dict[str, Curve]:
    return dict(Survey(model, resolve(model), batches, Silent()).run().curves)


def same_state(model: nn.Module, state: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())


def closeness(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of two models' parameters and buffers, relative to the size of each tensor."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs if a.is_floating_point())


@pytest.mark.parametrize("methods", [PLUS, PAPER], ids=["grail-plus", "grail"])
def test_a_model_gets_smaller_and_still_works(model: nn.Module, methods: Methods) -> None:
    layout, batches = resolve(model), batches_of(model)

    def accepts(groups: Any, width: int) -> bool:
        return all(expressible(model, layout, group, width) for group in groups)

    curves = survey(model, batches) if isinstance(methods.allocation, Curved) else {}
    able = sum(group.cost * group.units for group in layout.groups) / layout.block_parameters
    asked = min(0.4, able / 2)  # experts stay
    widths = allocate(layout, Request(asked), methods.allocation, accepts, Findings(curves))
    plan = FitRun(model, layout, methods, widths.kept, batches, 0, Silent()).run_()
    left = sum(parameter.numel() for parameter in model.parameters())
    gone = layout.total_parameters - left
    assert gone == layout.removed_parameters(widths.kept) >= 0.95 * asked * layout.block_parameters
    assert resolve(model).widths == widths.kept
    assert bool(torch.isfinite(outputs_of(model, batches[0])).all())
    assert set(plan) >= {name for name, width in widths.kept.items() if width < layout.group(name).units}
    for item in plan.values():
        assert item.readout is None
        assert item.reduction.slots == widths.kept.get(item.group.name, item.group.units)  # a classifier keeps all
        assert item.diagnostics["fit_error"] <= item.diagnostics["plain_error"] + 1e-9


@pytest.mark.parametrize("name", ALLOCATIONS.names())
@pytest.mark.parametrize("family", ["llama", "clip", "resnet-basic"])
def test_every_allocation_gets_what_it_needs_and_meets_the_budget(family: str, name: str) -> None:
    model, allocation = EXAMPLES[family](), ALLOCATIONS.get(name)()
    layout, batches = resolve(model), batches_of(model)
    findings = Survey(model, layout, batches, Silent(), allocation.needs).run()
    assert bool(findings.curves) == isinstance(allocation, Curved)
    widths = allocate(layout, Request(0.4, standalone=False), allocation, lambda groups, width: True, findings)
    assert -0.02 < layout.removed_parameters(widths.kept) / layout.block_parameters - 0.4 <= 0.02
    again = Findings.from_tensors(findings.to_tensors())
    assert allocate(layout, Request(0.4, standalone=False), allocation, lambda groups, width: True, again) == widths
    fit_(model, Methods(Obs(), GrailPlus(), allocation), widths.kept, batches)
    assert resolve(model).widths == widths.kept


def test_compensation_brings_the_outputs_nearer(model: nn.Module) -> None:
    batches = batches_of(model, count=40)
    dense = torch.cat([outputs_of(model, batch) for batch in batches])
    gaps = {}
    for name, compensator in {"none": NoCompensation(), "grail": Grail(), "grail-plus": GrailPlus()}.items():
        smaller = copy.deepcopy(model)
        fit_(smaller, Methods(Wanda(), compensator, Uniform()), half(model), batches)
        gaps[name] = float((torch.cat([outputs_of(smaller, batch) for batch in batches]) - dense).square().mean())
    assert gaps["grail-plus"] < gaps["none"] and gaps["grail"] < gaps["none"]


def test_data_free_methods_need_no_batches(model: nn.Module) -> None:
    widths = half(model)
    plan = fit_(model, PLAIN, widths, ())
    assert plan.widths == widths == resolve(model).widths


@pytest.mark.parametrize("methods", [PLUS, PAPER, PLAIN], ids=["grail-plus", "grail", "plain"])
def test_keeping_everything_is_bit_identical(model: nn.Module, methods: Methods) -> None:
    batches = batches_of(model)
    before, state = outputs_of(model, batches[0]), copy.deepcopy(model.state_dict())
    assert len(fit_(model, methods, resolve(model).widths, batches)) == 0
    assert same_state(model, state) and torch.equal(outputs_of(model, batches[0]), before)


def test_a_survey_leaves_the_model_alone_and_tells_every_curve(model: nn.Module) -> None:
    batches = batches_of(model)
    before, state = outputs_of(model, batches[0]), copy.deepcopy(model.state_dict())
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    curves = survey(model, batches)
    assert same_state(model, state) and torch.equal(outputs_of(model, batches[0]), before)
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())
    layout = resolve(model)
    assert list(curves) == [group.name for group in layout.groups]
    for name, curve in curves.items():
        units = layout.group(name).units
        assert len(curve.errors) == units + 1 and len(set(curve.order.tolist())) == units - 1
        assert bool((curve.errors.diff() >= -1e-9).all()) and 0 <= curve.sensitivity < float("inf")
        assert curve.damage(units) == 0 <= curve.damage(1) <= curve.damage(0)
    assert any(curve.sensitivity > 0 for curve in curves.values())


@pytest.mark.parametrize("count", [3, 10], ids=["halves", "held-out"])
def test_padding_does_not_matter(text_model: nn.Module, count: int) -> None:
    results = []
    for padding in (0, 9):
        model = copy.deepcopy(text_model)
        batches = batches_of(model, count=count, padding=padding)
        curves = survey(model, batches)
        plan = fit_(model, PLUS, half(model), batches)
        results.append((model, curves, plan))
    (first, curves, plan), (second, padded_curves, padded_plan) = results
    for name, curve in curves.items():
        torch.testing.assert_close(curve.errors, padded_curves[name].errors, rtol=1e-3, atol=1e-5)
        assert curve.sensitivity == pytest.approx(padded_curves[name].sensitivity, rel=1e-2, abs=1e-5)
        assert torch.equal(plan[name].reduction.assignment, padded_plan[name].reduction.assignment)
    assert closeness(first, second) < 5e-3


@pytest.mark.parametrize("family", ["llama", "clip", "resnet-basic", "bart", "falcon", "olmo2", "opt"])
def test_neither_batch_size_nor_order_matters(family: str) -> None:
    model = EXAMPLES[family]()
    reference = copy.deepcopy(model)
    plan = fit_(reference, PLUS, half(model), batches_of(model, 4))
    curves = survey(model, batches_of(model, 4))
    for batches in (batches_of(model, 1), tuple(reversed(batches_of(model, 10)))):
        other = copy.deepcopy(model)
        found = fit_(other, PLUS, half(model), batches)
        for name, item in plan.items():
            assert torch.equal(item.reduction.assignment, found[name].reduction.assignment)
            assert item.diagnostics["ridge"] == found[name].diagnostics["ridge"]
        assert closeness(other, reference) < 5e-3
        for name, curve in survey(model, batches).items():
            torch.testing.assert_close(curve.errors, curves[name].errors, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("within", "refits"), [("sequential", False), ("joint", False), ("sequential", True)])
def test_streams_are_what_the_models_really_compute(
    model: nn.Module, within: Any, refits: bool, nudge: Refit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Streams] = []

    def recorded(*args: Any) -> Streams:
        seen.append(Streams(*args))
        return seen[-1]

    monkeypatch.setattr(fit_module, "Streams", recorded)
    dense, batches = copy.deepcopy(model), batches_of(model)
    layout = resolve(model)
    spared = layout.stacks[0].blocks[1]  # a block that keeps everything but is refitted
    widths = {name: width for name, width in half(model).items() if layout.group(name).block != spared}
    monkeypatch.setattr("optimum_grail.fit.refitting._worse", lambda now, before: False)
    methods = replace(PLUS, within_block=within, refit=nudge if refits else PLUS.refit)
    plan = fit_(model, methods, layout.widths | widths, batches)
    assert all(item.refitted == refits for name, item in plan.items() if item.group.kind != "heads" and name in widths)
    for stack, streams in zip(layout.stacks, seen, strict=True):
        side = "output" if classifiers_of(model, layout) else "input"  # the last block is run where something follows
        student = recorded_calls(model, stack.blocks[-1], batches, side)
        reached = "output" if layout.of_block(stack.blocks[-1]) else "input"  # of a block without groups
        teacher = recorded_calls(dense, stack.blocks[-1], batches, reached)
        for found, expected in ((streams.student, student), (streams.dense, teacher)):
            assert found is not None and len(found) == len(batches)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def recorded_calls(model: nn.Module, path: str, batches: Sequence[Batch], side: str) -> list[Tensor]:
    """The hidden state that enters or leaves the block at ``path``, per batch."""
    found: list[Tensor] = []

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        leaving = output[0] if isinstance(output, tuple) else output
        found.append((entering if side == "input" else leaving).clone())

    handle = model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
    for batch in batches:
        model(**batch.inputs)
    handle.remove()
    return found
