"""OSSCAR: backward elimination in steps, then swaps between kept and dropped units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from optimum_grail.core.contracts import Selector
from optimum_grail.core.group_elimination import (
    block_costs,
    columns_of,
    diagonal_blocks,
    eliminate_in_groups,
    mean_damped,
)
from optimum_grail.core.preset import SURGEON, Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS
from optimum_grail.selectors._elimination import by_removal, check_positive

STEP_CHANNELS, STEP_HEADS = 10, 2
"""Units that the authors' code removes between two updates."""
GAIN = 1e-12
"""A swap has to lower the loss by more than this fraction of the loss of dropping everything, which is rounding."""


@dataclass(frozen=True)
class Support:
    """The least-squares fit on the kept units; ``gram`` is damped.

    Args:
        kept, dropped: units, int64, ascending.
        lower: Cholesky factor of the kept features' Gram.
        weight: refitted consumer ``[O, K]``.
        loss: ``tr(W_D S_D W_Dᵀ)``, the damped loss of the fit.
    """

    kept: Tensor
    dropped: Tensor
    lower: Tensor
    weight: Tensor
    loss: float


PAPER = """@inproceedings{meng2024osscar,
  title     = {{OSSCAR}: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization},
  author    = {Meng, Xiang and Ibrahim, Shibal and Behdin, Kayhan and Hazimeh, Hussein and Ponomareva, Natalia and
               Mazumder, Rahul},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2403.12983}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Osscar(Selector):
    """Remove the cheapest units step by step, then swap units while the loss drops (OSSCAR, Meng et al. 2024).

    A swap takes out the ``m`` kept units of least removal cost and puts in the ``m`` dropped ones of largest gain
    ``‖R_S‖²`` in the metric of their conditional second moment, ``R`` the residual's cross moments. It is accepted only
    if the loss drops; else ``m`` is halved.

    Args:
        damping: ridge relative to the mean of the features' second moments, positive and finite.
        step: units removed between two updates, and swapped first; ``None``: 10, or 2 where units have several
            features, as in the authors' code.
        rounds: most swaps tried; 0 for none.

    Raises:
        ConfigError: a value outside its range.
    """

    damping: float = 1e-2
    step: int | None = None
    rounds: int = 20
    needs: ClassVar[frozenset[Need]] = frozenset({"gram"})
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="osscar",
            summary="Elimination in steps, then swaps that lower the loss, weights updated.",
            paper="Meng et al. 2024 (OSSCAR)",
            selector="osscar",
            compensator=SURGEON,
            within_block="sequential",
            cost="one forward pass, one elimination and some 20 solves per layer",
        ),
    )

    def __post_init__(self) -> None:
        check_positive("osscar", "damping", self.damping)
        if self.step is not None and self.step < 1:
            raise ConfigError(f"osscar step is {self.step!r}; expected none or a whole number of at least 1.")
        if self.rounds < 0:
            raise ConfigError(f"osscar rounds is {self.rounds!r}; expected a whole number of at least 0.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to ``keep`` units."""
        units, remove = problem.units, problem.units - keep
        gram = problem.measured.moments.gram
        weight, damped = mean_damped(problem.weight.to(gram), gram, self.damping)
        step = self.step or (STEP_CHANNELS if problem.span == 1 else STEP_HEADS)
        sizes = [min(step, remove - done) for done in range(0, remove, step)]
        order = eliminate_in_groups(weight, damped, units, sizes).order
        dropped = self._swap(weight, damped, units, order, step)
        stayed = order[torch.isin(order, dropped)]
        return by_removal(units, torch.cat([stayed, dropped[~torch.isin(dropped, order)]]))

    def _swap(self, weight: Tensor, gram: Tensor, units: int, order: Tensor, step: int) -> Tensor:
        """The dropped units, int64, after local search from those of ``order``."""
        cross = weight @ gram
        total = float((cross * weight).sum())
        best = support(weight, gram, cross, units, order.to(weight.device))
        count = min(step, len(best.dropped), len(best.kept))
        for _ in range(self.rounds):
            if count == 0:
                break
            trial = support(weight, gram, cross, units, swapped(best, gram, cross, count))
            if trial.loss < best.loss - GAIN * total:
                best = trial
            else:
                count //= 2
        return best.dropped.cpu()


def support(weight: Tensor, gram: Tensor, cross: Tensor, units: int, dropped: Tensor) -> Support:
    """Fit the consumer ``weight`` ``[O, F]`` without the units ``dropped``; ``cross`` is ``W G``."""
    stay = torch.ones(units, dtype=torch.bool, device=gram.device)
    stay[dropped] = False
    kept = torch.nonzero(stay).flatten()
    columns = columns_of(kept, len(gram) // units)
    lower = torch.linalg.cholesky(gram[columns][:, columns])
    fitted = torch.cholesky_solve(cross[:, columns].T, lower).T
    loss = float((cross * weight).sum() - (fitted * cross[:, columns]).sum())
    return Support(kept, torch.nonzero(~stay).flatten(), lower, fitted, loss)


def gains(current: Support, gram: Tensor, cross: Tensor) -> Tensor:
    """By how much the loss falls if a dropped unit comes back, for each of them; float64 ``[dropped]``."""
    span = len(current.lower) // len(current.kept)
    kept, dropped = columns_of(current.kept, span), columns_of(current.dropped, span)
    between = gram[kept][:, dropped]
    half = torch.linalg.solve_triangular(current.lower, between, upper=False)
    parts = half.reshape(len(kept), len(current.dropped), span).transpose(0, 1)
    own = diagonal_blocks(gram[dropped][:, dropped], len(current.dropped))
    return block_costs(cross[:, dropped] - current.weight @ between, own - parts.transpose(1, 2) @ parts)


def swapped(current: Support, gram: Tensor, cross: Tensor, count: int) -> Tensor:
    """The dropped units after ``count`` of the cheapest kept ones change places with those of largest gain."""
    inverse = torch.cholesky_inverse(current.lower)
    costs = block_costs(current.weight, diagonal_blocks(inverse, len(current.kept)))
    leave = costs.argsort(stable=True)[:count]
    rest = torch.ones(len(current.dropped), dtype=torch.bool, device=gram.device)
    rest[gains(current, gram, cross).argsort(descending=True, stable=True)[:count]] = False
    return torch.cat([current.dropped[rest], current.kept[leave]])
