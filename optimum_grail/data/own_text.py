"""The calibration text that the model writes itself, or has written already for a run that did not end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optimum_grail.config.source import GENERAL
from optimum_grail.data.genres import corpus_digest, documents
from optimum_grail.data.parts import Part
from optimum_grail.data.request import Recipient
from optimum_grail.data.selfgen import SelfText, generate_self_text
from optimum_grail.errors import CheckpointError
from optimum_grail.processes.ranks import ALONE, Ranks
from optimum_grail.report.progress import Progress

Keep = Callable[[str, Mapping[str, Any], Callable[[], Mapping[str, Tensor]]], Mapping[str, Tensor]]
"""``(kind, what it depends on as JSON values, what makes it) -> tensors``, made only where they are not known."""


def own_text(recipient: Recipient, part: Part, progress: Progress, keep: Keep | None, ranks: Ranks = ALONE) -> SelfText:
    """The text of one source.

    Args:
        recipient: the model, which writes where it has to.
        part: how much, and how.
        progress: told what is going on.
        keep: knows what was written before; ``None``: nothing was.
        ranks: processes that write it together.

    Raises:
        StatisticsError: the model's logits are not finite.
        CheckpointError: what ``keep`` knows is no text of this shape.
    """
    model: Any = recipient.model
    request, length = part.request, recipient.length(part.request.seqlen)
    general = part.writing is not None and part.writing.starts == GENERAL

    def write() -> dict[str, Tensor]:
        """Let the model write."""
        written = generate_self_text(
            model,
            recipient.tokenizer,
            num_samples=request.num_samples,
            seqlen=length,
            seed=request.seed,
            progress=progress,
            writing=part.writing,
            documents=documents() if general else (),
            ranks=ranks,
        )
        return {"ids": written.ids, "restarts": torch.tensor(written.restarts)}

    depends = {
        "shape": [request.num_samples, length],
        "seed": request.seed,
        "writing": None if part.writing is None else dataclasses.asdict(part.writing),
        "corpus": corpus_digest() if general else None,
    }
    found = write() if keep is None else keep("text", depends, write)
    ids, restarts = found.get("ids"), found.get("restarts")
    words = len(model.get_input_embeddings().weight)
    if ids is None or restarts is None or not _is_text(ids, (request.num_samples, length), words):
        raise CheckpointError("The text that was kept of an interrupted run is damaged. Delete its state's folder.")
    return SelfText(ids, int(restarts))


def _is_text(ids: Tensor, shape: tuple[int, int], words: int) -> bool:
    return ids.dtype == torch.int64 and tuple(ids.shape) == shape and bool(((ids >= 0) & (ids < words)).all())
