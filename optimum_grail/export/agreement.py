"""Whether an exported model computes what PyTorch does: both are asked the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimum_grail.errors import ArchitectureError
from optimum_grail.export.samples import BATCH, Kind, images, tokens
from optimum_grail.export.sessions import Session

TOLERANCE = 1e-4
"""By how much a log-probability in float32 may differ."""
PROMPT, STEPS, PADDED = 7, 16, 2
"""Tokens that both are given, tokens that both write, and how many of the first row are padding."""


@dataclass(frozen=True)
class Agreement:
    """How near an engine is to PyTorch.

    Args:
        worst: greatest difference of a log-probability; of an output without classes, as part of the greatest value.
        same: answers that are the same: greedy tokens of a decoder, classes of a classifier; 0 of an output without.
        answers: how many there are.
    """

    worst: float
    same: int
    answers: int

    def sentence(self, engine: str) -> str:
        """What a user reads of it."""
        answers = f", {self.same} of {self.answers} answers the same" if self.answers else ""
        return f"Run once in {engine} and compared with PyTorch: outputs within {self.worst:.1e}{answers}."


def has_classes(model: Any) -> bool:
    """Whether the first output of a model are logits, by the name of its class."""
    return "For" in type(model).__name__ or type(model).__name__.endswith("LMHeadModel")


def compare(theirs: Session, ours: Session, kind: Kind, config: Any, has_classes: bool) -> Agreement:
    """Ask both models the same, in rows of different lengths.

    Args:
        theirs: the exported model.
        ours: the model in PyTorch, in float32.
        kind: what it is.
        config: its configuration.
        has_classes: whether its output are logits.
    """
    if kind == "decoder":
        return written(theirs, ours, tokens(int(config.vocab_size), PROMPT), PADDED, STEPS)
    if kind == "image":
        inputs = {"pixel_values": images(config)}
        seen = torch.ones(1, dtype=torch.bool)
    else:
        mask = torch.ones(BATCH, PROMPT, dtype=torch.int64)
        mask[0, -PADDED:] = 0
        inputs, seen = {"input_ids": tokens(int(config.vocab_size), PROMPT), "attention_mask": mask}, mask.bool()
    got, wanted = theirs(inputs), ours(inputs)
    if kind == "encoder" and wanted.shape[:2] == seen.shape:
        got, wanted = got[seen], wanted[seen]
    if not has_classes or wanted.shape[-1] == 1:
        return Agreement(float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1.0)), 0, 0)
    worst = (got.log_softmax(-1) - wanted.log_softmax(-1)).abs().max()
    same = got.argmax(-1) == wanted.argmax(-1)
    return Agreement(float(worst), int(same.sum()), same.numel())


def written(theirs: Session, ours: Session, prompt: Tensor, padded: int, steps: int) -> Agreement:
    """Both read a prompt and continue it with what PyTorch finds likeliest, one token after the other.

    Args:
        theirs, ours: as of :func:`compare`.
        prompt: token numbers ``[rows, length]``, int64.
        padded: tokens at the beginning of the first row that nobody sees.
        steps: tokens that are written.
    """
    mask = torch.ones_like(prompt)
    mask[0, :padded] = 0
    for session in (theirs, ours):
        session.restart()
    gaps, same, ids = [], 0, prompt
    for _ in range(steps):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        got, wanted = (session(inputs).log_softmax(-1) for session in (theirs, ours))
        seen = mask[:, -ids.shape[1] :].bool()
        gaps.append((got[seen] - wanted[seen]).abs().max())
        ids = wanted[:, -1:].argmax(-1)
        same += int((got[:, -1:].argmax(-1) == ids).sum())
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return Agreement(float(torch.stack(gaps).max()), same, steps * len(prompt))  # NaN if any is


def insist(found: Agreement, engine: str, name: str) -> Agreement:
    """Give ``found`` back if it is near enough.

    Args:
        found: of the engine.
        engine: what ran it.
        name: of the model's class.

    Raises:
        ArchitectureError: an output differs by more than :data:`TOLERANCE`, is no number, or an answer is another one.
    """
    if found.worst <= TOLERANCE and found.same == found.answers:
        return found
    raise ArchitectureError(
        f"{engine} computes something else than PyTorch of this {name}: outputs differ by up to {found.worst:.1e} "
        f"(accepted: {TOLERANCE:g}) and {found.same} of {found.answers} answers are the same. Nothing was written. Run "
        "it with transformers, or try another target."
    )
