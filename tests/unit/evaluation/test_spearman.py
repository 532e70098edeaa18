"""Spearman: ranks with ties, masked pooling, columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.errors import DataError
from optimum_grail.evaluation.metrics.spearman import Spearman, average_ranks, masked_mean, spearman

ROWS = Dataset.from_dict(
    {
        "sentence1": ["a cat", "the old house", "rivers run", "x", "some words here"],
        "sentence2": ["a cat", "a house that is old and quite long", "dogs bark", "y", "other words there"],
        "score": [5.0, 4.0, 1.0, 0.5, 4.0],
    }
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_it_agrees_with_scipy_on_ties(pairs) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = np.array(pairs, dtype=float).T
    assert average_ranks(first) == pytest.approx(stats.rankdata(first))
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    else:
        assert np.isnan(spearman(first, second))


def test_padding_does_not_count() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert masked_mean(hidden, mask).flatten().tolist() == [2.0, 4.0]


def test_the_result_is_that_of_single_sentences(folders, tokenizer) -> None:
    model = load_model(folders["bert"], device="cpu")

    def embed(sentence: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0].mean(dim=0)

    cosine = [
        float(torch.nn.functional.cosine_similarity(embed(a), embed(b), dim=0))
        for a, b in zip(ROWS["sentence1"], ROWS["sentence2"], strict=True)
    ]
    expected = spearman(cosine, ROWS["score"])
    for batch_size in (1, 64):
        result = Spearman(batch_size=batch_size)(model, tokenizer, None, ROWS)
        assert result["spearman"] == pytest.approx(expected)
    assert result["rows"] == 5
    assert "at most 64 tokens" in result["protocol"]  # the model has no 128 positions
    assert Spearman(num_samples=3)(model, tokenizer, None, ROWS)["rows"] == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.remove_columns("sentence2"), "no column 'sentence2'.*--text-pair-column"),
        (ROWS.remove_columns("score"), "no column 'score'.*--label-column"),
        (ROWS.remove_columns("score").add_column("score", ["a"] * 5), "expected a number"),
        (ROWS.remove_columns("score").add_column("score", [1.0] * 5), "two different finite scores"),
        (ROWS.remove_columns("sentence1").add_column("sentence1", [1] * 5), "expected text"),
    ],
)
def test_unusable_rows_are_refused(folders, tokenizer, rows, message) -> None:
    model = load_model(folders["bert"], device="cpu")
    with pytest.raises(DataError, match=message):
        Spearman()(model, tokenizer, None, rows)


def test_minilm_has_its_known_value(minilm, data_dir) -> None:
    from optimum_grail.evaluation.evaluate import evaluate_path

    result = evaluate_path(minilm, data_dir / "stsb" / "dev.csv", "spearman", num_samples=200)
    assert 0.85 < result["spearman"] < 0.95
