"""The fit and the survey on small hand-made modules: chains, refits, orders within a block, shared kernel taps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.balanced import Balanced
from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.core.plan import Plan
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ArchitectureError, StatisticsError
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.magnitude import Magnitude
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.wanda import Wanda
from optimum_grail.streams import problems
from optimum_grail.streams.blocks import BlockRun
from optimum_grail.survey.survey import Survey

SPEC = ArchitectureSpec(
    model_types=(),
    blocks=("blocks.*",),
    groups=(Mlp(produce=("up",), consume="down", stream="@block"),),
    main_input="image",
)


class Block(nn.Module):
    """A residual pair of linear layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Blocks in a row; ``between`` happens behind each of them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x, use: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Block(6, 12) for _ in range(3))
            self.head = nn.Linear(6, 4)
        self.between, self.use = between, use
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks[: self.use]:
            x = self.between(block(x))
        return self.head(x)


def batches_of(*shape: int, count: int = 10) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    return make_batches([{"x": torch.randn(*shape, generator=draw)} for _ in range(count)], batch_size=4)


def fit_(
    model: nn.Module, methods: Methods, widths: dict[str, int], batches: Sequence[Batch], spec: Any = SPEC
) -> Plan:
    layout = resolve(model, spec)
    return FitRun(model, layout, methods, layout.widths | widths, batches, 0, Silent()).run_()


PLUS = Methods(Obs(), GrailPlus(), Balanced())
PAPER = Methods(Wanda(), Grail(), Uniform())


@pytest.mark.parametrize("methods", [PLUS, PAPER], ids=["grail-plus", "grail"])
def test_a_broken_chain_of_blocks_is_refused(methods: Methods) -> None:
    """Running such blocks one by one would be wrong, so neither survey nor fit may start."""
    net, batches = Net(lambda x: 2 * x), batches_of(5, 6)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ArchitectureError, match=r"blocks\.1'.*not the output of the block before"):
        fit_(net, methods, {"blocks.0.mlp": 6}, batches)
    with pytest.raises(ArchitectureError, match=r"blocks\.1'.*one block pattern per uninterrupted chain"):
        Survey(net, resolve(net, SPEC), batches, Silent()).run()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_block_that_is_never_called_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"never called block 'blocks\.2'"):
        fit_(Net(use=2), PLUS, {"blocks.0.mlp": 6}, batches_of(5, 6))


