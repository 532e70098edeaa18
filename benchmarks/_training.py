"""Training of the small models that the benchmarks need, for a given time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from _common import data_folder
from torch import Tensor, nn

from optimum_grail.data.rows import read_rows

BOOKS = data_folder() / "classic-books"
WINDOW = 256
SEED = 0
WARM_UP = 100
"""Steps until the learning rate is at its peak."""
LOGGER = logging.getLogger("training")


def windows(tokenizer: object, files: Iterable[Path]) -> Tensor:
    """All windows of the texts in ``files``; int64, ``[n, WINDOW]``."""
    ids: list[int] = []
    for file in files:
        for text in read_rows(str(file)).data["text"]:
            ids.extend(tokenizer(text, verbose=False)["input_ids"])  # type: ignore[operator]
    count = len(ids) // WINDOW
    return torch.tensor(ids[: count * WINDOW]).view(count, WINDOW)


def batches(count: int, size: int, rounds: int = 1) -> Iterator[Tensor]:
    """Numbers of the samples of every step: all of them in a drawn order, ``rounds`` times; the rest is left out."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(rounds):
        yield from torch.randperm(count, generator=generator)[: count - count % size].view(-1, size)


def optimizer_for(model: nn.Module, peak: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), foreach=True)


def train_(
    model: nn.Module, inputs: Iterator[Mapping[str, Tensor]], minutes: float, peak: float, autocast: bool
) -> int:
    """Train until the time or the data is used up; the learning rate falls with the time.

    Args:
        model: puts out a ``loss``.
        inputs: its arguments, step by step.
        minutes: of wall time.
        peak: highest learning rate.
        autocast: whether to compute in bfloat16.

    Returns:
        the steps made.
    """
    optimizer, start, step = optimizer_for(model, peak), time.monotonic(), 0
    model.train()
    for batch in inputs:
        used = (time.monotonic() - start) / (60 * minutes)
        if used >= 1:
            break
        rate = peak * min((step + 1) / WARM_UP, max(1 - used, 0.02))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 20 == 0:
            LOGGER.info("step %d  %.0f s  loss %.3f  rate %.1e", step, time.monotonic() - start, float(loss), rate)
    return step
