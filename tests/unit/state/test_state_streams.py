"""Streams on disk come back as they were, laid out as they were, or not at all; and writing them has its limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimum_grail.errors import OutputError
from optimum_grail.state import budget, streams
from optimum_grail.state.budget import Budget
from optimum_grail.state.streams import StreamStore
from optimum_grail.streams.blocks import Streams
from optimum_grail.streams.states import OffloadedStates

DRAW = torch.Generator().manual_seed(0)


def states(count: int = 3) -> list[Tensor]:
    """Feature maps, the last batch smaller, the second with its channels last in memory."""
    found = [torch.randn(2 if index else 3, 4, 5, 5, generator=DRAW) for index in range(count)]
    return [state.to(memory_format=torch.channels_last) if index == 1 else state for index, state in enumerate(found)]


def entering(count: int = 3) -> Streams:
    """Other values, other sizes behind the first two axes, and both streams still one."""
    first = [torch.zeros(2 if index else 3, 8, 9, 9) for index in range(count)]
    return Streams(first, list(first))


@pytest.fixture
def store(tmp_path: Path) -> StreamStore:
    return StreamStore(tmp_path / "streams", "me", "Free some space.")


@pytest.mark.parametrize("offloaded", [False, True])
def test_values_and_layout_come_back(store: StreamStore, offloaded: bool) -> None:
    student, dense = states(), states()
    store.put(
        "stack",
        "block.3",
        Streams(OffloadedStates(student), OffloadedStates(dense)) if offloaded else Streams(student, dense),
    )
    found = entering()
    assert store.read_("stack", found) == "block.3" and not found.equal
    for one, other in zip([*student, *dense], [*found.student, *(found.dense or [])], strict=True):
        assert torch.equal(one, other) and (offloaded or one.stride() == other.stride())


def test_one_stream_alone(store: StreamStore) -> None:
    student = states()
    store.put("", "b", Streams(student, None))
    found = Streams(entering().student, None)
    assert store.read_("", found) == "b" and torch.equal(found.student[2], student[2])


def test_newer_ones_replace_older_ones_of_their_stack(store: StreamStore) -> None:
    last = states()
    for stack, block, content in (("a", "1", states()), ("b", "1", states()), ("a", "2", last)):
        store.put(stack, block, Streams(content, None))
    assert sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("0.*")) == [
        "a/2/0.safetensors",
        "b/1/0.safetensors",
    ]
    found = Streams(entering().student, None)
    assert store.read_("a", found) == "2" and torch.equal(found.student[0], last[0])


def test_between_two_steps_the_older_ones_are_good(store: StreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes, after it has written, and before the older ones have gone."""
    store.put("a", "1", Streams(states(), None))
    with monkeypatch.context() as patch:
        patch.setattr(streams, "to_disk", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match=r"the disk is full\. Free some space\."):
            store.put("a", "2", Streams(states(), None))
    assert store.read_("a", Streams(entering().student, None)) == "1"
    with monkeypatch.context() as patch:
        patch.setattr(streams.shutil, "rmtree", lambda path, ignore_errors: None)
        store.put("a", "2", Streams(states(), None))
    assert store.read_("a", Streams(entering().student, None)) == "2"


def rewrite(file: Path, tensors: dict[str, Tensor] | None = None, **head: str) -> None:
    """The file with another head, or other tensors."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        before = opened.metadata()
    save_file(load_file(file) if tensors is None else tensors, file, before | head)


@pytest.mark.parametrize(
    "damage",
    [
        {"owner": "you"},
        {"count": "2"},
        {"block": "another"},
        {"stack": "b"},
        {"strides": "{}"},
        {"strides": "[" * 100_000},
        {"strides": json.dumps({"student": [0, 0, 0, 0]})},
        {"strides": json.dumps({"student": [100, 25, 5, -1]})},
        {"strides": json.dumps({"student": [10**12, 25, 5, 1]})},
        {"strides": json.dumps({"student": "1234"})},
        {"strides": json.dumps({"student": [100.0, 25.0, 5.0, 1.0]})},
        {"tensors": {"student": torch.zeros(9, 4, 5, 5)}},
        {"tensors": {"student": torch.zeros(2, 4)}},
        {"tensors": {"other": torch.zeros(2, 4, 5, 5)}},
        "truncated",
        "gone",
    ],
    ids=str,
)
def test_what_is_no_stream_is_passed_over(store: StreamStore, damage: object) -> None:
    store.put("a", "1", Streams(states(), None))
    file = store.folder / "a" / "1" / "2.safetensors"
    if isinstance(damage, dict):
        rewrite(file, **damage)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8])
    found = Streams(entering().student, None)
    before = [state.clone() for state in found.student]
    assert store.read_("a", found) is None
    assert all(torch.equal(one, other) for one, other in zip(before, found.student, strict=True))


def test_so_much_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock[0])
    spent = Budget(began=0.0)
    assert spent.allows(int(2.9 * budget.RATE)) and not spent.allows(int(3.1 * budget.RATE))
    with spent.spending(int(2 * budget.RATE)):
        clock[0] += 1
    assert spent.rate == 2 * budget.RATE
    assert spent.allows(int(4 * budget.RATE)) and not spent.allows(int(4.2 * budget.RATE))
