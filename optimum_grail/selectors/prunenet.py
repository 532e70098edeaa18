"""PruneNet: a policy that learns from the spectra of the weights which units can go, without any data."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimum_grail.core.contracts import Selector
from optimum_grail.core.preset import Preset
from optimum_grail.core.problem import GroupProblem, Need, Selection
from optimum_grail.errors import ConfigError
from optimum_grail.selectors import SELECTORS

SKETCH = 256
"""Rows longer than this are sketched to this many numbers before anything else."""
LEARNING_RATE = 1e-2
CLIP = 1.0
LEAST_DISTANCE = 1e-3
"""Spectra nearer than this count as this near: rewards stay finite."""


PAPER = """@inproceedings{sengupta2025prunenet,
  title     = {You Only Prune Once: Designing Calibration-Free Model Compression With Policy Learning},
  author    = {Sengupta, Ayan and Chaudhary, Siddhant and Chakraborty, Tanmoy},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  note      = {arXiv:2501.15296}
}"""


@SELECTORS.register
@dataclass(frozen=True)
class Prunenet(Selector):
    """Keep the units that a learned policy scores highest.

    PruneNet (Sengupta et al. 2025): a policy looks at each unit's weights and is trained by REINFORCE; the reward of a
    choice is one over the Kolmogorov-Smirnov distance between the singular values of the producers' rows that stay and
    of all rows. Ours differs where that makes it small, fast and repeatable: the policy is one vector per group (the
    paper's two linear maps in a row are one), long rows and spectra are taken from a count sketch, the reward of the
    greedy choice is the baseline, gradients are clipped before the step, and what is removed is not drawn: the
    best-rewarded policy's scores decide.

    Args:
        episodes: training steps, each with two spectra; the authors train for 20.
        policy: a ``.safetensors`` file. Groups found in it are not trained; policies of others are added to it. One
            file serves every ratio.

    Raises:
        ConfigError: a value outside its range, or a file that cannot be used.
    """

    episodes: int = 20
    policy: str | None = None
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str | None] = PAPER
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            name="prunenet",
            summary="A policy learned on the spectra of the weights decides what stays.",
            paper="Sengupta et al. 2025 (PruneNet)",
            selector="prunenet",
            compensator="none",
            needs="no data",
            cost="seconds of training per layer; a saved policy serves every ratio",
            works="everywhere; the paper prunes feed-forward layers only (--ffn-sparsity)",
        ),
    )

    def __post_init__(self) -> None:
        if not isinstance(self.episodes, int) or isinstance(self.episodes, bool) or self.episodes < 0:
            raise ConfigError(f"prunenet episodes is {self.episodes!r}; expected a whole number of at least 0.")
        if self.policy is not None and not str(self.policy).endswith(".safetensors"):
            raise ConfigError(f"prunenet policy is {self.policy!r}; expected a path that ends in .safetensors.")

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """Reduce ``problem`` to the ``keep`` units of largest score."""
        rows = unit_rows(problem)
        known = self._saved()
        policy = known.get(problem.name)
        if policy is None:
            generator = torch.Generator().manual_seed(problem.seed + zlib.crc32(problem.name.encode()))
            policy = trained(rows, keep, self.episodes, generator)
            self._save({**known, problem.name: policy})
        if policy.shape != rows.shape[1:]:
            raise ConfigError(
                f"The policy of {problem.name!r} in {self.policy} reads {len(policy)} numbers per unit; the group has "
                f"{rows.shape[1]}. It belongs to another model: name another file."
            )
        return Selection.by_score(rows @ policy.to(rows), keep)

    def _saved(self) -> dict[str, Tensor]:
        if self.policy is None or not Path(self.policy).exists():
            return {}
        try:
            found: dict[str, Tensor] = load_file(self.policy)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"prunenet policy {self.policy} cannot be read: {error}. Name another file.") from error
        return found

    def _save(self, policies: dict[str, Tensor]) -> None:
        if self.policy is None:
            return
        target = Path(self.policy)
        part = target.with_name(target.name + ".part")
        try:
            save_file(policies, part)
            os.replace(part, target)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"prunenet policy {target} cannot be written: {error}. Name another file.") from error


def unit_rows(problem: GroupProblem) -> Tensor:
    """One row of at most :data:`SKETCH` numbers per unit, float64, with mean square one.

    The rows of all producers (the consumer's columns where there are none). Long ones are hashed into buckets with
    random signs (count sketch), which keeps inner products in expectation and is the same for every seed.
    """
    columns = problem.weight.reshape(len(problem.weight), problem.units, -1).transpose(0, 1).flatten(1)
    rows = torch.cat([matrix.flatten(1) for matrix in problem.producers] or [columns], 1)
    length = rows.shape[1]
    if length > SKETCH:
        generator = torch.Generator().manual_seed(length)
        bucket = torch.randint(SKETCH, (length,), generator=generator).to(rows.device)
        sign = (2 * torch.randint(2, (length,), generator=generator) - 1).to(rows)
        rows = rows.new_zeros(len(rows), SKETCH).index_add_(1, bucket, rows * sign)
    scale: Tensor = rows.square().mean().sqrt().clamp(min=1e-150)
    return rows / scale


def spectrum(rows: Tensor) -> Tensor:
    """Singular values of ``rows`` ``[k, d]``, ascending, by the smaller of its two Grams."""
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    values: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return values


def reward(rows: Tensor, whole: Tensor, kept: Tensor) -> float:
    """One over the two-sample Kolmogorov-Smirnov distance between the spectra of the rows ``kept`` and ``whole``."""
    part = spectrum(rows[kept])
    points = torch.cat([part, whole])
    shares = [torch.searchsorted(values, points, right=True) / len(values) for values in (part, whole)]
    return 1.0 / max(float((shares[0] - shares[1]).abs().max()), LEAST_DISTANCE)


def trained(rows: Tensor, keep: int, episodes: int, generator: torch.Generator) -> Tensor:
    """The policy ``[d]`` of largest reward among those that ``episodes`` steps of REINFORCE pass through."""
    policy = (torch.randn(rows.shape[1], generator=generator, dtype=torch.float64) / rows.shape[1] ** 0.5).to(rows)
    optimiser = torch.optim.AdamW([policy], lr=LEARNING_RATE)
    whole = spectrum(rows)
    best, best_reward = policy.clone(), 0.0
    for episode in range(episodes + 1):
        scores = rows @ policy
        greedy = reward(rows, whole, scores.topk(keep).indices)
        if greedy > best_reward:
            best, best_reward = policy.clone(), greedy
        if episode == episodes:
            break
        uniform = torch.rand(len(rows), generator=generator, dtype=torch.float64).clamp(min=1e-12).to(rows)
        kept_with = torch.sigmoid(scores + torch.logit(uniform, eps=1e-12))
        drawn = torch.multinomial((kept_with + 1e-12).cpu(), keep, generator=generator).to(rows.device)
        advantage = reward(rows, whole, drawn) - greedy
        # The gradient of minus the mean log probability of the drawn rows, log sigmoid, times the advantage.
        step = -advantage * ((1 - kept_with[drawn]) @ rows[drawn]) / keep
        policy.grad = step * min(1.0, CLIP / max(float(step.norm()), 1e-300))
        optimiser.step()
    result: Tensor = best.contiguous()
    return result
