"""Experts at the edges: banks made by hand, experts never chosen, ties, sums of one expert, and what they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.moe import MIXTRAL
from optimum_grail.config.budgets import BUDGETS
from optimum_grail.config.sizes import check_sizes
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.problem import GroupProblem
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.routing import Routing
from optimum_grail.errors import ConfigError, StatisticsError
from optimum_grail.fit import experts
from optimum_grail.models.banks import Routed, is_turned, parameters_per_expert, width_of
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline.footprint import bytes_of, features_of, statistics_of, visiting
from optimum_grail.processes.ranks import ALONE
from optimum_grail.selectors.frequency import Frequency
from optimum_grail.selectors.reap import Reap
from optimum_grail.streams.expert_collect import ExpertCollector
from optimum_grail.streams.probe import Record
from optimum_grail.streams.problems import collector_for


class Bank(nn.Module):
    """Three experts of two channels on four values, without gates inside; ``turned`` and with biases if asked."""

    def __init__(self, turned: bool, biased: bool) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.is_transposed = turned
        up, down = torch.randn(3, 2, 4, generator=draw), torch.randn(3, 4, 2, generator=draw)
        self.up_proj = nn.Parameter(up.mT.contiguous() if turned else up)
        self.down_proj = nn.Parameter(down.mT.contiguous() if turned else down)
        if biased:
            self.up_proj_bias = nn.Parameter(torch.randn(3, 2, generator=draw))
            self.down_proj_bias = nn.Parameter(torch.randn(3, 4, generator=draw))
        self.act_fn = nn.ReLU()


def sent(chosen: list[list[int]], hidden: int = 4) -> Routed:
    """Random states that are sent to ``chosen`` experts, in one sample of so many tokens."""
    draw = torch.Generator().manual_seed(1)
    picked = torch.tensor(chosen)
    states, gates = torch.randn(len(picked), hidden, generator=draw), torch.rand(picked.shape, generator=draw)
    return Routed.of((states,), {"chosen": picked, "gates": gates}, (1, len(picked)))


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@torch.no_grad()
def test_a_turned_bank_is_the_same_bank(biased: bool) -> None:
    plain, turned = Bank(False, biased), Bank(True, biased)
    routed = sent([[0, 1], [1, 2], [2, 0], [0, 2]])
    assert (is_turned(plain), is_turned(turned)) == (False, True)
    assert width_of(plain) == width_of(turned) == 2
    assert parameters_per_expert(plain) == parameters_per_expert(turned) == 16 + 6 * biased
    assert torch.allclose(routed.features(plain), routed.features(turned))
    for expert in range(3):
        rows, _ = routed.rows_of(expert)
        hidden = routed.hidden(plain, expert, rows)
        raised = routed.states[rows] @ plain.up_proj[expert].T + (plain.up_proj_bias[expert] if biased else 0)
        assert torch.allclose(hidden, raised.relu(), atol=1e-6)
        found = hidden @ plain.down_proj[expert].T + (plain.down_proj_bias[expert] if biased else 0)
        assert torch.allclose(routed.outputs(turned, expert, hidden), found, atol=1e-6)


@torch.no_grad()
def test_one_token_and_an_expert_that_nobody_chose() -> None:
    bank, routed = Bank(False, True), sent([[2, 0]])
    rows, gates = routed.rows_of(1)
    assert len(rows) == len(gates) == 0
    assert routed.outputs(bank, 1, routed.hidden(bank, 1, rows)).shape == (0, 4)
    features = routed.features(bank)
    assert features.shape == (1, 1, 6) and not features[..., 2:4].any()
    for expert in range(3):
        own, here = routed.share(bank, expert)
        assert torch.equal(own, features[..., 2 * expert : 2 * expert + 2])
        assert here.tolist() == [[expert != 1]]
    assert torch.equal(routed.rows_of(2)[1], routed.gates[:, 0])


@torch.no_grad()
def test_where_every_expert_is_chosen_all_have_all_rows() -> None:
    routed = sent([[0, 1, 2], [2, 1, 0]])
    for expert in range(3):
        rows, gates = routed.rows_of(expert)
        assert rows.tolist() == [0, 1]
        assert torch.equal(gates, torch.stack([routed.gates[0, expert], routed.gates[1, 2 - expert]]))


def test_states_whose_tokens_do_not_add_up_stay_in_one_row() -> None:
    states, chosen, gates = torch.zeros(6, 4), torch.zeros(6, 1, dtype=torch.int64), torch.ones(6, 1)
    assert Routed.of((states, chosen, gates), {}, (2, 3)).tokens == (2, 3)
    assert Routed.of((states, chosen, gates), {}, (2, 4)).tokens == (6,)
    assert Routed.of((states, chosen, gates), {}).tokens == (6,)


def problem(routing: Routing | None) -> GroupProblem:
    return GroupProblem("layers.0.experts", 4, torch.ones(3, 8, dtype=torch.float64), routing=routing)


def test_choosers_on_ties_and_on_experts_never_chosen() -> None:
    tokens = torch.tensor([5.0, 0.0, 1.0, 5.0], dtype=torch.float64)
    outputs = torch.tensor([5.0, 0.0, 3.0, 5.0], dtype=torch.float64)
    routing = Routing(tokens, tokens / 2, outputs, 6)
    rare = Reap()(problem(routing), 1)
    assert rare.reduction.kept.tolist() == [2]  # one token, but says most where it is chosen
    assert rare.order is not None and rare.order.tolist() == [1, 3, 0, 2]
    assert Frequency()(problem(routing), 1).reduction.kept.tolist() == [0]
    assert Frequency()(problem(routing), 2).reduction.kept.tolist() == [0, 3]
    for chooser in (Reap(), Frequency()):
        assert chooser(problem(routing), 4).reduction.is_identity
        assert 1 not in chooser(problem(routing), 3).reduction.kept
        with pytest.raises(StatisticsError, match="has no routing"):
            chooser(problem(None), 2)


@pytest.fixture
def mixture() -> tuple[Any, Layout]:
    model = MIXTRAL.example()  # type: ignore[misc]
    return model, resolve(model, experts=True)


def sums_of(collector: Any, expert: int | None = None) -> tuple[int, Tensor]:
    """Rows and Gram of what has been collected."""
    found = collector.statistics(False) if expert is None else collector.statistics(expert, False)
    return found.subsets[0].moments.count, found.subsets[0].moments.gram


@torch.no_grad()
def test_sums_of_one_expert_are_a_part_of_all(mixture: tuple[Any, Layout]) -> None:
    model, layout = mixture
    group, width = layout.groups[1], 16
    whole = collector_for(model, group, False, ALONE)
    parts = ExpertCollector.of(group, whole, [0, 1, 3])
    record = Record(routed=sent([[0, 1], [1, 0], [3, 1], [0, 3], [1, 3]], 32))
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    for collector in (whole, parts):
        collector.add(record, None, mask, 0)
    parts.add(Record(), None, mask, 0)  # a call that was not recorded
    assert [parts.rows(expert) for expert in (0, 1, 3)] == [3, 3, 2]
    count, gram = sums_of(whole)
    assert count == 4
    for expert in (0, 1, 3):
        block = slice(expert * width, (expert + 1) * width)
        assert torch.allclose(sums_of(parts, expert)[1], gram[block, block])
    assert not parts.parts  # handed over, and no more here


def test_an_expert_that_no_row_was_sent_to_stays_as_it_is(mixture: tuple[Any, Layout]) -> None:
    model, layout = mixture
    group = layout.groups[1]
    bank = model.get_submodule(group.consumer.module)
    before = bank.down_proj.detach().clone()
    methods: Any = None  # no method is asked where there are no rows
    collector = ExpertCollector.of(group, collector_for(model, group, False, ALONE), range(4))
    told: list[Mapping[str, Any]] = list(experts.ExpertFit(model, methods, 0)._sweep_(collector, group, False))
    assert told == [{"expert": expert, "rows": 0, "features": 16} for expert in range(4)]
    assert torch.equal(bank.down_proj, before)


def test_memory_of_experts(mixture: tuple[Any, Layout], monkeypatch: pytest.MonkeyPatch) -> None:
    model, layout = mixture
    group = layout.groups[1]
    block = bytes_of(model.get_submodule(group.block))
    assert features_of(model, layout, group.name) == 64
    assert statistics_of(model, group, 64) == block + 32 * 64**2
    monkeypatch.setattr(experts, "TOGETHER", 47)
    assert features_of(model, layout, group.name) == 16
    assert statistics_of(model, group, 16) == block + 4 * 32 * 16**2
    one = 2 * 8 * 16 * (16 + 2 * 32)
    for room, several in ((0, 1), (one - 1, 1), (2 * one, 2), (3 * one - 1, 2), (100 * one, 4)):
        monkeypatch.setattr(experts, "SHARE_BYTES", room)
        assert experts.experts_at_once(model, group) == several
    heads = layout.groups[0]
    assert statistics_of(model, heads, 32) == 32 * 32**2
    assert visiting(model, layout) == block + bytes_of(model.get_submodule("model.embed_tokens"))


def test_few_rows_are_told_of_by_name(mixture: tuple[Any, Layout]) -> None:
    groups = [group for group in mixture[1].groups if group.kind == "experts"]
    told: tuple[dict[str, str], ...] = ({"few_rows": "0 2"}, {"few_rows": ""}, {})
    plans = [
        GroupPlan(group, Reduction.keep_all(4), None, diagnostics=item)
        for group, item in zip(groups, told, strict=True)
    ]
    (line,) = experts.experts_with_few_rows(Plan(plans))
    assert f"experts of {groups[0].name} (0 2), fewer than 4 per channel" in line
    assert experts.experts_with_few_rows(Plan(plans[1:])) == []


def sizes(**given: Any) -> dict[str, Any]:
    return {**dict.fromkeys((*BUDGETS, "budget", "round_to")), **given}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sparsity": 0.3, "head_sparsity": 0.5}, r"sparsity=0\.3 and head_sparsity=0\.5 contradict"),
        ({"ffn_sparsity": 0.3, "target_bytes": 9}, r"target_bytes=9 and ffn_sparsity=0\.3 contradict"),
        ({"target_parameters": 8, "target_bytes": 9}, "target_parameters=8 and target_bytes=9 contradict"),
        ({"target_bytes": 9, "budget": "parameters"}, "a size is counted in bytes"),
        ({"experts": 3, "expert_sparsity": 0.5}, "experts=3 and expert_sparsity=0.5 contradict"),
        ({"experts": 3, "round_to": 2}, "experts=3 is no multiple of round_to=2"),
    ],
)
def test_sizes_that_exclude_each_other(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_sizes(sizes(**given))


def test_sizes_that_go_together() -> None:
    check_sizes(sizes())
    check_sizes(sizes(experts=4, round_to=2, ffn_sparsity=0.3, head_sparsity=0.5))
    check_sizes(sizes(target_bytes=9, budget="bytes"))
    check_sizes(sizes(sparsity=0.3, budget="flops", round_to=8))
