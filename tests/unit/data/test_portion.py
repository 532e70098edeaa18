"""Batches that processes share: dealt out once, and put together again in their order."""

from __future__ import annotations

import pytest
import torch

from optimum_grail.data.batches import Batch
from optimum_grail.data.portion import Portion, draws
from optimum_grail.processes.ranks import Ranks


def batches(*sizes: int) -> list[Batch]:
    return [Batch({"input_ids": torch.full((size, 2), index)}, "fit") for index, size in enumerate(sizes)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_batch_has_one_owner(count: int) -> None:
    given = batches(2, 2, 1, 2, 1)
    portions = [Portion.of(given, Ranks(index, count)) for index in range(count)]
    assert sorted(number for portion in portions for number in portion.numbers) == list(range(5))
    for portion in portions:
        assert portion.whole == tuple(given)
        assert [id(batch) for batch in portion] == [id(given[number]) for number in portion.numbers]
        assert len(portion) == len(portion.numbers)


def test_a_process_without_batches_still_knows_that_there_are_some() -> None:
    portion = Portion.of(batches(2), Ranks(1, 3))
    assert len(portion) == 0
    assert portion  # the data is there, with another process
    assert portion.sample.inputs["input_ids"].tolist() == [[0, 0]]
    assert not Portion.of((), Ranks(0, 3))


def test_what_is_chosen_stays_with_its_process() -> None:
    portion = Portion.of(batches(1, 1, 1, 1), Ranks(1, 2))
    assert portion.numbers == (1, 3)
    chosen = portion.chosen([0, 3])
    assert [batch is portion.whole[3] for batch in chosen] == [True]
    assert len(portion.again(chosen.whole)) == 1
    assert Portion.of(portion) is portion


def test_own_batches_by_their_place() -> None:
    portion = Portion.of(batches(1, 1, 1, 1), Ranks(0, 2))
    assert portion[1] is portion.whole[2]
    assert portion[-1] is portion.whole[2]
    assert portion[0:1] == [portion.whole[0]]
    with pytest.raises(IndexError):
        portion[2]


def test_draws_depend_on_the_batch_alone() -> None:
    one, other = (torch.rand(3, generator=draws(5, number)) for number in (2, 3))
    assert not torch.equal(one, other)
    assert torch.equal(one, torch.rand(3, generator=draws(5, 2)))
    assert torch.equal(torch.rand(3, generator=draws(5, 0)), torch.rand(3, generator=torch.Generator().manual_seed(5)))
