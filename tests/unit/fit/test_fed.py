"""Stacks that feed others: what comes later is fitted on, and rehearsed with, what the compressed ones put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.balanced import Balanced
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ArchitectureError
from optimum_grail.fit import fit as fit_module
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import Rehearsal
from optimum_grail.models.depth import drop_blocks_
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.obs import Obs
from optimum_grail.streams.calls import difference
from optimum_grail.streams.capture import Captured, capture
from optimum_grail.streams.gradients import mask_gradients
from optimum_grail.streams.outputs import Outputs, loss_against, outputs_of
from optimum_grail.streams.tail import Tail
from optimum_grail.survey.survey import Survey

PLUS = Methods(Obs(), GrailPlus(), Balanced())
PLAIN = Methods(Obs(), NoCompensation(), Balanced())


def halved(layout: Layout, *stacks: int) -> dict[str, int]:
    """Half of every group of these stacks, all of the others."""
    owners = {layout.stacks[index].owner for index in stacks}
    return {group.name: group.units // 2 if group.owner in owners else group.units for group in layout.groups}


def losses(model: nn.Module, tail: Tail) -> float:
    with torch.no_grad():
        found = [outputs_of(model(**batch.inputs)) for batch in tail.batches]
    rows = [loss_against(ours, whole(tail, dense), None)[0] for ours, dense in zip(found, tail.reference, strict=True)]
    return sum(rows) / len(rows)


@torch.no_grad()
def whole(tail: Tail, outputs: Outputs) -> Outputs:
    """With the logits of a language model, of which only what enters the head is kept."""
    if outputs.entering is None or tail.outlet.head is None:
        return outputs
    return Outputs(torch.stack([tail.outlet.head.logits(sample) for sample in outputs.entering]))


@pytest.mark.parametrize("methods", [PLUS, PLAIN], ids=["two streams", "one stream"])
def test_the_fit_of_a_fed_stack_sees_the_compressed_one(
    fed: Any, methods: Methods, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, layout = copy.deepcopy(fed.model), resolve(fed.model, fed.spec)
    batches, second = fed.batches(8), layout.stacks[1]
    seen: list[tuple[list[Tensor], Any, bool]] = []
    real = FitRun._block_

    def watched(run: FitRun, path: str, groups: Any, calls: Any, streams: Any, *rest: Any) -> Any:
        if path == second.blocks[0]:
            equal = streams.dense is None or streams.equal
            seen.append(([state.clone() for state in streams.student], list(calls.student), equal))
        return real(run, path, groups, calls, streams, *rest)

    monkeypatch.setattr(FitRun, "_block_", watched)
    FitRun(model, layout, methods, halved(layout, 0, 1), batches, 0, Silent()).run_()
    half = copy.deepcopy(fed.model)
    FitRun(half, layout, methods, halved(layout, 0), batches, 0, Silent()).run_()
    for blocks in second.blocks:  # the first stack as that run left it, the second as it was
        half.get_submodule(blocks).load_state_dict(fed.model.get_submodule(blocks).state_dict())
    expected = capture(half, {second.name: second.blocks}, batches)[second.name]
    dense = capture(fed.model, layout.blocks, batches)[second.name]
    hidden, calls, equal = seen[0]
    assert equal, "what feeds a stack is not what it is to make up for"
    assert not unlike(expected, hidden, calls, second.blocks[0])
    assert unlike(dense, hidden, calls, second.blocks[0])


def unlike(found: Captured, hidden: Sequence[Tensor], calls: Sequence[Any], path: str) -> bool:
    """Whether anything differs."""
    states = any(not torch.equal(one, other) for one, other in zip(found.hidden, hidden, strict=True))
    return states or any(
        difference([one.args, one.kwargs], [other.args, other.kwargs], "call") is not None
        for one, other in zip(found.calls[path], calls, strict=True)
    )


def test_what_feeds_others_is_measured_by_what_they_make_of_it(fed: Any) -> None:
    """The loss that the survey measures is that of the whole model, the image encoder's last block included, which
    nobody reads."""
    layout, batches = resolve(fed.model, fed.spec), fed.batches(8)
    tail = Tail.of(fed.model, layout, batches[:1])
    for stack in layout.stacks:
        captured = capture(fed.model, layout.blocks, batches[:1])[stack.name]
        hidden = captured.hidden
        for position, path in enumerate(stack.blocks):
            later = [(p, captured.calls[p]) for p in stack.blocks[position:]]
            assert tail.damage(stack.name, later, hidden) == pytest.approx(0, abs=1e-5)
            model = copy.deepcopy(fed.model)
            consumer = next(g.consumer.module for g in layout.of_block(path) if g.kind == "mlp")
            for each in (model, fed.model):
                each.get_submodule(consumer).weight.data.mul_(0.5)
            assert tail.damage(stack.name, later, hidden) == pytest.approx(losses(model, tail), rel=1e-3, abs=1e-6)
            fed.model.get_submodule(consumer).weight.data.mul_(2)
            hidden = [captured.calls[path][0].run(fed.model.get_submodule(path), hidden[0].clone())]
    curves = Survey(fed.model, layout, batches, Silent()).run().curves
    unread = {"model.vision_tower.encoder.layers.2.heads", "model.vision_tower.encoder.layers.2.mlp"}
    assert {name for name, curve in curves.items() if curve.sensitivity < 1e-6} == unread & curves.keys()


@pytest.mark.parametrize("dropped", [False, True])
def test_a_rehearsal_tells_what_the_fit_of_both_stacks_does(llava: Any, dropped: bool) -> None:
    model, layout, batches = llava.model, resolve(llava.model), llava.batches(24)
    state, children = copy.deepcopy(model.state_dict()), [id(module) for module in model.modules()]
    configs = [copy.deepcopy(config.to_dict()) for config in (model.config, model.model.vision_tower.config)]
    curves = Survey(model, layout, batches, Silent()).run().curves
    rehearsal = Rehearsal(model, layout, PLUS, batches, curves, 0)
    gone = layout.stacks[0].blocks[2:] if dropped else ()
    for stacks in ((0,), (1,), (0, 1)):
        kept, smaller = halved(layout, *stacks), copy.deepcopy(model)
        FitRun(smaller, layout, PLUS, kept, rehearsal.few, 0, Silent(), gone).run_()
        drop_blocks_(smaller, layout, gone)
        expected = losses(smaller, rehearsal.tail)
        assert rehearsal.damage(kept, gone) == pytest.approx(expected, rel=0.2)
    assert children == [id(module) for module in model.modules()]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert configs == [config.to_dict() for config in (model.config, model.model.vision_tower.config)]


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width) for _ in range(2))


class Residual(nn.Module):
    """A residual pair of linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Staged(nn.Module):
    """Stages with something in between, as image models have them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stages = nn.ModuleList([Stage(12), Stage(6)])
            self.between = nn.Linear(12, 6)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.stages[0].blocks:
            x = block(x)
        x = self.between(x)
        for block in self.stages[1].blocks:
            x = block(x)
        return x


STAGED = ArchitectureSpec(
    model_types=(),
    blocks=("stages.0.blocks.*", "stages.1.blocks.*"),
    groups=(Mlp(produce=("up",), consume="down", stream="@block"),),
)


def rows_of(count: int, seed: int) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(12, 12, generator=draw) @ torch.diag(torch.linspace(0.1, 2, 12))
    return make_batches([{"x": torch.randn(20, 12, generator=draw) @ mixed} for _ in range(count)], batch_size=5)


def test_a_later_stage_makes_up_for_the_drift_of_an_earlier_one() -> None:
    dense, model, batches, unseen = Staged(), Staged(), rows_of(40, 1), rows_of(10, 1)
    layout = resolve(dense, STAGED)
    kept = {group.name: 6 if "stages.0" in group.name else 16 for group in layout.groups}
    plan = FitRun(model, layout, PLUS, kept, batches, 0, Silent()).run_()
    assert list(plan) == [group.name for group in layout.groups]
    untouched = copy.deepcopy(model)
    untouched.stages[1] = dense.stages[1]
    with torch.no_grad():
        ours, theirs = (
            sum(float((each(**batch.inputs) - dense(**batch.inputs)).square().sum()) for batch in unseen)
            for each in (model, untouched)
        )
    assert ours < 0.95 * theirs


def test_nothing_is_done_behind_a_stage_that_keeps_everything() -> None:
    model, passes = Staged(), []
    layout = resolve(model, STAGED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "capture_fed", lambda *arguments: passes.append(arguments))
        plan = FitRun(model, layout, PLUS, layout.widths, rows_of(10, 1), 0, Silent()).run_()
    assert list(plan) == [] and passes == []


def test_data_that_reaches_one_stack_only_is_refused_before_anything_changes(llava: Any) -> None:
    layout = resolve(llava.model)
    text = make_batches([{"input_ids": sample["input_ids"][18:]} for sample in llava.samples[:8]], batch_size=2)
    state = copy.deepcopy(llava.model.state_dict())
    runs: list[Callable[[], object]] = [
        FitRun(llava.model, layout, PLUS, halved(layout, 0, 1), text, 0, Silent()).run_,
        Survey(llava.model, layout, text, Silent()).run,
        lambda: mask_gradients(llava.model, layout, text, 0, Silent()),
    ]
    for run in runs:
        with pytest.raises(ArchitectureError, match=r"stack 'model\.vision_tower'.*which has input_ids"):
            run()
    assert all(torch.equal(state[name], value) for name, value in llava.model.state_dict().items())


def test_gradients_reach_an_encoder_whose_last_block_is_not_read(llava: Any) -> None:
    layout = resolve(llava.model)
    found = mask_gradients(llava.model, layout, llava.batches(2), 0, Silent())
    unread = [name for name, gradient in found.items() if not gradient.any()]
    assert unread == [group.name for group in layout.of_block(layout.stacks[0].blocks[-1])]
