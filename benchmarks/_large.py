"""What ``benchmarks/large.py`` runs in a process of its own: a model of random weights, and its compression."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

SEED = 42
SPARSITY = 0.5


@dataclass(frozen=True)
class Shape:
    """A LLaMA's sizes, and those of its calibration data."""

    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    layers: int
    samples: int
    tokens: int

    def config(self) -> transformers.LlamaConfig:
        """As transformers has it."""
        return transformers.LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=self.tokens,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
        )

    @property
    def block_bytes(self) -> int:
        """Of one block in float32."""
        return 4 * (4 * self.hidden**2 + 3 * self.hidden * self.ffn)


def write_model(shape: Shape, folder: Path) -> None:
    """Write a checkpoint with random weights, one shard per layer: never more than that in memory."""
    config = shape.config()
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    homes = {name: ".".join(name.split(".")[:3]) if ".layers." in name else name for name in names}
    index: dict[str, str] = {}
    draw = torch.Generator().manual_seed(SEED)
    for number, home in enumerate(dict.fromkeys(homes.values())):
        file = f"model-{number:05}.safetensors"
        held = {name: _values(size, draw) for name, size in names.items() if homes[name] == home}
        save_file(held, folder / file, {"format": "pt"})
        index |= dict.fromkeys(held, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _values(size: torch.Size, draw: torch.Generator) -> Tensor:
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)


@dataclass
class Eliminations:
    """What the eliminations of the widest groups took.

    Args:
        width: features that count as widest.
        seconds: of all of them.
        operations: the same.
    """

    width: int
    seconds: float = 0.0
    operations: float = 0.0

    def watched(self, eliminate: Callable[..., Any]) -> Callable[..., Any]:
        """The function ``eliminate``, timed."""

        def timed(weight: Tensor, gram: Tensor, units: int, remove: int, damping: float) -> Any:
            start = time.perf_counter()
            found = eliminate(weight, gram, units, remove, damping)
            if weight.shape[1] == self.width:
                self.seconds += time.perf_counter() - start
                self.operations += operations(weight.shape[0], self.width, remove)
            return found

        return timed


def operations(outputs: int, features: int, remove: int) -> float:
    """Floating point operations of an elimination of single features: a Cholesky factor, an inverse, two products of
    the weight, and for every removal a rank-one update of the inverse and one of rank two of the weight's product with
    itself."""
    left = range(features, features - remove, -1)
    return features**3 + 4.0 * outputs * features**2 + sum(6.0 * n * n for n in left)


def product_rate(size: int) -> float:
    """Float64 operations per second of a matrix product of ``size``."""
    matrix = torch.ones(size, size, dtype=torch.float64)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        matrix @ matrix
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


@dataclass
class Clock:
    """Progress that notes when each group was done.

    Args:
        stages: what is under way, with the seconds at which its groups were done.
    """

    stages: list[tuple[str, list[float]]] = field(default_factory=list)

    def start(self, total: int, description: str = "") -> None:
        """A stage begins."""
        self.stages.append((description, [time.perf_counter()]))

    def update(self, advance: int, description: str) -> None:
        """A group is done."""
        self.stages[-1][1].append(time.perf_counter())

    def finish(self) -> None:
        """A stage has ended."""

    def message(self, text: str) -> None:
        """Tell the log."""
        sys.stderr.write(f"{text}\n")


def work(folder: Path, preset: str, shape: Shape) -> None:
    """In a process of its own: compress the model in ``folder`` and print what it took."""
    from optimum_grail.compressor import GrailCompressor
    from optimum_grail.core.elimination import eliminate

    seen = Eliminations(shape.ffn)
    users: list[Any] = [import_module(f"optimum_grail.{name}") for name in ("selectors.obs", "signals._curves")]
    for user in users:
        user.eliminate = seen.watched(eliminate)
    draw = torch.Generator().manual_seed(SEED)
    ids = [
        {"input_ids": torch.randint(shape.vocabulary, (shape.tokens,), generator=draw)} for _ in range(shape.samples)
    ]
    config = {"preset": preset, "sparsity": SPARSITY, "low_memory": True, "batch_size": 1, "seed": SEED}
    clock, start = Clock(), time.perf_counter()
    compressor = GrailCompressor.from_pretrained(folder, config)
    compressor.compress(ids, folder / "out", progress=clock)
    wall = time.perf_counter() - start
    found: dict[str, Any] = {
        "wall_seconds": wall,
        "stage_seconds": dict(compressor.report.seconds),
        "stages": [(name, times[-1] - times[0], len(times) - 1) for name, times in clock.stages],
        "config": compressor.report.config,
        "parameters": [compressor.report.parameters_before, compressor.report.parameters_after],
        "elimination": {**asdict(seen), "share_of_wall": seen.seconds / wall},
    }
    if seen.seconds:
        del compressor
        rate = product_rate(min(shape.ffn, 4096))
        found["elimination"] |= {
            "gflops": seen.operations / seen.seconds / 1e9,
            "product_gflops": rate / 1e9,
            "share_of_product": seen.operations / seen.seconds / rate,
        }
    sys.stdout.write(json.dumps(found))
