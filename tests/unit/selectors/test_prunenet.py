"""The policy: what training does, and how a saved one is used again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimum_grail.core.problem import GroupProblem
from optimum_grail.errors import ConfigError
from optimum_grail.selectors.prunenet import SKETCH, Prunenet, reward, spectrum, trained, unit_rows

UNITS = 40


def problem(width: int = 12, name: str = "g", seed: int = 0) -> GroupProblem:
    draw = torch.Generator().manual_seed(1)
    scale = torch.rand(UNITS, 1, generator=draw, dtype=torch.float64) + 0.1
    rows = scale * torch.randn(UNITS, width, generator=draw, dtype=torch.float64)
    weight = torch.randn(3, UNITS, generator=draw, dtype=torch.float64)
    return GroupProblem(name, UNITS, weight, (rows,), seed=seed)


def greedy_reward(rows: Tensor, policy: Tensor, keep: int) -> float:
    return reward(rows, spectrum(rows), (rows @ policy).topk(keep).indices)


def test_training_never_ends_with_less_reward_and_mostly_with_more() -> None:
    rows, better = unit_rows(problem()), 0
    for seed in range(8):
        policies = [trained(rows, 20, episodes, torch.Generator().manual_seed(seed)) for episodes in (0, 20)]
        rewards = [greedy_reward(rows, policy, 20) for policy in policies]
        assert rewards[1] >= rewards[0]
        better += rewards[1] > rewards[0]
    assert better >= 4


def test_long_rows_are_sketched_and_keep_their_inner_products_roughly() -> None:
    case = problem(width=20 * SKETCH)
    rows = unit_rows(case)
    assert rows.shape == (UNITS, SKETCH)
    exact = case.producers[0] @ case.producers[0].T
    exact = exact / exact.diagonal().mean() * SKETCH
    norms = (rows @ rows.T).diagonal()
    torch.testing.assert_close(norms, exact.diagonal(), rtol=0.4, atol=0)
    assert torch.equal(rows, unit_rows(problem(width=20 * SKETCH, seed=9)))


def test_a_saved_policy_serves_every_ratio_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    selector = Prunenet(policy=str(path))
    first = selector(problem(), 20)
    written = path.read_bytes()
    assert selector(problem(seed=5), 7).order.tolist() == first.order.tolist()
    assert path.read_bytes() == written
    assert Prunenet()(problem(seed=5), 20).order.tolist() != first.order.tolist()
    selector(problem(name="other"), 20)
    assert selector(problem(), 7).order.tolist() == first.order.tolist()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    Prunenet(policy=str(path))(problem(), 20)
    with pytest.raises(ConfigError, match="reads 12 numbers per unit; the group has 9"):
        Prunenet(policy=str(path))(problem(width=9), 20)
    path.write_text("no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        Prunenet(policy=str(path))(problem(), 20)
    with pytest.raises(ConfigError, match="cannot be written"):
        Prunenet(policy=str(tmp_path / "absent" / "policy.safetensors"))(problem(), 20)
