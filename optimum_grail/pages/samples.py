"""What the dense and the compressed model write, kept in the report of the compressed one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from transformers import GenerationMixin

from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.processors import load_processors
from optimum_grail.errors import DataError
from optimum_grail.pages.run import SAMPLES, Sample
from optimum_grail.report.report import Report

NEW_TOKENS = 60


def write_samples(
    folder: str | Path, reference: str | Path, prompts: Sequence[str], *, trust_remote_code: bool = False
) -> list[Sample]:
    """Have both models go on from ``prompts``, greedily, and put that into ``grail_report.json`` of ``folder``.

    Args:
        folder: a compressed causal language model.
        reference: the dense one.
        prompts: beginnings of at least one token.
        trust_remote_code: whether code that a model's repository brings may run.

    Returns:
        what was written, at most :data:`NEW_TOKENS` new tokens each.

    Raises:
        DataError: a model does not write text, has no tokenizer, or a prompt has no tokens.
        CheckpointError: a model cannot be loaded, or ``folder`` has no report.
    """
    report = Report.load(folder)
    dense = continuations(reference, prompts, trust_remote_code)
    compressed = continuations(folder, prompts, trust_remote_code)
    found = [
        Sample(prompt=prompt, dense=before, compressed=after)
        for prompt, before, after in zip(prompts, dense, compressed, strict=True)
    ]
    dataclasses.replace(report, extra={**report.extra, SAMPLES: found}).save(folder)
    return found


@torch.no_grad()
def continuations(model: str | Path, prompts: Sequence[str], trust_remote_code: bool = False) -> list[str]:
    """How a model goes on from every prompt, greedily, without the prompt itself.

    Raises:
        DataError: it does not write text, has no tokenizer, or a prompt has no tokens.
    """
    loaded = load_model(model, trust_remote_code=trust_remote_code).eval()
    tokenizer, _ = load_processors(model, trust_remote_code)
    if tokenizer is None or not isinstance(loaded, GenerationMixin):
        raise DataError(f"{str(model)!r} does not write text from a prompt. Leave --prompt out.")
    written = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(loaded.device)
        if ids.shape[-1] == 0:
            raise DataError(f"The prompt {prompt!r} has no tokens. Name at least a word.")
        out = loaded.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS
        )
        new = cast(torch.Tensor, out)[0, ids.shape[-1] :]
        written.append(str(tokenizer.decode(new, skip_special_tokens=True)))
    return written
