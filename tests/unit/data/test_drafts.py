"""Rows while they are written: beginnings of different lengths, and fresh ones along the way."""

from __future__ import annotations

import torch
from torch import Tensor

from optimum_grail.data.drafts import LOOP_SHARE, Drafts, distinct_share


class Listed:
    """Beginnings from a list."""

    def __init__(self, *starts: list[int]) -> None:
        self.left = [torch.tensor(start) for start in starts]

    def deal(self, rows: int) -> list[Tensor]:
        found, self.left = self.left[:rows], self.left[rows:]
        return found


def write(drafts: Drafts, tokens: list[list[int]]) -> None:
    """Write one list of tokens per position, from the first free one on."""
    first = drafts.given()
    for position, drawn in enumerate(tokens, start=first):
        drafts.put(position, torch.tensor(drawn).unsqueeze(1))


def test_beginnings_may_differ_in_length() -> None:
    drafts = Drafts(Listed([5, 6, 7], [8]), False, ())
    text = drafts.begin(2, 6, 9, torch.device("cpu"))
    assert drafts.given() == 2
    write(drafts, [[1, 2], [1, 2], [3, 4], [3, 4]])
    assert text.tolist() == [[9, 5, 6, 7, 3, 3], [9, 8, 2, 2, 4, 4]]


def test_a_beginning_is_cut_where_the_row_ends() -> None:
    drafts = Drafts(Listed([5, 6, 7, 8]), False, ())
    assert drafts.begin(1, 3, None, torch.device("cpu")).tolist() == [[5, 6, 7]]
    assert drafts.given() == 3


def test_another_beginning_follows_the_end_of_an_answer() -> None:
    drafts = Drafts(Listed([5, 0, 5], [6], [7, 7, 7, 7], [8]), False, [0])
    text = drafts.begin(2, 6, None, torch.device("cpu"))
    write(drafts, [[9, 1], [9, 0], [2, 3], [0, 9], [1, 1]])
    assert text.tolist() == [[5, 0, 5, 2, 0, 8], [6, 1, 0, 7, 7, 7]], "an end inside a beginning is none"
    assert drafts.restarts == 0


def test_rows_that_go_round_in_circles_are_begun_anew() -> None:
    ordinary = torch.randperm(300)[:200].tolist()
    for restart in (True, False):
        drafts = Drafts(Listed([5], [6], [7, 8, 9], [4], [4]), restart, ())
        text = drafts.begin(2, 200, None, torch.device("cpu"))
        for position in range(1, 200):
            drafts.put(position, torch.tensor([[position % 6], [ordinary[position]]]))
        assert drafts.restarts == (3 if restart else 0)
        assert text[1].tolist() == [6, *ordinary[1:]]
        assert (text[0, 64:67].tolist() == [7, 8, 9]) == restart


def test_distinct_runs_tell_loops_from_text() -> None:
    loop = torch.arange(64) % 7
    text = torch.arange(64)
    half = torch.cat([text[:30], loop[:34]])
    shares = distinct_share(torch.stack([loop, text, half]))
    assert shares[0] < 0.15 and shares[1] == 1 and LOOP_SHARE < shares[2] < 0.7
