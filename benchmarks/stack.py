"""What compression, recovery and int8 do one after the other to one language model: quality, size, latency.

python benchmarks/stack.py [--steps N] [--sparsity FRACTION]

Writes ``benchmarks/results/stack.json``. The model is ``examples/llama-books-3m``, the text to measure on
``classic-books/test.parquet`` of the data folder; calibration and recovery use text that the model writes itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _common import EMBEDDED, data_folder, environment, write_results
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

from optimum_grail import GrailCompressor
from optimum_grail.evaluation.evaluate import evaluate_path
from optimum_grail.recovery import Recipe, recover
from optimum_grail.report.progress import RichProgress

SEQLEN = 256
WARM_UP, REPEATS = 5, 40


def quantized(folder: Path, out: Path) -> Path:
    """The checkpoint with torchao's int8 weights, embeddings in 16 bits."""
    config = TorchAoConfig(Int8WeightOnlyConfig())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


@torch.inference_mode()
def latencies(folders: Mapping[str, Path]) -> dict[str, float]:
    """Median seconds of one forward pass over 128 tokens, in the dtype of each checkpoint; the models take turns."""
    models = {name: AutoModelForCausalLM.from_pretrained(folder).eval() for name, folder in folders.items()}
    ids = torch.arange(3, 131)[None]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + REPEATS):
        for name, model in models.items():
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def measured(name: str, folder: Path, text: Path) -> dict[str, Any]:
    """One row, without its latency."""
    found = evaluate_path(folder, str(text), "perplexity", seqlen=SEQLEN, max_tokens=40960)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    row = {"name": name, "perplexity": found["perplexity"], "bytes": size, "protocol": found["protocol"]}
    print(row, flush=True)
    return row


def main() -> None:
    """Compress, recover, quantize, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="of the recovery")
    parser.add_argument("--sparsity", type=float, default=0.5)
    options = parser.parse_args()
    text = data_folder() / "classic-books" / "test.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        small, recovered = Path(scratch) / "small", Path(scratch) / "recovered"
        compressor = GrailCompressor.from_pretrained(EMBEDDED, {"sparsity": options.sparsity, "seqlen": SEQLEN})
        compressor.compress(save_directory=small, progress=RichProgress())
        recipe = Recipe(steps=options.steps, seqlen=SEQLEN)
        report = recover(small, recovered, recipe, progress=RichProgress())
        folders = {
            "dense": EMBEDDED,
            "dense + int8": quantized(EMBEDDED, Path(scratch) / "dense-int8"),
            "compressed": small,
            "compressed + int8": quantized(small, Path(scratch) / "small-int8"),
            "compressed + recovered": recovered,
            "compressed + recovered + int8": quantized(recovered, Path(scratch) / "recovered-int8"),
        }
        seconds = latencies(folders)
        rows = [{**measured(name, folder, text), "latency_seconds": seconds[name]} for name, folder in folders.items()]
    facts = {"sparsity": options.sparsity, "achieved": report.achieved, "recovery": dict(report.recovery)}
    write_results("stack", {"rows": rows, **facts, **environment()})


if __name__ == "__main__":
    main()
