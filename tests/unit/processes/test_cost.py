"""The cost of a shared run, told from sizes: against what small runs really hand over, and against common sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.compressor import GrailCompressor
from optimum_grail.models.resolve import resolve
from optimum_grail.processes.cost import Job, Node, Size, handed_over, llama_70b, mixture_400b, part, speed_up
from optimum_grail.processes.joining import joined

NODE = Node(flops=1e12, solves=1e11, network=1e9)
JOB = Job([Size(64, 32, 4), Size(256, 32, 4)], 1e6, 1e6, 4, 32, 10_000)


def test_rows_are_divided_and_solves_are_not() -> None:
    one, four = part(JOB, NODE, 1), part(JOB, NODE, 4)
    assert four.passes == pytest.approx(one.passes / 4)
    assert four.streams == pytest.approx(one.streams / 4)
    assert four.solves == one.solves
    assert (one.handed, one.traffic, one.waits) == (0, 0, 0)
    assert four.traffic == pytest.approx(1.5 * handed_over(JOB))
    assert 1 < speed_up(JOB, NODE, 4) < 4


def test_what_is_handed_over_does_not_depend_on_the_rows() -> None:
    assert handed_over(replace(JOB, tokens=10 * JOB.tokens)) == handed_over(JOB)
    moments, drift = 64**2 + 64, 32 * 64 + 32
    assert handed_over(replace(JOB, groups=[Size(64, 32)], subsets=1)) == 8 * (2 * moments + drift)
    assert handed_over(replace(JOB, groups=[Size(64, 32)], subsets=3, surveyed=False)) == 8 * 3 * (moments + drift)


def test_sizes_of_the_plans() -> None:
    assert llama_70b(1).stored == pytest.approx(68.5e9, rel=0.01)
    found = mixture_400b(1)
    assert found.stored == pytest.approx(400e9, rel=0.05)
    assert found.active == pytest.approx(15e9, rel=0.2)
    assert part(found, NODE, 16).low_memory < part(found, NODE, 16).weights


@pytest.mark.parametrize("allocation", ["uniform", "flap"])
def test_a_small_run_hands_over_what_was_told(
    allocation: str, in_processes: Callable[[int, Callable[[], Any]], list[Any]]
) -> None:
    def rows(index: int) -> dict[str, Any]:
        return {"input_ids": torch.randint(3, 60, (12,), generator=torch.Generator().manual_seed(index))}

    def work() -> int:
        torch.manual_seed(0)
        with joined() as ranks:
            compressor = GrailCompressor(tiny_llama().eval(), {"sparsity": 0.3, "allocation": allocation})
            compressor.compress([rows(index) for index in range(10)])
            return ranks.channel.sent if ranks.channel else 0

    model = tiny_llama()
    layout = resolve(model, None)
    sizes = [
        Size(group.units * group.consumer.span, layout.weights[group.consumer.module].rows) for group in layout.groups
    ]
    job = Job(sizes, 1, 1, 1, 1, 1, surveyed=allocation != "uniform")
    for sent in in_processes(2, work):
        assert isinstance(sent, int), sent
        # Names and shapes go along, which is much on a tiny model; where nothing is compressed yet there is no drift.
        assert 0.85 * handed_over(job) <= sent <= 1.15 * handed_over(job)