@pytest.mark.parametrize("shape", [(6,), (5, 6)], ids=["vectors", "tokens"])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_few_samples_and_single_rows_work(shape: tuple[int, ...], count: int) -> None:
    net = Net()
    batches = batches_of(*shape, count=count)
    curves = Survey(net, resolve(net, SPEC), batches, Silent()).run().curves
    assert all(curve.sensitivity >= 0 for curve in curves.values())
    plan = fit_(net, PLUS, {"blocks.0.mlp": 6, "blocks.2.mlp": 3}, batches)
    assert plan.widths == {"blocks.0.mlp": 6, "blocks.1.mlp": 12, "blocks.2.mlp": 3}
    assert bool(torch.isfinite(net(batches[0].inputs["x"])).all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite_name_their_group(value: float) -> None:
    net, batches = Net(), batches_of(5, 6)
    batches[0].inputs["x"][0, 0, 0] = value
    with pytest.raises(StatisticsError, match=r"blocks\.0\.mlp.*not finite"):
        fit_(net, PLUS, {"blocks.0.mlp": 6}, batches)


def test_text_that_is_all_padding_names_the_group() -> None:
    model = tiny_llama()
    batches = make_batches(
        [{"input_ids": torch.ones(8, dtype=torch.int64), "attention_mask": torch.zeros(8, dtype=torch.int64)}] * 5,
        batch_size=4,
    )
    with pytest.raises(StatisticsError, match=r"layers\.0\.heads.*no calibration rows.*masks"):
        fit_(model, PAPER, {group.name: group.units // 2 for group in resolve(model).groups}, batches, None)


def test_groups_behind_compressed_ones_are_refitted_only_where_the_target_is_the_dense_model() -> None:
    batches = batches_of(40, 6, count=20)
    for methods, refitted in (
        (PLUS, True),
        (Methods(Obs(), GrailPlus(target="self"), Uniform()), False),
        (PAPER, False),
    ):
        net = Net()
        before = copy.deepcopy(net)
        plan = fit_(net, methods, {"blocks.1.mlp": 6}, batches)
        expected = ["blocks.1.mlp", "blocks.2.mlp"] if refitted else ["blocks.1.mlp"]
        assert list(plan) == expected
        assert torch.equal(net.blocks[0].down.weight, before.blocks[0].down.weight)
        assert torch.equal(net.blocks[2].down.weight, before.blocks[2].down.weight) != refitted
        assert torch.equal(net.blocks[2].up.weight, before.blocks[2].up.weight)


class Counting(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def update(self, advance: int, description: str) -> None:
        self.seen += [description] * advance


@pytest.mark.parametrize("dropped", [(), ("blocks.0",), ("blocks.2",)], ids=str)
@pytest.mark.parametrize(
    "methods", [PLUS, PAPER, Methods(Magnitude(), NoCompensation(), Uniform())], ids=["grail-plus", "grail", "no data"]
)
def test_every_group_counts_for_the_progress_once(methods: Methods, dropped: tuple[str, ...]) -> None:
    """Also one that keeps everything, and one whose block is dropped."""
    net, told = Net(), Counting()
    layout = resolve(net, SPEC)
    FitRun(net, layout, methods, {**layout.widths, "blocks.1.mlp": 6}, batches_of(40, 6), 0, told, dropped).run_()
    assert sorted(told.seen) == [group.name for group in layout.groups]


def texts(count: int = 10) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    samples = [{"input_ids": torch.randint(3, 90, (24,), generator=draw)} for _ in range(count)]
    return make_batches(samples, batch_size=4)


def test_later_groups_of_the_first_compressed_block_are_refitted_too() -> None:
    """Heads go, the FFN of the same block keeps everything: its consumer still makes up for what the heads lost."""
    for order, refitted in (("sequential", True), ("joint", False)):
        model = tiny_llama()
        plan = fit_(model, Methods(Obs(), GrailPlus(), Balanced(), order), {"model.layers.2.heads": 2}, texts(), None)
        names = ["model.layers.2.heads", "model.layers.2.mlp"]
        assert list(plan) == names[: 1 + refitted]


def test_joint_measures_the_uncompressed_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    real = BlockRun.measure

    def counted(run: BlockRun, collectors: Any, *rest: Any) -> None:
        passes.append(len(collectors))
        real(run, collectors, *rest)

    monkeypatch.setattr(BlockRun, "measure", counted)
    for order, expected in (("joint", [2, 2, 2]), ("sequential", [1] * 6)):
        passes.clear()
        model = tiny_llama()
        halves = {group.name: group.units // 2 for group in resolve(model).groups}
        fit_(model, Methods(Wanda(), Grail(), Uniform(), order), halves, texts(), None)
        assert passes == expected


def test_within_a_block_the_ffn_sees_the_compressed_heads() -> None:
    """In sequence, the FFN's readout minimises the loss on features that the pruned attention really produces."""
    results = {}
    for order in ("joint", "sequential"):
        model = tiny_llama()
        halves = {group.name: group.units // 2 for group in resolve(model).of_block("model.layers.0")}
        plan = fit_(model, Methods(Magnitude(), Grail(), Uniform(), order), halves, texts(), None)
        results[order] = (model, plan["model.layers.0.mlp"].diagnostics["plain_error"])
    assert results["joint"][1] != results["sequential"][1]
    first, second = (results[order][0].model.layers[0] for order in ("joint", "sequential"))
    assert torch.equal(first.self_attn.o_proj.weight, second.self_attn.o_proj.weight)
    assert not torch.equal(first.mlp.down_proj.weight, second.mlp.down_proj.weight)


def test_the_dense_target_differs_from_the_residual_target() -> None:
    weights = []
    for target in ("residual", "dense", "self"):
        model = tiny_llama()
        halves = {group.name: group.units // 2 for group in resolve(model).groups}
        compensator = GrailPlus(target=target, ridge=1e-2, tau=1.0)
        plan = fit_(model, Methods(Magnitude(), compensator, Uniform()), halves, texts(), None)
        weights.append(model.model.layers[2].mlp.down_proj.weight)
        assert plan["model.layers.0.heads"].diagnostics["chosen"] in ("fit", "plain")
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def images(count: int = 10) -> tuple[Batch, ...]:
    draw = torch.Generator().manual_seed(1)
    samples = [{"pixel_values": torch.randn(3, 32, 32, generator=draw)} for _ in range(count)]
    return make_batches(samples, batch_size=5)


@torch.no_grad()
def test_shared_taps_are_the_published_map_for_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """``W'[o,k,y,x] = Σ_h W[o,h,y,x] B[h,k]`` with the Gram of pixels; exact patches never fit worse."""
    model, batches = tiny_basic(), images()
    group = resolve(model).groups[0]
    consumer = model.get_submodule(group.consumer.module)
    dense, seen = consumer.weight.double(), []
    handle = consumer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in batches:
        model(**batch.inputs)
    handle.remove()
    pixels = torch.cat([x.transpose(0, 1).flatten(1).T for x in seen]).double()
    losses = {}
    for name, limit in (("shared", 0), ("patch", 2 << 30)):
        monkeypatch.setattr(problems, "PATCH_BYTES", limit)
        smaller = copy.deepcopy(model)
        plan = fit_(smaller, Methods(Magnitude(), Grail(), Uniform()), {group.name: 4}, batches, None)
        kept = plan[group.name].reduction.kept
        found = smaller.get_submodule(group.consumer.module).weight.double()
        gap = nn.functional.conv2d(torch.cat(seen).double(), dense, padding=1)
        gap -= nn.functional.conv2d(torch.cat(seen)[:, kept].double(), found, padding=1)
        losses[name] = float(gap.square().sum())
        if name == "shared":
            gram = pixels.T @ pixels
            part = gram[kept][:, kept]
            ridge = 1e-3 * part.diagonal().mean() * torch.eye(4, dtype=torch.float64)
            mapping = gram[:, kept] @ torch.linalg.inv(part + ridge)
            torch.testing.assert_close(found, torch.einsum("ohyx,hk->okyx", dense, mapping), rtol=1e-4, atol=1e-5)
    assert losses["patch"] <= losses["shared"]


def test_plain_pruning_only_gathers() -> None:
    net, dense = Net(), Net()
    plan = fit_(net, Methods(Magnitude(), NoCompensation(), Uniform()), {"blocks.1.mlp": 5}, ())
    kept = plan["blocks.1.mlp"].reduction.kept
    assert torch.equal(net.blocks[1].up.weight, dense.blocks[1].up.weight[kept])
    assert torch.equal(net.blocks[1].down.weight, dense.blocks[1].down.weight[:, kept])
    assert torch.equal(net.blocks[1].down.bias, dense.blocks[1].down.bias)
