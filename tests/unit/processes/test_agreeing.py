"""What processes agree on and divide: different requests, widths and blocks are named; uneven parts come together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compensators.none import NoCompensation
from optimum_grail.config.config import GrailConfig
from optimum_grail.core.plan import GroupPlan
from optimum_grail.core.reduction import Reduction
from optimum_grail.data.batches import Batch, CalibrationData
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ConfigError, GrailError, ProcessError
from optimum_grail.fit import agreement as blocks
from optimum_grail.fit.methods import Methods
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline import agreement
from optimum_grail.pipeline.together import together
from optimum_grail.processes.channel import TITLE_BYTES, Channel, packed, unpacked
from optimum_grail.processes.joining import joined
from optimum_grail.processes.ranks import ALONE, DTYPES, Ranks
from optimum_grail.report.progress import Silent
from optimum_grail.selectors.obs import Obs
from optimum_grail.selectors.reap import Reap
from optimum_grail.widths.allocate import Widths

Run = Callable[[int, Callable[[], Any]], list[Any]]
WIDTHS = Widths({"a": 3, "b": 2}, dropped=("layers.1",), pairs={"model": torch.tensor([[0, 1]])})
DATA = CalibrationData((), "rows", "ab", 1, 1, 1, "text", frozenset())


def told(act: Callable[[], Any]) -> str:
    """The message that ``act`` is refused with; empty where it is not."""
    try:
        act()
    except GrailError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@dataclass
class Table(Channel):
    """A channel between threads, which meet where processes would exchange bytes."""

    meeting: Barrier = field(kw_only=True)
    board: list[Any] = field(kw_only=True)

    def _meet(self, value: Any) -> list[Any]:
        self.board[self.index] = value
        self.meeting.wait(20)
        found = list(self.board)
        self.meeting.wait(20)
        return found

    def _titles(self, kind: int, text: str, what: str) -> list[tuple[int, str]]:
        return self._meet((kind, text))

    def _ragged(self, own: Tensor, what: str) -> list[Tensor]:
        return self._meet(own)

    def add_(self, values: Tensor, what: str) -> None:
        values.copy_(torch.stack(self._meet(values.clone())).sum(0))

    def from_first_(self, values: Tensor, what: str) -> None:
        values.copy_(self._meet(values.clone())[0])


def in_threads(count: int, act: Callable[[Ranks], Any]) -> list[Any]:
    """What ``act`` returns in each of ``count`` threads that take part as processes do."""
    meeting, board = Barrier(count), [None] * count
    group: Any = None
    tables = [Table(index, count, group, group, 1.0, meeting=meeting, board=board) for index in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda table: act(Ranks(table.index, count, table)), tables))


def refusals(count: int, *acts: Callable[[Ranks], Any]) -> list[list[str]]:
    """What every process is told by each of ``acts``, one after the other."""
    return in_threads(count, lambda ranks: [told(lambda act=act: act(ranks)) for act in acts])  # type: ignore[misc]


def test_widths_that_differ_in_anything_are_refused() -> None:
    others = [
        WIDTHS,
        replace(WIDTHS, notes=("another remark",)),
        replace(WIDTHS, kept={"a": 3, "b": 1}),
        replace(WIDTHS, dropped=("layers.2",)),
        replace(WIDTHS, dropped=()),
        replace(WIDTHS, pairs={"model": torch.tensor([[0, 2]])}),
        replace(WIDTHS, pairs={}),
    ]
    acts = [lambda ranks, other=other: agreement.agreed(ranks, other if ranks.index else WIDTHS) for other in others]
    for found in refusals(2, *acts):
        assert found[:2] == ["", ""]
        named = [text.partition("for the widths (")[2].partition(")")[0] for text in found[2:]]
        assert named == ["kept units", "dropped blocks", "dropped blocks", *["rotation pairs of model"] * 2]


def test_requests_and_data_that_differ_name_the_process() -> None:
    def asked(ranks: Ranks, config: GrailConfig, parameters: int) -> None:
        agreement.check_request(ranks, config, parameters)

    plain = GrailConfig(sparsity=0.3)
    acts = (
        lambda ranks: asked(ranks, plain, 10),
        lambda ranks: asked(ranks, plain, 10 + (ranks.index == 2)),
        lambda ranks: asked(ranks, plain if ranks.index != 1 else GrailConfig(sparsity=0.3, seed=7), 10),
        lambda ranks: agreement.check_same(ranks, DATA),
        lambda ranks: agreement.check_same(ranks, replace(DATA, sha256="cd" if ranks.index == 2 else "ab")),
    )
    for same, parameters, seed, data, other in refusals(3, *acts):
        assert same == data == ""
        assert "Process 0 has parameters of the model = 10 and process 2 has 11" in parameters
        assert "and process 1 has 7" in seed
        assert other.startswith("ProcessError: The processes have read different calibration data")


def test_blocks_that_differ_in_units_or_weights_are_refused() -> None:
    models = [tiny_llama(), tiny_llama()]
    group = resolve(models[0]).groups[1]

    def act(ranks: Ranks, first: int, factor: float) -> None:
        model = models[ranks.index]
        weight = model.get_submodule(group.consumer.module).get_parameter("weight")
        units = torch.tensor([first if ranks.index else 0, 2])
        with torch.no_grad():
            weight.mul_(factor if ranks.index else 1.0)
        plans = [GroupPlan(group, Reduction.prune(group.units, units), None)]
        assert blocks.agreed(ranks, model, group.block, plans) is plans

    acts = (lambda ranks: act(ranks, 0, 1), lambda ranks: act(ranks, 1, 1), lambda ranks: act(ranks, 0, 1.001))
    for same, units, weights in refusals(2, *acts):
        assert same == ""
        assert f"for block {group.block} (units of {group.name})" in units
        assert f"for block {group.block} (weights of {group.name})" in weights


@pytest.mark.parametrize(
    ("one", "other", "fine"),
    [
        ([0.0, 1.0], [float("nan"), 1.0], False),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ([float("inf"), 1.0], [float("-inf"), 1.0], False),
        ([1e6, 0.0], [1e6, 0.9], True),
        ([1e6, 0.0], [1e6, 1.1], False),
        ([0.0, 0.0], [0.0, 1e-30], False),
        ([], [], True),
    ],
)
def test_how_far_numbers_may_differ(one: list[float], other: list[float], fine: bool) -> None:
    def act(ranks: Ranks) -> None:
        ranks.agreed("numbers", {"x": torch.tensor(other if ranks.index else one, dtype=torch.float64)})

    assert [text == "" for (text,) in refusals(2, act)] == [fine, fine]


def test_types_that_differ_are_refused_although_values_do_not() -> None:
    def act(ranks: Ranks) -> dict[str, Tensor]:
        return ranks.agreed("units", {"x": torch.ones(2, dtype=torch.float32 if ranks.index else torch.float64)})

    assert all("different results for units (x)" in text for (text,) in refusals(2, act))


def test_one_process_agrees_with_itself() -> None:
    agreement.check_request(ALONE, GrailConfig(), 1)
    agreement.check_same(ALONE, DATA)
    assert agreement.agreed(ALONE, WIDTHS) is WIDTHS
    plans: list[GroupPlan] = []
    assert blocks.agreed(ALONE, tiny_llama(), "model.layers.0", plans) is plans


def test_methods_that_cannot_be_shared() -> None:
    methods = Methods(Obs(), NoCompensation(), None, expert_selector=Reap())  # type: ignore[arg-type]
    blocks.check_shareable(methods, ALONE)
    blocks.check_shareable(replace(methods, expert_selector=None), Ranks(0, 2))
    with pytest.raises(ConfigError, match="leave --experts, --expert-sparsity and --expert-ffn-sparsity out"):
        blocks.check_shareable(methods, Ranks(1, 2))


def test_one_process_without_output_keeps_nothing_and_cannot_resume() -> None:
    def never() -> dict[str, Any]:
        raise AssertionError("nothing is kept, so nobody asks what the run is")

    with together(None, never, False, Silent()) as (ranks, state):
        assert ranks is ALONE and state is None
    with pytest.raises(ConfigError, match="needs the folder"), together(None, never, True, Silent()):
        pass


def test_rows_of_uneven_batches_come_back_in_their_order() -> None:
    sizes, rows = (3, 1, 2, 1, 1), (2, 0, 3, 1, 1)
    given = [Batch({"input_ids": torch.zeros(size, 2)}, "fit") for size in sizes]
    whole = torch.cat([torch.full((count, 2), float(number)) for number, count in enumerate(rows)])

    def work(ranks: Ranks) -> tuple[int, Tensor]:
        portion = Portion.of(given[:2] if ranks.count == 3 else given, ranks)
        pieces = [torch.full((rows[number], 2), float(number)) for number in portion.numbers]
        own = torch.cat(pieces) if pieces else torch.empty(0)
        return len(portion), portion.joined("rows", own, [rows[number] for number in portion.numbers])

    found = in_threads(2, work)
    assert [count for count, _ in found] == [2, 3]
    assert all(torch.equal(each, whole) for _, each in found)
    fewer = in_threads(3, work)
    assert [count for count, _ in fewer] == [1, 1, 0]
    assert all(torch.equal(each, whole[:2]) for _, each in fewer)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_bytes_are_a_tensor_again(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(6).reshape(3, 2).T if shape == (2, 3) else torch.ones(shape)).to(dtype)
    data = packed(tensor)
    assert data.dtype == torch.uint8 and data.dim() == 1
    assert torch.equal(unpacked(data, shape, dtype), tensor)


def test_long_messages_and_texts_of_any_length(in_processes: Run) -> None:
    def work() -> tuple[list[str], list[Any]]:
        with joined(timedelta(seconds=20)) as ranks:
            if ranks.channel is None:
                raise ProcessError("alone")
            ranks.channel.begin("ü" * TITLE_BYTES)  # cut in the middle of a letter
            words = ranks.channel.texts("ü" * 700 * ranks.index, "texts")
            return words, ranks.notes("notes", None if ranks.index else {"a": [1, 2.5, "é"]})

    for words, notes in in_processes(2, work):
        assert words == ["", "ü" * 700]
        assert notes == [{"a": [1, 2.5, "é"]}, None]
