"""Features of a block's first consumer are kept: what leads to them runs once, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.allocations.uniform import Uniform
from optimum_grail.architectures.bert import tiny_bert
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.vit import tiny_vit
from optimum_grail.compensators.grail import Grail
from optimum_grail.compensators.grail_plus import GrailPlus
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.check import inputs_for
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.folding import Folding
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.wanda import Wanda
from optimum_grail.streams.calls import Call
from optimum_grail.streams.shortcut import Shortcuts, find_shortcut

METHODS = {
    "plus": Methods(Obs(), GrailPlus(), Uniform()),
    "joint": Methods(Wanda(), Grail(), Uniform(), "joint"),
    "folded": Methods(Folding(), GrailPlus(), Uniform()),
}
BUILDERS = [tiny_llama, tiny_bert, tiny_vit]


def batches_of(model: nn.Module) -> tuple[Batch, ...]:
    inputs = inputs_for(model, resolve(model).stacks[0].spec)
    draw = torch.Generator().manual_seed(3)
    rows = []
    for _ in range(8):
        rows.append(
            {
                name: torch.randn(tensor[0].shape, generator=draw) if tensor.is_floating_point() else tensor[0]
                for name, tensor in inputs.items()
            }
        )
        if "input_ids" in inputs:
            rows[-1]["input_ids"] = torch.randint(3, 90, inputs["input_ids"][0].shape, generator=draw)
    return make_batches(rows, batch_size=2)


def compressed(build: Callable[[], nn.Module], methods: Methods) -> dict[str, Tensor]:
    model = build().eval()
    layout = resolve(model)
    kept = {group.name: max(group.units // 2, 1) for group in layout.groups}
    FitRun(model, layout, methods, kept, batches_of(model), 0, Silent()).run_()
    return model.state_dict()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", BUILDERS)
def test_a_fit_finds_the_same_weights(
    build: Callable[[], nn.Module], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compressed(build, METHODS[name])
    monkeypatch.setattr(Shortcuts, "worthwhile", lambda *_: [])
    for key, expected in compressed(build, METHODS[name]).items():
        torch.testing.assert_close(found[key], expected, atol=1e-4, rtol=1e-3)


def test_attention_runs_once_for_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    attention: Any = type(tiny_llama().get_submodule("model.layers.0.self_attn"))
    real, runs = attention.forward, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        runs += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(attention, "forward", counted)
    compressed(tiny_llama, METHODS["plus"])
    fewer, runs = runs, 0
    monkeypatch.setattr(Shortcuts, "worthwhile", lambda *_: [])
    compressed(tiny_llama, METHODS["plus"])
    blocks, batches = 3, 4
    looks = 2
    assert fewer <= runs - batches * (2 * blocks - 1) + looks, "twice less in every block, once in the last"


class Gated(nn.Module):
    """Attention-like: what its inner module puts out is changed in place before the consumer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.consumer = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.inner(hidden)
        inner.mul_(2)
        found: Tensor = self.consumer(inner)
        return found


class Block(nn.Module):
    """A block around it; with ``later``, what leaves the consumer is changed in place inside the module."""

    def __init__(self) -> None:
        super().__init__()
        self.gated = Gated()

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.gated(hidden)
        return out


def test_what_is_changed_in_place_on_the_way_is_no_shortcut() -> None:
    torch.manual_seed(0)
    block, hidden = Block(), torch.randn(2, 3, 4)
    found = find_shortcut(block, "gated.consumer", Call((), {}), hidden)
    assert found is not None and (found.path, found.behind) == ("gated", True), "not `inner`, whose output is doubled"
    features = torch.randn(2, 3, 4)
    expected = block.gated.consumer(features)
    assert torch.equal(found.forward(block, features)(hidden), expected)
    outer = copy.deepcopy(block)
    outer.gated.register_forward_hook(lambda *_: None)
    outer.gated.forward = lambda hidden: Gated.forward(outer.gated, hidden).mul_(3)  # type: ignore[method-assign]
    assert find_shortcut(outer, "gated.consumer", Call((), {}), hidden) is None


@pytest.mark.parametrize(
    ("build", "path", "behind"),
    [(tiny_llama, "self_attn", True), (tiny_bert, "attention.self", False), (tiny_vit, None, None)],
)
def test_the_module_that_is_passed_by(build: Callable[[], nn.Module], path: str | None, behind: bool | None) -> None:
    model = build().eval()
    layout = resolve(model)
    group = next(group for group in layout.groups if group.kind == "heads")
    seen: list[tuple[Any, Any]] = []
    block = model.get_submodule(group.block)
    with torch.no_grad():
        handle = block.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
        model(
            **inputs_for(model, resolve(model).stacks[0].spec), **({"use_cache": False} if build is tiny_llama else {})
        )
        handle.remove()
    hidden, call = Call.of(group.block, *seen[0])
    found = find_shortcut(block, group.consumer.module.removeprefix(group.block + "."), call, hidden)
    assert found is not None
    if path is not None:
        assert (found.path, found.behind) == (path, behind)
