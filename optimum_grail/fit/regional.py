"""Regional optimisation: a few gradient steps that bring a compressed block back to what it put out before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_grail.streams.blocks import BlockRun

SAMPLES = 32
RATE = 3e-7
"""Learning rate of RMSprop, and samples per round: those of Wanda++."""


@dataclass(frozen=True)
class Regional:
    """Rounds over the first samples of the student's stream (Yang et al. 2025, "Wanda++", section 3.2).

    It comes after the readouts, so nothing overwrites it.

    Args:
        run: the block and its stream.
        rounds: passes over the samples; 0 for none.
        outputs: what the uncompressed block put out, per batch.
    """

    run: BlockRun
    rounds: int
    outputs: Sequence[Tensor]

    @classmethod
    @torch.no_grad()
    def before(cls, run: BlockRun, rounds: int) -> Regional:
        """Remember what the block puts out before it is compressed; nothing if ``rounds`` is 0."""
        outputs: list[Tensor] = []
        seen = 0
        for call, hidden in zip(run.calls, run.streams.student, strict=True):
            if not rounds or seen >= SAMPLES:
                break
            outputs.append(call.run(run.block, hidden.clone()))
            seen += len(hidden)
        return cls(run, rounds, outputs)

    def optimise_(self, consumers: Sequence[str]) -> None:
        """Train the weights of ``consumers`` (paths of modules of the block) on the squared error of its output."""
        if not self.rounds:
            return
        run = self.run
        local = [run.block.get_submodule(path.removeprefix(run.path + ".")) for path in consumers]
        weights = [module.get_parameter("weight") for module in local]
        wanted = [weight.requires_grad for weight in weights]
        optimizer = torch.optim.RMSprop([weight.requires_grad_(True) for weight in weights], lr=RATE)
        with torch.enable_grad():
            for _ in range(self.rounds):
                for call, hidden, target in zip(run.calls, run.streams.student, self.outputs, strict=False):
                    loss = torch.nn.functional.mse_loss(call.run(run.block, hidden.clone()), target)
                    gradients = torch.autograd.grad(loss, weights)
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight.grad = gradient
                    optimizer.step()
        for weight, wants in zip(weights, wanted, strict=True):
            weight.grad = None
            weight.requires_grad_(wants)
