"""What blocks are called with: that of a true forward pass, whoever feeds them; and what cannot be recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.errors import ArchitectureError
from optimum_grail.models.resolve import resolve
from optimum_grail.streams.calls import difference, on_device
from optimum_grail.streams.capture import Captured, Order, capture, order_of


@torch.no_grad()
def truth_of(model: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> tuple[list[Tensor], dict[str, Any]]:
    """Hidden states entering the first block, and the other arguments of every block, of plain forward passes."""
    hidden: list[Tensor] = []
    arguments: dict[str, Any] = {path: [] for path in paths}

    def hook(path: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path == paths[0]:
                hidden.append(args[0].clone())
            arguments[path].append((args[1:], kwargs))

        return keep

    handles = [model.get_submodule(p).register_forward_pre_hook(hook(p), with_kwargs=True) for p in paths]
    for batch in batches:
        model(**on_device(model, batch))
    for handle in handles:
        handle.remove()
    return hidden, arguments


def assert_true(found: Captured, model: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> None:
    hidden, arguments = truth_of(model, paths, batches)
    assert len(hidden) == len(found.hidden) == len(batches)
    for ours, true in zip(found.hidden, hidden, strict=True):
        assert torch.equal(ours, true)
    for path in paths:
        for call, (args, kwargs) in zip(found.calls[path], arguments[path], strict=True):
            assert difference(call.args, args, "") is None and difference(call.kwargs, kwargs, "") is None


@pytest.mark.parametrize("offload", [False, True])
def test_stacks_that_are_fed_by_others_see_what_they_really_see(fed: Any, offload: bool) -> None:
    layout, batches = resolve(fed.model, fed.spec), fed.batches(6)
    first, second = layout.stacks
    found = capture(fed.model, layout.blocks, batches, offload=offload)
    assert list(found) == [first.name, second.name]
    assert order_of(fed.model, layout.blocks, batches[0]) == Order((first.name,), (second.name,))
    for stack in layout.stacks:
        assert_true(found[stack.name], fed.model, stack.blocks, batches)


def test_of_a_compressed_model_they_see_what_it_puts_out(fed: Any) -> None:
    model = copy.deepcopy(fed.model)
    layout, batches = resolve(model, fed.spec), fed.batches(4)
    first, second = layout.stacks
    before = capture(model, layout.blocks, batches)[second.name]
    name = "mlp.fc2" if "vision" in first.name else "fc2"
    model.get_submodule(f"{first.blocks[0]}.{name}").weight.data.mul_(0.3)
    found = capture(model, {second.name: second.blocks}, batches)[second.name]
    assert_true(found, model, second.blocks, batches)
    old, new = (seen.calls[second.blocks[0]][0] for seen in (before, found))
    moved = difference(old.args, new.args, "argument") or difference(old.kwargs, new.kwargs, "argument")
    assert moved or not torch.equal(before.hidden[0], found.hidden[0])


def test_independent_towers_are_passed_by_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one sample really runs, once, however many batches there are."""
    model, draw = tiny_clip(), torch.Generator().manual_seed(1)
    samples = [
        {
            "input_ids": torch.randint(3, 90, (9,), generator=draw),
            "pixel_values": torch.randn(3, 16, 16, generator=draw),
        }
        for _ in range(10)
    ]
    layout, batches = resolve(model), make_batches(samples, batch_size=2)
    passes: list[int] = []
    handles = [
        model.get_submodule(f"{path}.mlp").register_forward_hook(
            lambda module, args, output: passes.append(len(output))
        )
        for stack in layout.stacks
        for path in stack.blocks
    ]
    found = capture(model, layout.blocks, batches)
    for handle in handles:
        handle.remove()
    assert passes == [1] * 4
    assert list(found) == [stack.name for stack in layout.stacks]
    for stack in layout.stacks:
        assert_true(found[stack.name], model, stack.blocks, batches)


def test_data_that_never_reaches_a_stack_is_refused(llava: Any) -> None:
    """Text alone runs through an image-text model without a word."""
    text = make_batches([{"input_ids": sample["input_ids"][18:]} for sample in llava.samples[:4]], batch_size=2)
    llava.model(**text[0].inputs)
    with pytest.raises(ArchitectureError, match=r"never called .*stack 'model.vision_tower'.* which has input_ids\."):
        capture(llava.model, resolve(llava.model).blocks, text)


class Add(nn.Module):
    """Adds something to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, extra: Any = None, **cache: Any) -> Tensor:
        return x + self.linear(x if extra is None else x + extra)


class Model(nn.Module):
    """Two stacks of two blocks, run in some way."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = (nn.ModuleList([Add(), Add()]) for _ in range(2))
        self.run = run
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, *self.a, *self.b)


