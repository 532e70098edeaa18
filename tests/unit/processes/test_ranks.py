"""What processes add up, collect, leave to the first, and agree on; and how one that fails ends all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor

from optimum_grail.errors import DataError, ProcessError
from optimum_grail.processes.joining import LAUNCHED, joined, launched, place
from optimum_grail.processes.ranks import ALONE, SMALL, Ranks

Run = Callable[[int, Callable[[], Any]], list[Any]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pieces_go_to_whoever_has_least(count: int) -> None:
    owners = Ranks(0, count).owners([2] * 12)
    assert [owners.count(index) for index in range(count)] == [
        12 // count + (index < 12 % count) for index in range(count)
    ]
    assert owners[0] == 0


def test_a_large_piece_counts_as_much_as_several_small_ones() -> None:
    assert Ranks(0, 2).owners([8, 1, 1, 2, 4, 1]) == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("things", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_everything_once(things: int, count: int) -> None:
    shares = [Ranks(index, count).share(things) for index in range(count)]
    assert [number for share in shares for number in share] == list(range(things))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_gets_back_what_it_gives() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert ALONE.first
    assert ALONE.added("sums", {"a": rows})["a"] is rows
    assert ALONE.total("numbers", 1.5, 2) == [1.5, 2]
    assert ALONE.collected("rows", rows)[0] is rows
    assert ALONE.from_first("rows", lambda: {"a": rows})["a"] is rows
    assert ALONE.agreed("rows", {"a": rows})["a"] is rows
    assert ALONE.notes("words", ["a"]) == [["a"]]
    assert not ALONE.any("a flag", False)


def _everything() -> dict[str, Any]:
    """Every exchange once; process 1 has no rows."""
    with joined(timedelta(minutes=1)) as ranks:
        large = torch.full((SMALL + 1,), 0.1, dtype=torch.float64) * (ranks.index + 1)
        mine = (
            {} if ranks.index == 1 else {"sum": torch.tensor([1.0, 2.0]), "large": large, "count": torch.tensor(2**40)}
        )
        rows = torch.empty(0) if ranks.index == 1 else torch.full((2, 3), ranks.index, dtype=torch.bfloat16)
        with joined() as inner:
            same = inner is ranks or (inner.index, inner.channel) == (ranks.index, ranks.channel)
        return {
            "index": ranks.index,
            "inner": same,
            "added": ranks.added("sums", mine),
            "total": ranks.total("numbers", 1, 0.5),
            "any": [ranks.any("a flag", ranks.index == 2), ranks.any("another", False)],
            "notes": ranks.notes("names", {"of": ranks.index}),
            "collected": ranks.collected("rows", rows),
            "first": ranks.from_first("a draw", lambda: {"x": torch.tensor([ranks.index == 0])}),
            "agreed": ranks.agreed("an estimate", {"x": torch.tensor([1.0 + 1e-9 * ranks.index])}),
            "sent": ranks.channel.sent if ranks.channel else 0,
        }


def test_three_processes(in_processes: Run) -> None:
    found = in_processes(3, _everything)
    assert [each["index"] for each in found] == [0, 1, 2]
    for each in found:
        assert each["inner"]
        assert each["added"]["sum"].tolist() == [2, 4]
        assert each["added"]["sum"].dtype == torch.float64
        assert torch.equal(each["added"]["large"], found[0]["added"]["large"])
        assert torch.allclose(each["added"]["large"], torch.full((SMALL + 1,), 0.4, dtype=torch.float64))
        assert int(each["added"]["count"]) == 2**41
        assert each["added"]["count"].dtype == torch.int64
        assert each["total"] == [3, 1.5]
        assert each["any"] == [True, False]
        assert each["notes"] == [{"of": 0}, {"of": 1}, {"of": 2}]
        assert [part.shape for part in each["collected"]] == [(2, 3), (0, 3), (2, 3)]
        assert each["collected"][2].unique().tolist() == [2]
        assert each["collected"][2].dtype == torch.bfloat16
        assert each["first"]["x"].tolist() == [True]
        assert each["agreed"]["x"].tolist() == [1.0]
        assert each["sent"] >= 8 * (SMALL + 1)


def _together(act: Callable[[Ranks], Any]) -> Callable[[], Any]:
    def work() -> Any:
        with joined(timedelta(seconds=20)) as ranks:
            found = act(ranks)
            ranks.total("numbers", 1)
            return found

    return work


def test_an_error_of_one_is_told_to_all(in_processes: Run) -> None:
    def act(ranks: Ranks) -> None:
        if ranks.index == 1:
            raise DataError("no rows in corpus.txt")

    first, second, third = in_processes(3, _together(act))
    assert second == "DataError: no rows in corpus.txt"
    for other in (first, third):
        assert other.startswith("ProcessError: Process 1 of 3 failed")
        assert "DataError: no rows in corpus.txt" in other


def test_one_that_dies_ends_the_others(in_processes: Run) -> None:
    def act(ranks: Ranks) -> None:
        if ranks.index == 2:
            os._exit(9)

    first, second, third = in_processes(3, _together(act))
    assert third is None
    for other in (first, second):
        assert other.startswith("ProcessError: ")
        assert "is gone, or did not answer" in other or "failed" in other
    assert "at: " in first + second


def test_one_that_does_something_else_is_found_out(in_processes: Run) -> None:
    def act(ranks: Ranks) -> None:
        ranks.total(f"step {ranks.index}", 1)

    for told in in_processes(2, _together(act)):
        assert told.startswith("ProcessError: The processes of this run do different things (0: step 0, 1: step 1)")


@pytest.mark.parametrize(
    "make",
    [
        lambda index: {"units": torch.tensor([1, index])},
        lambda index: {"errors": torch.tensor([1.0, 1 + 1e-4 * index])},
        lambda index: {"errors": torch.tensor([1.0, float("nan") if index else 0.5])},
        lambda index: {"units" if index else "other": torch.tensor([1])},
    ],
)
def test_different_results_are_refused(make: Callable[[int], dict[str, Tensor]], in_processes: Run) -> None:
    for told in in_processes(2, _together(lambda ranks: ranks.agreed("the widths", make(ranks.index)))):
        assert told.startswith("ProcessError: Processes 0 and 1 of 2 came to different results for the widths")


def test_sums_of_different_shapes_are_refused(in_processes: Run) -> None:
    for told in in_processes(2, _together(lambda ranks: ranks.added("sums", {"a": torch.ones(2 + ranks.index)}))):
        assert told.startswith("ProcessError: Processes have sums of different shapes: [2] and [3]")


def test_who_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launched(), place()) == (1, 0)
    with joined() as ranks:
        assert ranks is ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == 1  # some schedulers set it, and tell nothing else
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert (launched(), place()) == (4, 2)


def test_others_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="did not find each other"), joined(timedelta(seconds=1)):
        pass
