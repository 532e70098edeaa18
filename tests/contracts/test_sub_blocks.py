"""Attention and FFNs that go altogether: what is left is the residual stream and, where there is one, a bias."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama, tiny_mistral
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compensators import COMPENSATORS
from optimum_grail.compressor import GrailCompressor
from optimum_grail.config.building import build_method
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import make_batches
from optimum_grail.errors import ArchitectureError, BudgetError
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.headless import Headless
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import apply_, narrow_
from optimum_grail.report.progress import Silent
from optimum_grail.streams.capture import capture
from optimum_grail.streams.probe import Probe, Wanted
from optimum_grail.survey.survey import Survey

DRAW = torch.Generator().manual_seed(0)
IDS = [{"input_ids": torch.randint(3, 60, (12,), generator=DRAW)} for _ in range(10)]
IMAGES = [{"pixel_values": torch.randn(3, 16, 16, generator=DRAW)} for _ in range(10)]
SAMPLES: dict[Callable[[], nn.Module], list[dict[str, Tensor]]] = {
    tiny_llama: IDS,
    tiny_mistral: IDS,
    tiny_bert: IDS,
    tiny_vit: IMAGES,
    tiny_clip: [ids | image for ids, image in zip(IDS, IMAGES, strict=True)],
}
COMP = "block-influence:drop=0.7,parts=sub-blocks"


@pytest.fixture(params=SAMPLES, ids=lambda build: build.__name__, name="build")
def _build(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    return request.param


def inputs_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in SAMPLES[build]][:3]) for name in SAMPLES[build][0]}


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    found = model.eval()(**inputs)
    return torch.cat([value.flatten() for value in found.values() if torch.is_tensor(value)])


def gone(model: nn.Module, group: ChannelGroup) -> GroupPlan:
    outputs = len(model.get_submodule(group.consumer.module).weight)
    return GroupPlan(group, Reduction.drop_all(group.units), Readout(torch.zeros(outputs, 0, dtype=torch.float64)))


def without_(model: nn.Module, parity: int) -> list[ChannelGroup]:
    """Take every other sub-block out; both kinds are among those of either parity in some layer."""
    groups = [g for index, g in enumerate(resolve(model).groups) if (index + index // 2) % 2 == parity]
    apply_(model, Plan([gone(model, group) for group in groups]))
    return groups


@pytest.mark.parametrize("parity", [0, 1])
def test_a_sub_block_without_units_adds_what_one_of_zeros_adds(build: Callable[[], nn.Module], parity: int) -> None:
    model, inputs = build(), inputs_of(build)
    dense = outputs_of(model, inputs)
    zeroed = copy.deepcopy(model)
    groups = without_(model, parity)
    for group in groups:
        nn.init.zeros_(zeroed.get_submodule(group.consumer.module).weight)
    expected = outputs_of(zeroed, inputs)
    assert {group.kind for group in groups} == {"heads", "mlp"} and (expected - dense).abs().max() > 1e-3
    torch.testing.assert_close(outputs_of(model, inputs), expected, atol=1e-5, rtol=1e-4)
    lost = sum(group.cost * group.units for group in groups)
    assert sum(p.numel() for p in zeroed.parameters()) - sum(p.numel() for p in model.parameters()) == lost
    assert [resolve(model).group(group.name).units for group in groups] == [0] * len(groups)
    assert torch.equal(outputs_of(copy.deepcopy(model), inputs), outputs_of(model, inputs))


def test_gradients_reach_everything_that_is_left(build: Callable[[], nn.Module]) -> None:
    model = build()
    without_(model, 0)
    found = model(**inputs_of(build))
    sum(value.float().square().sum() for value in found.values() if torch.is_tensor(value)).backward()
    whole = [group for group in resolve(model).groups if group.units]
    assert whole and all(
        parameter.grad is not None
        for group in whole
        for port in (*group.producers, group.consumer)
        for parameter in model.get_submodule(port.module).parameters()
    )


@pytest.mark.parametrize("compensator", COMPENSATORS.names())
def test_every_compensator_does_what_can_be_done_without_units(
    build: Callable[[], nn.Module], compensator: str
) -> None:
    model, inputs = build(), inputs_of(build)
    layout = resolve(model)
    widths = {group.name: 0 if index % 3 == 1 else group.units // 2 for index, group in enumerate(layout.groups)}
    batches = make_batches(SAMPLES[build], batch_size=4)
    made = COMPENSATORS.get(compensator)()
    methods = Methods(build_method("selector", "wanda", {}), made, build_method("allocation", "uniform", {}))
    plan = FitRun(model, layout, methods, widths, batches, 0, Silent()).run_()
    assert plan.widths == {name: width for name, width in widths.items() if width < layout.group(name).units}
    assert bool(torch.isfinite(outputs_of(model, inputs)).all())
    for name, width in widths.items():
        told = plan[name].diagnostics
        assert width or not told or told["fit_error"] <= told["plain_error"] + 1e-12


@pytest.mark.parametrize("compensator", ["none", "grail-plus"])
def test_saved_and_loaded_it_is_the_same(build: Callable[[], nn.Module], compensator: str, tmp_path: Path) -> None:
    settings = {"selector": "comp", "compensator": compensator, "allocation": COMP, "sparsity": 0.5, "batch_size": 5}
    compressor = GrailCompressor(build(), settings)
    compressor.compress(calibration_dataset=SAMPLES[build], save_directory=tmp_path / "small")
    model, inputs = compressor.model, inputs_of(build)
    expected = outputs_of(model, inputs)
    assert any(group.units == 0 for group in resolve(model).groups)
    assert compressor.report.achieved >= 0.5 and not compressor.report.standalone
    again = type(model).from_pretrained(tmp_path / "small")
    assert torch.equal(outputs_of(again, inputs), expected)
    again.save_pretrained(tmp_path / "again")
    twice = type(model).from_pretrained(tmp_path / "again")
    assert torch.equal(outputs_of(twice, inputs), expected)
    smaller = GrailCompressor(twice, {**settings, "sparsity": 0.2, "allow_recompress": True})
    smaller.compress(calibration_dataset=SAMPLES[build], save_directory=tmp_path / "smaller")
    last = type(model).from_pretrained(tmp_path / "smaller")
    assert torch.equal(outputs_of(last, inputs), outputs_of(smaller.model, inputs))


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral])
def test_generation_counts_tokens_whichever_layer_lost_its_attention(
    build: Callable[[], Any], first: int, tmp_path: Path
) -> None:
    model, ids = build(), IDS[0]["input_ids"][None]
    narrow_(model, resolve(model).groups[2 * first], 0)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    slow = model.generate(ids, use_cache=False, **options)
    assert torch.equal(model.generate(ids, **options), slow)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), slow)


def test_convolutions_keep_a_filter() -> None:
    model = tiny_basic()
    group = resolve(model).groups[0]
    with pytest.raises(ArchitectureError, match="cannot keep 0"):
        narrow_(model, group, 0)
    with pytest.raises(ArchitectureError, match="to 0; the group has"):
        apply_(model, Plan([gone(model, group)]))


def test_attention_is_replaced_once_and_is_still_of_its_class() -> None:
    model = tiny_llama()
    kind = type(model.model.layers[0].self_attn)
    group = resolve(model).groups[0]
    narrow_(model, group, 0)
    (empty,) = [found for found in resolve(model).groups if found.name == group.name]
    narrow_(model, empty, 0)
    attention = model.model.layers[0].self_attn
    assert isinstance(attention, Headless) and isinstance(attention, kind)
    assert [base.__name__ for base in type(attention).__mro__[:3]] == [
        "HeadlessLlamaAttention",
        "Headless",
        kind.__name__,
    ]
    assert type(model.model.layers[1].self_attn) is kind


def test_influence_of_a_sub_block_is_that_of_what_it_adds(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    layout, batches = resolve(model), make_batches(SAMPLES[build], batch_size=10)
    found = Survey(model, layout, batches, Silent(), frozenset({"part-influence"})).run().of("part-influence")
    assert found.keys() == layout.widths.keys()
    stack = layout.stacks[0]
    captured = capture(model, {stack.name: stack.blocks}, batches)[stack.name]
    path = stack.blocks[0]
    groups = layout.of_block(path)
    probe = Probe(model.get_submodule(path), path, groups, Wanted(output=True, stream=True))
    cosines: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    for call, hidden in zip(captured.calls[path], captured.hidden, strict=True):
        probe.run(call, hidden)
        for name, record in probe.records.items():
            after, added = record.stream.double(), record.output.double()
            before = after - added
            cosines[name].append(((before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))).flatten())
    for name, values in cosines.items():
        torch.testing.assert_close(found[name], 1 - torch.cat(values).mean(), rtol=1e-4, atol=1e-6)


def test_parts_of_least_influence_go_and_the_budget_is_met() -> None:
    compressor = GrailCompressor(tiny_llama(), {"preset": "comp", "sparsity": 0.5, "batch_size": 5})
    compressor.compress(calibration_dataset=IDS)
    layout = resolve(compressor.model)
    gone = [group.name for group in layout.groups if group.units == 0]
    assert gone and 0.5 <= compressor.report.achieved < 0.52
    assert any("import optimum_grail" in note for note in compressor.report.warnings)


def test_protected_layers_keep_their_sub_blocks() -> None:
    settings = {"preset": "comp", "allocation": f"{COMP},protect=0/1", "sparsity": 0.25, "batch_size": 5}
    compressor = GrailCompressor(tiny_llama(), settings)
    compressor.compress(calibration_dataset=IDS)
    units = [group.units for group in resolve(compressor.model).groups]
    assert units[:4] == [4, 48, 4, 48] and 0 in units[4:]


def test_a_floor_of_nothing_reaches_further() -> None:
    floor = {"selector": "obs", "sparsity": 0.97, "batch_size": 5}
    with pytest.raises(BudgetError, match="cannot be reached"):
        GrailCompressor(tiny_llama(), {**floor, "allocation": "knapsack"}).compress(calibration_dataset=IDS)
    compressor = GrailCompressor(tiny_llama(), {**floor, "allocation": "knapsack:min_heads=0,min_ffn=0"})
    compressor.compress(calibration_dataset=IDS)
    assert compressor.report.achieved >= 0.97
    assert 0 in resolve(compressor.model).widths.values()


def test_a_standalone_checkpoint_cannot_lack_sub_blocks() -> None:
    settings = {"preset": "comp", "sparsity": 0.5, "standalone": True}
    with pytest.raises(BudgetError, match="free widths per layer"):
        GrailCompressor(tiny_llama(), settings).compress(calibration_dataset=IDS)
