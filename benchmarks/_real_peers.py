"""What peers are given and what becomes of their models: a job on disk, a process in their own environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from _common import REPOSITORY, data_folder
from _real_models import Cell
from _real_subjects import Embedder, Images, Language, Module, Subject
from torch import nn

from optimum_grail.data.batches import collate
from optimum_grail.data.request import DataRequest, Recipient
from optimum_grail.data.rows import read_rows
from optimum_grail.data.sources import load_calibration
from optimum_grail.errors import DataError
from optimum_grail.models.resolve import resolve

PEER = Path(__file__).with_name("_peer_torch_pruning.py")
DEFAULT = REPOSITORY / "build" / "peers" / "torch-pruning"
SIZE = 16
"""Rows per batch."""


def code_lines(path: Path) -> int:
    """Lines that a user of the peer would write: those between the marks that are code."""
    inside = path.read_text(encoding="utf-8").partition("# what a user writes\n")[2].partition("# end of that\n")[0]
    told = [line.strip() for line in inside.splitlines()]
    return sum(1 for line in told if line and not line.startswith(("#", '"""')))


def pruned(
    subject: Subject, model: nn.Module, cell: Cell, peers: Path | None, scratch: Path
) -> tuple[Any, dict[str, Any]]:
    """The model as the peer leaves it, with as many parameters as ours has.

    Raises:
        DataError: the peer's environment is absent, or it failed.
    """
    python = (peers or DEFAULT) / "bin" / "python"
    if not python.exists():
        raise DataError(f"{python} is absent. Make the environment of benchmarks/torch-pruning.txt, or name --peers.")
    layout = resolve(model, subject.spec)
    gone = round(cell.size / 100 * layout.block_parameters)
    job = {
        "folder": subject.folder,
        "class": type(model).__name__,
        "kind": subject.model.kind,
        "importance": cell.method.rpartition(" ")[2],
        "gone": gone,
        "batches": list(batches(subject, model, cell)),
        "source": str(REPOSITORY / "examples" / "custom_module.py"),
        "weights": model.state_dict() if isinstance(subject, Module) else None,
    }
    torch.save(job, scratch / "job.pt")
    command = [str(python), str(PEER), str(scratch / "job.pt"), str(scratch / "pruned.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    if done.returncode:
        raise DataError(f"Torch-Pruning failed: {done.stderr.strip().splitlines()[-1][:300]}.")
    found: Any = torch.load(scratch / "pruned.pt", weights_only=False)  # written by the process above
    return found.eval(), {"lines": code_lines(PEER), "calibration": "as the default's", "peer": done.stdout.strip()}


def batches(subject: Subject, model: nn.Module, cell: Cell) -> Any:
    """What gradients come from: inputs with labels. Language models: the windows of the default."""
    count = cell.samples
    if isinstance(subject, Language):
        recipient = Recipient.of(model, resolve(model, subject.spec), subject.processors[0])
        request = DataRequest(None, num_samples=count, seqlen=subject.seqlen).filled(recipient)
        data = load_calibration(recipient, request)
        yield from ({**batch.inputs, "labels": batch.inputs["input_ids"]} for batch in data.batches)
    elif isinstance(subject, Embedder):
        yield from pairs(subject, count)
    elif isinstance(subject, Images):
        yield from labelled(subject, count)
    elif isinstance(subject, Module):
        images, labels = subject.images(0, False)
        for start in range(0, count, SIZE):
            yield {"images": images[start : start + SIZE], "labels": labels[start : start + SIZE]}


def pairs(subject: Subject, count: int) -> Any:
    """Sentences of STS-B side by side, and their score from 0 to 1."""
    rows, tokenizer = read_rows(str(data_folder() / "stsb/train.csv")).data, subject.processors[0]
    for start in range(0, count // 2, SIZE):
        part = rows[start : min(start + SIZE, count // 2)]
        both = part["sentence1"] + part["sentence2"]
        encoded = tokenizer(both, return_tensors="pt", padding=True, truncation=True, max_length=128)
        scores = torch.tensor([float(score) for score in part["score"]]) / 5
        yield {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": scores}


def labelled(subject: Images, count: int) -> Any:
    """Images and their classes."""
    rows = subject.calibration(False)
    column = next(name for name in ("image", "img") if name in rows.column_names)
    label = next(name for name in ("label", "labels") if name in rows.column_names)
    for start in range(0, min(count, len(rows)), SIZE):
        part = [rows[index] for index in range(start, min(start + SIZE, count, len(rows)))]
        from optimum_grail.data.images import image_samples, open_image

        pictures = [open_image(row[column], "calibration") for row in part]
        inputs = collate(image_samples(pictures, subject.processors[1]), 0)
        yield {**inputs, "labels": torch.tensor([int(row[label]) for row in part])}
