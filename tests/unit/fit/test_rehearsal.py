"""Rehearsals: they leave the model alone, tell what a fit would do, and overrule a prediction that is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import nn

from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.fit.rehearsal import Rehearsal
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.obs import Obs
from optimum_grail.survey.findings import Curve, Findings
from optimum_grail.survey.survey import Survey
from optimum_grail.widths import allocate as allocation
from optimum_grail.widths.allocate import Widths, allocate
from optimum_grail.widths.request import Request

METHODS = Methods(Obs(), GrailPlus(), Balanced())
DATA_FREE = Methods(Magnitude(), NoCompensation(), Balanced())


def anything(groups: Sequence[ChannelGroup], width: int) -> bool:
    return True


def batches_of(model: nn.Module, count: int = 20, batch_size: int = 2) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(count):
        sample = {}
        if not isinstance(model, type(tiny_basic())):
            sample["input_ids"] = torch.randint(3, 90, (14,), generator=draw)
        if "llama" not in model.config.model_type:
            size = 16 if "clip" in model.config.model_type else 32
            sample["pixel_values"] = torch.randn(3, size, size, generator=draw)
        samples.append(sample)
    return make_batches(samples, batch_size=batch_size)


def rehearsal_of(model: nn.Module, methods: Methods = METHODS, **batches: int) -> tuple[Rehearsal, Layout]:
    layout, data = resolve(model), batches_of(model, **batches)
    found = Survey(model, layout, data, Silent()).run()
    return Rehearsal(model, layout, methods, data, found.curves, 0), layout


@pytest.mark.parametrize("methods", [METHODS, DATA_FREE], ids=["measured", "data-free"])
@pytest.mark.parametrize("build", [tiny_llama, tiny_clip, tiny_basic])
def test_a_rehearsal_leaves_the_model_alone_and_grows_with_what_goes(
    build: Callable[[], nn.Module], methods: Methods
) -> None:
    model = build()
    state, children = copy.deepcopy(model.state_dict()), [id(module) for module in model.modules()]
    rehearsal, layout = rehearsal_of(model, methods)
    losses = [rehearsal.damage({g.name: max(g.units * part // 4, 1) for g in layout.groups}) for part in (4, 3, 1)]
    assert losses[0] == pytest.approx(0, abs=1e-5) and losses[0] < losses[1] < losses[2]
    assert children == [id(module) for module in model.modules()]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_rehearsal_tells_what_the_fit_on_its_batches_does() -> None:
    model = tiny_llama()
    rehearsal, layout = rehearsal_of(model)
    kept = {group.name: group.units // 2 for group in layout.groups}
    dropped = (layout.stacks[0].blocks[1],)
    expected = {}
    for gone in ((), dropped):
        smaller = copy.deepcopy(model)
        judges = rehearsal.unseen
        assert {batch.split for batch in judges} == {"held"} and not {*map(id, judges)} & {*map(id, rehearsal.few)}
        FitRun(smaller, layout, METHODS, kept, rehearsal.few, 0, Silent(), gone).run_()
        for path in gone:
            smaller.get_submodule(path.rpartition(".")[0])._modules[path.rpartition(".")[2]] = Skip()
        logits = [smaller(**batch.inputs).logits.detach() for batch in judges]
        dense = [model(**batch.inputs).logits.detach() for batch in judges]
        losses = [
            (d.softmax(-1) * (d.log_softmax(-1) - o.log_softmax(-1))).sum(-1).mean()
            for d, o in zip(dense, logits, strict=True)
        ]
        expected[gone] = float(torch.stack(losses).mean())
    # units go in the order of the dense curves here and in the order of the student's in the fit: nearly the same
    for gone, loss in expected.items():
        assert rehearsal.damage(kept, gone) == pytest.approx(loss, rel=0.35)
    assert expected[()] != pytest.approx(expected[dropped], rel=0.02)


class Skip(nn.Module):
    """A block that is not there."""

    def forward(self, hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return hidden


def findings_of(layout: Layout) -> Findings:
    """Curves that find heads worthless, and a first block that does more harm than the others."""
    curves = {}
    for group in layout.groups:
        errors = torch.linspace(0, 1, group.units + 1, dtype=torch.float64) ** 2
        curves[group.name] = Curve(errors, torch.arange(group.units - 1), 1e-3 if group.kind == "heads" else 1.0)
    blocks = layout.stacks[0].blocks
    drops = {path: torch.tensor(0.4 - 0.1 * index, dtype=torch.float64) for index, path in enumerate(blocks)}
    return Findings(curves, {"drops": drops})


def judged(layout: Layout, method: Balanced, best: Callable[[Mapping[str, int], Sequence[str]], bool]) -> Widths:
    seen: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def judge(kept: Mapping[str, int], dropped: Sequence[str]) -> float:
        seen.append((tuple(kept.values()), tuple(dropped)))
        return 0.1 if best(kept, dropped) else 0.2

    found = allocate(layout, Request(0.5), method, anything, findings_of(layout), judge)
    assert len(set(seen)) == len(seen) <= 6, "nothing is rehearsed twice, and little at all"
    return found


def test_a_rehearsal_overrules_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "RIVALS", 1e9)
    layout = resolve(tiny_llama())
    predicted = allocate(layout, Request(0.5), Balanced(), anything, findings_of(layout))
    uniform = allocate(layout, Request(0.5), Uniform(), anything)
    assert predicted.kept != uniform.kept
    found = judged(layout, Balanced(), lambda kept, dropped: kept == uniform.kept)
    assert found.kept == uniform.kept and any("Tried on part" in note for note in found.notes)
    kept = judged(layout, Balanced(), lambda kept, dropped: kept == predicted.kept)
    assert kept.kept == predicted.kept and kept.notes == predicted.notes


def test_rivals_that_are_predicted_to_be_far_worse_are_not_rehearsed() -> None:
    layout, findings = resolve(tiny_llama()), findings_of(resolve(tiny_llama()))
    uniform = allocate(layout, Request(0.5), Uniform(), anything).kept
    ours = allocate(layout, Request(0.5), Balanced(), anything, findings)
    damage = sum(curve.damage(uniform[name]) for name, curve in findings.curves.items())
    assert ours.predicted is not None and damage > allocation.RIVALS * ours.predicted
    alone = Findings(findings.curves)  # without any block that may go
    found = allocate(layout, Request(0.5), Balanced(), anything, alone, lambda *_: pytest.fail("rehearsed"))
    assert found.kept == ours.kept


def test_layers_go_where_a_rehearsal_says_so() -> None:
    layout = resolve(tiny_llama())
    blocks = layout.stacks[0].blocks
    found = judged(layout, Balanced(depth=True), lambda kept, dropped: tuple(dropped) == (blocks[1],))
    assert found.dropped == (blocks[1],)
    rest = {name: units for name, units in found.kept.items() if layout.group(name).block != blocks[1]}
    shapes = {(layout.group(name).kind, units) for name, units in rest.items()}
    assert len(shapes) == 2, "one shape for what stays"
    gone = layout.block_parameters // 3 + layout.removed_parameters(rest)
    assert gone == pytest.approx(0.5 * layout.block_parameters, rel=0.02)
    whole = judged(layout, Balanced(depth=True), lambda kept, dropped: not dropped)
    assert whole.dropped == ()
    one = allocate(
        layout,
        Request(0.6),
        Balanced(depth=True),
        anything,
        findings_of(layout),
        lambda kept, dropped: 0.99 ** len(dropped),
    )
    assert one.dropped == (), "a hundredth less is not worth a layer"


def test_layers_stay_where_they_are_protected_or_nothing_can_say_it() -> None:
    layout = resolve(tiny_llama())
    blocks = layout.stacks[0].blocks
    method = Balanced(depth=True, protect="1")
    gone: set[str] = set()

    def judge(kept: Mapping[str, int], dropped: Sequence[str]) -> float:
        gone.update(dropped)
        return 1.0

    allocate(layout, Request(0.4), method, anything, findings_of(layout), judge)
    assert gone == {blocks[0], blocks[2]}
    resnet = resolve(tiny_basic())
    assert judged(resnet, Balanced(depth=True), lambda kept, dropped: bool(dropped)).dropped == ()
