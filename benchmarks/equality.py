"""Every preset on the tiny examples, and the default on the embedded model, as hashes: what a move must not change.

``python benchmarks/equality.py --write FILE`` on one commit, ``--against FILE`` on another, on the same machine with
the same versions: the plan (units kept, order, curve) and every weight have to be equal to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import EMBEDDED, environment
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_grail import GrailCompressor, GrailError
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.resnet import tiny_basic

SAMPLES = 8
TOKENS = 12
DATA_FREE = ("magnitude", "folding", "prunenet")
PRESETS = (
    *("grail-plus", "grail", "magnitude", "magnitude+grail", "wanda", "wanda+grail", "wandapp", "wandapp+grail"),
    *("flap", "flap+grail", "liar", "slimgpt", "slimgpt+grail", "ziplm", "osscar", "fisher", "comp", "folding"),
    "prunenet",
)
ALLOCATIONS = ("uniform", "balanced", "balanced:depth=true", "knapsack", "knapsack:budget=flops", "owl", "fisher")


def examples() -> dict[str, Callable[[], nn.Module]]:
    """The tiny models of the registered maps, by model type."""
    found = {spec.model_types[0]: spec.example for spec in ARCHITECTURES.specs() if spec.example}
    return {**found, "clip": tiny_clip, "resnet-basic": tiny_basic}


def samples_of(model: Any) -> list[dict[str, Tensor]]:
    """Random inputs that fit the model."""
    draw = torch.Generator().manual_seed(0)
    config = model.config
    vision, text = getattr(config, "vision_config", config), getattr(config, "text_config", config)
    found: list[dict[str, Tensor]] = []
    for _ in range(SAMPLES):
        sample = {}
        if getattr(text, "vocab_size", None):
            sample["input_ids"] = torch.randint(3, 90, (TOKENS,), generator=draw)
        if getattr(vision, "num_channels", None):
            size = getattr(vision, "image_size", 32)
            sample["pixel_values"] = torch.randn(3, size, size, generator=draw)
        found.append(sample)
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        state.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def outcome(compressor: GrailCompressor) -> dict[str, str]:
    """Hashes of what a run did."""
    plan: dict[str, Tensor] = {}
    for name, item in (compressor.plan or {}).items():
        plan[f"{name}.assignment"], plan[f"{name}.weight"] = item.reduction.assignment, item.reduction.weight
        plan |= {f"{name}.{key}": t for key, t in (("order", item.order), ("curve", item.curve)) if t is not None}
    return {"plan": digest(plan), "weights": digest(compressor.model.state_dict())}


def tiny(build: Callable[[], nn.Module], config: Mapping[str, Any], *, data: bool) -> dict[str, str]:
    """Compress a tiny example."""
    model = build()
    compressor = GrailCompressor(model, {"sparsity": 0.4, "num_samples": SAMPLES, "batch_size": 4, **config})
    try:
        compressor.compress(samples_of(model) if data else None)
    except GrailError as error:
        return {"refused": type(error).__name__}
    return outcome(compressor)


def embedded(config: Mapping[str, Any]) -> dict[str, str]:
    """Compress the embedded language model on text of its own."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    settings = {"sparsity": 0.5, "num_samples": 32, "seqlen": 128, "dataset": "self", **config}
    compressor = GrailCompressor(model, settings, tokenizer=tokenizer, source="embedded")
    compressor.compress()
    return outcome(compressor)


def cases() -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """Name and run of every case."""
    for kind, build in examples().items():
        for preset in PRESETS:
            config = {"preset": preset}
            yield f"{kind} {preset}", partial(tiny, build, config, data=preset not in DATA_FREE)
        for allocation in ALLOCATIONS:
            yield f"{kind} allocation {allocation}", partial(tiny, build, {"allocation": allocation}, data=True)
    yield "embedded default", lambda: embedded({})
    yield "embedded default, streams in files", lambda: embedded({"offload_streams": True})
    yield "embedded grail", lambda: embedded({"preset": "grail"})


def main() -> int:
    """Measure, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the hashes")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with the hashes of another commit")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, run in cases():
        if arguments.only in name:
            rows[name] = run()
            print(f"{name}: {rows[name]}", flush=True)
    if arguments.write is not None:
        arguments.write.write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if arguments.against is None:
        return 0
    known = json.loads(arguments.against.read_text(encoding="utf-8"))["rows"]
    other = [name for name, row in rows.items() if known.get(name) != row]
    print(f"{len(rows) - len(other)} of {len(rows)} cases are equal to the last bit.")
    print(*(f"differs: {name}" for name in other), sep="\n")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
