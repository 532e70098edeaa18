"""The same checkpoints in several engines: how near each is to PyTorch, how fast, how large.

Of every model a dense checkpoint, a smaller one of one width for all layers and one with a width per layer are made,
exported for each engine and asked: 16 greedy tokens after each of four prompts. PyTorch in float32 judges every token
that was written: whether it would have chosen it, and by how much its log-probability differs. Rows go to
``benchmarks/results/engines.json`` as soon as they are there; one that is there is not measured again unless ``--redo``
asks for it. What an engine refuses is a row, too. ``python benchmarks/engines_tables.py`` makes the page.

    python benchmarks/engines.py [--only MODEL ...] [--place FOLDER] [--vllm PYTHON] [--redo]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _common import EMBEDDED, environment, models_folder, read_results, write_results
from _engines import Answer, Engine, LlamaCpp, Onnx, OpenVino, PyTorch, Vllm, Work, compressed, weight_bytes
from llama_cpp import PROMPTS, STEPS
from transformers import AutoTokenizer

from optimum_grail.checkpoints.loading import load_model

RESULT, LONG, TURNS = "engines", 64, 3
SMOL = "SmolLM2-135M-Instruct"
FORMS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "one width": {"sparsity": 0.3, "allocation": "uniform", "standalone": True},
    "a width per layer": {"sparsity": 0.3, "allocation": "knapsack", "standalone": False},
}
"""Checkpoints and the configurations that they are compressed with."""
SAMPLES: Mapping[str, Any] = {"num_samples": 32, "seqlen": 128}
"""Few: what is measured here does not depend on how good the model is."""


@torch.no_grad()
def judged(folder: Path, prompts: list[list[int]], answer: Answer) -> dict[str, Any]:
    """What PyTorch says of every token that was written."""
    model = load_model(folder, device="cpu", dtype="float32")
    worst, same, count = 0.0, 0, 0
    for prompt, written in zip(prompts, answer.written, strict=True):
        ids = torch.tensor([prompt + [token for token, _ in written]])
        wanted = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for (token, found), row in zip(written, wanted, strict=True):
            worst = max(worst, abs(found - float(row[token])))
            same += int(token == int(row.argmax()))
            count += 1
    return {"worst": worst, "same": same, "tokens": count}


def measured(engine: Engine, folder: Path) -> dict[str, Any]:
    """A row: what the engine answers, or why it does not."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    with tempfile.TemporaryDirectory() as place:
        try:
            path = engine.files(folder, Path(place))
            answer = engine.answer(path, Work(prompts, STEPS, LONG, TURNS))
        except Exception as error:  # engines have exceptions of their own; the row tells it
            return {"reads": engine.form, "refused": f"{type(error).__name__}: {error}"[:400]}
        return {
            "reads": engine.form,
            "bytes": weight_bytes(path),
            "load_seconds": answer.load,
            "tokens_per_second": answer.speed,
            **judged(folder, prompts, answer),
        }


def engines(vllm: str | None) -> dict[str, Engine]:
    """The engines by the names of their rows."""
    here: dict[str, Engine] = {one.name: one for one in (PyTorch(), LlamaCpp(), Onnx(), OpenVino())}
    if vllm:
        here |= {"vLLM": Vllm(vllm, False), "vLLM, exported": Vllm(vllm, True)}
    return here


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models by their names")
    parser.add_argument("--place", type=Path, metavar="FOLDER", help="where compressed models are kept")
    parser.add_argument("--vllm", metavar="PYTHON", help="the interpreter of an environment with vLLM: see vllm.txt")
    parser.add_argument("--redo", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    rows = {(row["model"], row["form"], row["engine"]): row for row in read_results(RESULT).get("rows", [])}
    with tempfile.TemporaryDirectory() as aside:
        for model in (EMBEDDED, models_folder() / SMOL):
            if not model.is_dir() or (options.only and model.name not in options.only):
                continue
            for form in FORMS:
                for name, engine in engines(options.vllm).items():
                    key = (model.name, form, name)
                    if key in rows and not options.redo:
                        continue
                    settings = {**FORMS[form], **SAMPLES} if FORMS[form] else {}
                    folder = compressed(model, form, settings, options.place or Path(aside))
                    row = measured(engine, folder)
                    rows[key] = dict(zip(("model", "form", "engine"), key, strict=True)) | row | environment()
                    rows[key] |= {"engines": {one: version(one) for one in ("xllamacpp", "onnxruntime", "openvino")}}
                    write_results(RESULT, {"rows": list(rows.values())})
                    print(key, row)


if __name__ == "__main__":
    main()
