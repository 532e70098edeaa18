"""Banks of experts and their routers: what they are called with, what they compute, and what surgery leaves of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.moe import GPT_OSS, MIXTRAL, SPECS
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.plan import GroupPlan, Plan
from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.core.spec import ArchitectureSpec, Experts
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.banks import Routed, companions, is_bank, is_router, parameters_per_expert, width_of
from optimum_grail.models.check import check_map
from optimum_grail.models.matrix import from_matrix, main_weight, taps, to_matrix, weights_of
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import apply_, narrow_

FAMILIES = [pytest.param(spec, id=spec.model_types[0]) for spec in SPECS]


def experts_of(model: nn.Module) -> list[ChannelGroup]:
    return [group for group in resolve(model, experts=True).groups if group.kind == "experts"]


def called(model: nn.Module, group: ChannelGroup) -> tuple[nn.Module, Routed, Tensor]:
    """The bank of ``group``, what it is called with on random tokens, and what it puts out."""
    seen: list[tuple[Routed, Tensor]] = []
    bank = model.get_submodule(group.consumer.module)

    def keep(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        seen.append((Routed.of(args, kwargs), output))

    handle = bank.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.randint(3, 90, (3, 8), generator=torch.Generator().manual_seed(2)))
    handle.remove()
    routed, output = seen[0]
    return bank, routed, output.reshape(-1, output.shape[-1])


@pytest.mark.parametrize("spec", FAMILIES)
def test_a_bank_is_one_consumer_of_gated_features(spec: ArchitectureSpec) -> None:
    model = spec.example()  # type: ignore[misc]
    bank, routed, output = called(model, experts_of(model)[0])
    features = routed.features(bank)
    assert features.shape == (24, len(main_weight(bank)) * width_of(bank))
    live = features.unflatten(1, (-1, width_of(bank))).abs().sum(-1) > 0
    assert bool((live.sum(1) <= routed.chosen.shape[1]).all())
    found = features.double() @ to_matrix(bank).T
    for expert in range(len(main_weight(bank))):
        bias = bank._parameters.get("down_proj_bias")
        rows, gates = routed.rows_of(expert)
        if bias is not None:
            found[rows] += (gates[:, None] * bias[expert]).double()
    assert torch.allclose(found, output.double(), atol=1e-5)


@pytest.mark.parametrize("spec", FAMILIES)
def test_what_an_expert_puts_out_adds_up(spec: ArchitectureSpec) -> None:
    model = spec.example()  # type: ignore[misc]
    bank, routed, output = called(model, experts_of(model)[0])
    found = torch.zeros_like(output)
    for expert in range(len(main_weight(bank))):
        rows, gates = routed.rows_of(expert)
        found[rows] += gates[:, None] * routed.outputs(bank, expert, routed.hidden(bank, expert, rows))
    assert torch.allclose(found, output, atol=1e-5)


@pytest.mark.parametrize("spec", FAMILIES)
def test_without_an_expert_the_state_is_sliced(spec: ArchitectureSpec) -> None:
    """What is left is the rows of the others, in every tensor of the bank and the router, and nothing else changes."""
    model = spec.example()  # type: ignore[misc]
    group, before = experts_of(model)[0], copy.deepcopy(model.state_dict())
    keep = torch.tensor([0, 2, 3])
    reduction = Reduction.prune(4, keep)
    bank = model.get_submodule(group.consumer.module)
    weight = reduction.lift_columns(to_matrix(bank), width_of(bank))
    apply_(model, Plan([GroupPlan(group, reduction, Readout(weight))]))
    touched, beside = 0, {table.path: table.axis for table in group.tables}
    for name, tensor in model.state_dict().items():
        sliced = name in beside or name.rpartition(".")[0] in (group.consumer.module, group.producers[0].module)
        touched += sliced
        expected = before[name].index_select(beside.get(name, 0), keep) if sliced else before[name]
        assert torch.equal(tensor, expected), name
    assert touched >= 3
    assert {name for name, _ in companions(bank)} == {name for name, _ in bank.named_parameters()} - {"down_proj"}
    again = experts_of(model)[0]
    assert again.units == 3 and again.chosen == 2 and again.cost == group.cost


@pytest.mark.parametrize("spec", [MIXTRAL, GPT_OSS], ids=["plain", "turned"])
def test_a_bank_is_a_matrix_and_back(spec: ArchitectureSpec) -> None:
    model = spec.example()  # type: ignore[misc]
    bank = model.get_submodule(experts_of(model)[0].consumer.module)
    assert is_bank(bank) and not is_router(bank) and taps(bank) == width_of(bank) == 16
    matrix = to_matrix(bank)
    assert matrix.shape == (32, 64)
    assert torch.equal(from_matrix(matrix, bank).to(main_weight(bank).dtype), main_weight(bank))
    assert from_matrix(matrix[:, :32], bank).shape == (2, *main_weight(bank).shape[1:])
    size = weights_of(model, experts_of(model)[0].consumer.module)
    assert size.columns == 4 and size.rows == parameters_per_expert(bank)
    assert 4 * size.rows == sum(parameter.numel() for parameter in bank.parameters())


def test_a_router_and_an_embedding_are_told_apart() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    assert is_router(model.get_submodule("model.layers.0.mlp.gate"))
    assert not is_router(model.get_submodule("model.embed_tokens")) and not is_router(nn.Linear(4, 4))
    assert not is_bank(nn.Linear(4, 4))


def test_other_arguments_are_refused() -> None:
    states, chosen = torch.zeros(4, 8), torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(ArchitectureError, match=r"expected hidden states, the experts chosen"):
        Routed.of((states, chosen), {})
    with pytest.raises(ArchitectureError, match=r"\(4, 8\)"):
        Routed.of((states, torch.zeros(4, 2), torch.zeros(4, 2)), {})
    assert Routed.of((states[None], chosen), {"gates": torch.zeros(4, 2)}).states.shape == (4, 8)


def test_fewer_experts_than_a_token_goes_through_are_refused() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    group = experts_of(model)[0]
    assert group.fewest == 2
    with pytest.raises(ArchitectureError, match="has 4 units; cannot keep 1"):
        narrow_(model, group, 1)
    weight = torch.zeros(32, 16, dtype=torch.float64)
    with pytest.raises(ArchitectureError, match="reduces 4 units to 1"):
        apply_(model, Plan([GroupPlan(group, Reduction.prune(4, torch.tensor([1])), Readout(weight))]))


def test_experts_are_groups_only_where_they_are_asked_for() -> None:
    model = MIXTRAL.example()  # type: ignore[misc]
    plain, whole = resolve(model), resolve(model, experts=True)
    assert {group.kind for group in plain.groups} == {"heads"}
    assert [group.kind for group in whole.groups] == ["heads", "experts", "expert-channels"] * 3
    assert whole.removed_parameters({whole.groups[1].name: 2}) == 2 * whole.groups[1].cost
    assert len({group.uniform for group in whole.groups if group.kind == "experts"}) == 1


def wrong(change: Callable[[Experts], Experts]) -> ArchitectureSpec:
    """Mixtral's map with its experts changed."""
    heads, experts, channels = MIXTRAL.groups
    return replace(MIXTRAL, groups=(heads, change(experts), channels))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: replace(item, bank="mlp.gate"), "a bank of experts; found MixtralTopKRouter"),
        (lambda item: replace(item, bank="mlp.nothing"), "a bank of experts; found NoneType"),
        (lambda item: replace(item, router="mlp.experts"), "a router; found MixtralExperts"),
        (lambda item: replace(item, chosen="mlp.gate.weight"), "expected how many of the 4 experts"),
        (lambda item: replace(item, attributes=("mlp.gate.top_k",)), "tells of 2 experts, but"),
        (lambda item: replace(item, beside=(("mlp.gate.weight", 0),)), "one element for each of 4 experts"),
        (lambda item: replace(item, beside=(("mlp.nothing", 0),)), "one element for each of 4 experts"),
        (lambda item: replace(item, field="num_hidden_layers"), "cannot be saved, loaded and run"),
    ],
    ids=[
        "not a bank",
        "no bank",
        "not a router",
        "no number",
        "another number",
        "a matrix beside",
        "nothing beside",
        "another field",
    ],
)
def test_a_wrong_map_is_refused(change: Callable[[Experts], Experts], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        check_map(wrong(change))