STACKS = {"a": ("a.0", "a.1"), "b": ("b.0", "b.1")}
BATCHES = make_batches(
    [{"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(i))} for i in range(4)], batch_size=2
)


def in_parallel(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(x)) + d(b(x))


def one_after_the_other(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return d(b(torch.relu(c(a(x)))))


def the_other_way_round(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(2 * d(b(x))))


def by_an_argument(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    memory = c(a(x))
    return d(b(x, extra=memory), memory)


def by_what_cannot_take_the_input_itself(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    memory = c(a(x))
    if torch.equal(memory, x):
        raise RuntimeError("nothing has been added")
    return d(b(memory * 2))


ORDERS = {
    in_parallel: ("ab", ""),
    one_after_the_other: ("a", "b"),
    the_other_way_round: ("b", "a"),
    by_an_argument: ("a", "b"),
    by_what_cannot_take_the_input_itself: ("a", "b"),
}


@pytest.mark.parametrize("run", ORDERS)
def test_the_order_of_stacks_is_found_out(run: Callable[..., Tensor]) -> None:
    free, fed = ORDERS[run]
    model = Model(run)
    found = order_of(model, STACKS, BATCHES[0])
    assert found == Order(tuple(free), tuple(fed)) and found.feeding == set(free if fed else "")
    for stack, seen in capture(model, STACKS, BATCHES).items():
        assert_true(seen, model, STACKS[stack], BATCHES)


def in_turn(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    ours = a(x)
    theirs = b(x, ours)
    return c(ours, theirs) + d(theirs, ours)


def by_a_block_of_its_own(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    between = a(x)
    return c(between, between * 2) + d(b(x))


def twice(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(x)) + c(a(2 * x)) + d(b(x))


def never(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(x))


def backwards(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return a(c(x)) + d(b(x))


def with_a_cache(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(x)) + d(b(x), past_key_values=DynamicCache())


def with_an_older_cache(x: Tensor, a: Add, c: Add, b: Add, d: Add) -> Tensor:
    return c(a(x, past_key_value=(x, x))) + d(b(x))


WRONG = {
    in_turn: r"stack 'a'.* argument\[0\] of block 'a\.1' is another",
    by_a_block_of_its_own: r"stack 'a'.* argument\[0\] of block 'a\.1' is another",
    twice: r"block 'a\.0' of stack 'a' 2 times",
    never: r"never called block 'b\.0' of stack 'b'.*which has x\.",
    backwards: r"block 'a\.0' is not the output of the block before",
    with_a_cache: r"Block 'b\.1' is called with a cache",
    with_an_older_cache: r"Block 'a\.0' is called with a cache",
}


@pytest.mark.parametrize("run", WRONG)
def test_what_cannot_be_calibrated_block_by_block_is_refused(run: Callable[..., Tensor]) -> None:
    model = Model(run)
    with pytest.raises(ArchitectureError, match=WRONG[run]):
        capture(model, STACKS, BATCHES)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_caches_are_switched_off_in_the_parts_of_a_model_too(llava: Any) -> None:
    batch = llava.batches(2)[0]
    assert llava.model(**batch.inputs).past_key_values is not None
    assert llava.model(**on_device(llava.model, batch)).past_key_values is None
    assert "use_cache" not in on_device(tiny_clip(), batch)


def test_a_cache_that_cannot_be_switched_off_is_an_error() -> None:
    """A module that asks its language model for a cache whatever it is told."""

    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_llama()

        def forward(self, input_ids: Tensor) -> Any:
            return self.inner(input_ids, use_cache=True)

    model = Stubborn().eval()
    batch = Batch({"input_ids": torch.randint(3, 90, (2, 5))}, "fit")
    with pytest.raises(ArchitectureError, match=r"'inner\.model\.layers\.0' is called with a cache.*use_cache=False"):
        capture(model, {"inner": [f"inner.model.layers.{index}" for index in range(3)]}, [batch])


def test_arguments_are_compared_wherever_they_are() -> None:
    x = torch.ones(2, 2)
    bad = {"m": [x, (x, 2.0)], "n": None, "o": object()}
    assert difference(bad, {"m": [x, (x, 2.0)], "n": None, "o": object()}, "a") is None
    assert difference(bad, {"m": [x, (x * 2, 2.0)], "n": None, "o": object()}, "a") == "a['m'][1][0]"
    assert difference(bad, {"m": [x, (x, 3.0)], "n": None, "o": object()}, "a") == "a['m'][1][1]"
    assert difference(bad, {"m": [x, (x, 2.0)], "o": object(), "p": 1}, "a") == "a['p']"
    assert difference(bad, {"m": [x], "n": None, "o": object()}, "a") == "a['m']"
    assert difference(x, x * (1 + 1e-6), "a") == "a" and difference(x, x * (1 + 1e-6), "a", 1e-4) is None
    assert difference(x * float("nan"), x * float("nan"), "a") is None and difference(x, None, "a") == "a"
