"""One row of ``real.py``, in a process of its own, so that memory is this row's: reads a cell, writes the row.

python benchmarks/_real_row.py CELL.json ROW.json [PEERS]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import torch
import transformers
from _common import REPOSITORY, data_folder, environment
from _real_bits import bytes_of, round_
from _real_models import BY_NAME, METHODS, PEERS, Cell
from _real_peers import pruned
from _real_subjects import Subject, subject_of
from torch import nn

from optimum_grail import GrailCompressor
from optimum_grail.errors import GrailError
from optimum_grail.evaluation.agreement import Answers
from optimum_grail.evaluation.lm_eval import evaluate_tasks
from optimum_grail.hub.metadata import without_folders

RELOADER = Path(__file__).with_name("_real_reload.py")
TASKS = ("arc_easy", "piqa", "hellaswag", "winogrande", "openbookqa")
"""Sets of ``lm-eval-choice``, through task files beside this script."""
DOCUMENTS = 200
"""First documents of each."""


def configuration(cell: Cell, subject: Subject) -> dict[str, Any]:
    """Fields of the configuration of one of our methods."""
    fields = {**METHODS[cell.method], **subject.model.settings, "sparsity": cell.size / 100}
    fields["num_samples"] = cell.samples
    return {**fields, "seqlen": 512} if subject.model.causal and subject.model.name != "llama-books-3m" else fields


def compressed(cell: Cell, subject: Subject, model: nn.Module) -> tuple[nn.Module, dict[str, Any], Any]:
    """The model, compressed in place, the figures of its report, and what saves it."""
    tokenizer, processor = subject.processors
    named = {"tokenizer": tokenizer, "processor": processor, "source": subject.model.name}
    compressor = GrailCompressor(model, configuration(cell, subject), spec=subject.spec, **named)
    compressor.compress(calibration_dataset=subject.calibration(cell.method.endswith("other corpus")))
    report = compressor.report
    found = {
        "blocks_removed": report.achieved,
        "standalone": report.standalone,
        "calibration": without_folders({"source": report.calibration.source})["source"] if report.calibration else None,
        "config": without_folders(report.config),
        "lines": 1,
    }
    return compressor.model, found, compressor.save_pretrained


def reloads(subject: Subject, model: nn.Module, save: Any, scratch: Path) -> str:
    """``yes``, or why a process without this package cannot load what was saved."""
    if subject.spec is not None:
        return "no: a plain module, which load_compressed_ fills"
    example, any_module = subject.example(), model
    with torch.inference_mode():
        output = any_module(**example)
    torch.save({"inputs": example, "expected": output[0]}, scratch / "example.pt")
    save(scratch / "saved")
    command = [sys.executable, str(RELOADER), str(scratch / "saved"), type(model).__name__, str(scratch / "example.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"no: {done.stderr.strip()[-200:]}"


def agreement(dense: Answers | None, subject: Subject, model: nn.Module) -> dict[str, float] | None:
    """How far ``model`` answers as the dense one."""
    found = subject.answers(model)
    return None if dense is None or found is None else found.agreement(dense)


def quality(cell: Cell, peers: Path | None) -> dict[str, Any]:
    """Compress, round, measure."""
    subject = subject_of(replace(BY_NAME[cell.model], samples=cell.samples or BY_NAME[cell.model].samples))
    model = subject.load()
    is_dense = cell.method == "dense"
    dense = None if is_dense and not cell.bits else subject.answers(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    start, row = time.perf_counter(), dict[str, Any]()
    save: Any = getattr(model, "save_pretrained", None)
    with tempfile.TemporaryDirectory() as scratch:
        if cell.method in PEERS:
            model, row = pruned(subject, model, cell, peers, Path(scratch))
            save = getattr(model, "save_pretrained", None)
        elif not is_dense:
            model, row, save = compressed(cell, subject, model)
        row["seconds"] = time.perf_counter() - start
        if not is_dense and not cell.bits:
            row["reloads"] = reloads(subject, model, save, Path(scratch))
    row |= {"parameters": sum(parameter.numel() for parameter in model.parameters()), "dense_parameters": before}
    row["bytes"] = bytes_of(model, cell.bits)
    round_(model, cell.bits)
    row |= {"scores": subject.scores(model), "shown": subject.shown(model)}
    row["agreement"] = agreement(dense, subject, model)
    row["metric"], row["headline"] = subject.metric, subject.headline
    return row


def zero_shot(cell: Cell, peers: Path | None) -> dict[str, Any]:
    """Compress, save, and let lm-eval measure what was saved."""
    subject = subject_of(BY_NAME[cell.model])
    tasks = [str(task_file(name)) for name in TASKS]
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(subject.folder)
        if cell.method in PEERS:
            pruned(subject, subject.load(), cell, peers, Path(scratch))[0].save_pretrained(Path(scratch) / "saved")
        elif cell.method != "dense":
            compressed(cell, subject, subject.load())[2](Path(scratch) / "saved")
        if cell.method != "dense":
            saved = Path(scratch) / "saved"
            subject.processors[0].save_pretrained(saved)
        found = evaluate_tasks(saved, tasks, limit=DOCUMENTS)
    return {"tasks": found["tasks"], "lm_eval": found["lm_eval"], "documents": DOCUMENTS}


def task_file(name: str) -> Path:
    """A task of lm-eval over a file of the data folder, written into the build folder."""
    separator = " " if name in ("openbookqa", "hellaswag") else "\nAnswer: "
    text: dict[str, Any] = {
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data_folder() / "lm-eval-choice" / f"{name}.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": separator,
        "metric_list": [{"metric": metric} for metric in ("acc", "acc_norm")],
    }
    if name == "winogrande":  # every option is a beginning of its own, and the rest of the sentence is scored
        text |= {"doc_to_text": "{{gold}}", "doc_to_choice": "{{context_options}}", "doc_to_target": "{{continuation}}"}
        text |= {"target_delimiter": " ", "metric_list": [{"metric": "acc"}]}
    path = REPOSITORY / "build" / "tasks" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(text), encoding="utf-8")  # JSON is YAML
    return path


def main() -> None:
    """Read the cell, measure, write the row."""
    cell = Cell(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    peers = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    load = os.getloadavg()[0]
    try:
        row: Mapping[str, Any] = (quality if cell.what == "quality" else zero_shot)(cell, peers)
    except GrailError as error:
        row = {"refused": str(error)}
    memory = {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    told = {**vars(cell), **row, **memory, "load": [load, os.getloadavg()[0]], **environment()}
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
