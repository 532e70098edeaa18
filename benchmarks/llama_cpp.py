"""Models in llama.cpp: how near to PyTorch the exported file is, and how fast.

For every model and type of weights: the greatest difference of a log-probability and the divergence over the 500
likeliest tokens at 16 greedy steps after each of four prompts, how many tokens are the same, the size of the file, and
the tokens per second of one thread, the best of several turns in which the models alternate. f32 computes as exactly as
llama.cpp can (f32 cache, no flash attention), the others by its defaults. Rows go to
``benchmarks/results/llama_cpp.json``; one that is there already is not measured again unless ``--redo`` asks for it.

    python benchmarks/llama_cpp.py SmolLM2-135M-Instruct=models/SmolLM2-135M-Instruct "30 %=small" [--redo]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xllamacpp as engine
from _common import environment, read_results, write_results
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail import export_model

RESULT, TYPES, STEPS, LIKELIEST, TURNS, TOKENS = "llama_cpp", ("f32", "f16", "q8_0", "q4_0"), 16, 500, 5, 64
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little",
    "Water boils at a temperature of",
    "The three most important inventions of the twentieth century were",
)


def served(path: Path, exact: bool, rows: int = 1, threads: int = 1) -> Any:
    """A file in llama.cpp, for ``rows`` prompts of up to 256 tokens at a time."""
    params = engine.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.n_parallel = str(path), 256 * rows, 0, rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if exact:
        params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return engine.Server(params)


@torch.no_grad()
def agreement(folder: str, path: Path, kind: str) -> dict[str, Any]:
    """How near llama.cpp is to PyTorch in float32."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    server = served(path, kind == "f32")
    worst = divergence = 0.0
    same = steps = 0
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        request = {"prompt": ids, "max_tokens": STEPS, "temperature": 0, "n_probs": LIKELIEST}
        found = server.handle_completions(request)["choices"][0]["logprobs"]["content"]
        written = [step["id"] for step in found]
        logits = model.eval()(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        for step, wanted in zip(found, logits, strict=True):
            near = torch.tensor([item["id"] for item in step["top_logprobs"]])
            gap = wanted[near] - torch.tensor([item["logprob"] for item in step["top_logprobs"]])
            worst = max(worst, float(gap.abs().max()))
            divergence += float((wanted[near].exp() * gap).sum())
            same += int(step["id"] == int(wanted.argmax()))
            steps += 1
    return {"worst": worst, "kl": divergence / steps, "same_tokens": same, "steps": steps}


def speed(path: Path) -> float:
    """Tokens per second, by the clock."""
    server = served(path, exact=False)
    request = {"prompt": [1, 2, 3, 4], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    server.handle_completions({**request, "max_tokens": 2})
    start = time.perf_counter()
    server.handle_completions(request)
    return TOKENS / (time.perf_counter() - start)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--redo", action="store_true", help="measure again what is there")
    options = parser.parse_args()
    models = dict(word.split("=", 1) for word in options.models)
    rows = {} if options.redo else {(row["model"], row["type"]): row for row in read_results(RESULT).get("rows", [])}
    todo = [(name, kind) for kind in TYPES for name in models if (name, kind) not in rows]
    with tempfile.TemporaryDirectory() as place:
        paths: dict[tuple[str, str], Path] = {}
        for name, kind in todo:
            done = export_model(models[name], Path(place) / f"{len(paths)}.gguf", f"gguf:type={kind}")
            paths[name, kind] = done.path
            row = {"model": name, "type": kind, "architecture": done.form, "bytes": done.path.stat().st_size}
            row |= {"f16_matrices": sum(item.count for item in done.rows if item.type == "f16")}
            rows[name, kind] = {
                **row,
                **agreement(models[name], done.path, kind),
                "tokens_per_second": 0.0,
                **environment(),
                "xllamacpp": version("xllamacpp"),
            }
        for _ in range(TURNS):
            for key, path in paths.items():
                rows[key]["tokens_per_second"] = max(rows[key]["tokens_per_second"], speed(path))
    write_results(RESULT, {"rows": list(rows.values())})
    for row in rows.values():
        near = f"worst {row['worst']:.1e}, KL {row['kl']:.1e}, {row['same_tokens']}/{row['steps']} tokens"
        size = f"{row['bytes']:,} bytes as {row['architecture']}"
        print(f"{row['model']}, {row['type']}: {size}, {near}, {row['tokens_per_second']:.1f} tokens/s")


if __name__ == "__main__":
    main()
