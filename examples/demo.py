"""Compress a real language model by half, show what is lost and what is regained, save it, load it again.

The model is ``examples/llama-books-3m``. Nothing is downloaded: the model writes its own calibration text, and the
evaluation text is the documentation that ships with every Python interpreter, and a fresh sample of the dense model.

    python examples/demo.py [--sparsity 0.5] [--num-samples 128] [--eval-windows 100] [--output outputs]
"""

from __future__ import annotations

import time

START = time.perf_counter()  # the seconds told at the end include the imports below

import argparse  # noqa: E402
import copy  # noqa: E402
import json  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from pydoc_data.topics import topics  # noqa: E402
from typing import Any, ClassVar  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402

from optimum_grail import GrailCompressor, GrailConfig, Plan  # noqa: E402
from optimum_grail.allocations.uniform import Uniform  # noqa: E402
from optimum_grail.calibration.selfgen import generate_self_text  # noqa: E402
from optimum_grail.compensators.none import NoCompensation  # noqa: E402
from optimum_grail.core.problem import GroupProblem, Need, Selection  # noqa: E402
from optimum_grail.evaluation.metrics.perplexity import Perplexity  # noqa: E402
from optimum_grail.models.resolve import resolve  # noqa: E402
from optimum_grail.pipeline.fit import FitRun  # noqa: E402
from optimum_grail.pipeline.methods import Methods  # noqa: E402
from optimum_grail.report.environment import hardware, versions  # noqa: E402
from optimum_grail.report.progress import RichProgress, Silent  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "examples" / "llama-books-3m"
SEQLEN = 256
SPEED_ROUNDS = 5
SPEED_WINDOWS = 8


@dataclass(frozen=True)
class Result:
    """What is told of one model.

    Args:
        perplexity: per token of the Python documentation.
        kl: nats per token from the dense model, on text that the dense model wrote.
        parameters: of the whole model.
        bytes: of all parameters in the checkpoint's dtype.
        tokens_per_second: of forward passes over windows of text, in float32.
    """

    perplexity: float
    kl: float
    parameters: int
    bytes: int
    tokens_per_second: float


@dataclass(frozen=True)
class SameUnits:
    """A selector that keeps the units another run kept, so that two models differ in the compensation only."""

    plan: Plan
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, problem: GroupProblem, keep: int) -> Selection:
        """The reduction of the plan."""
        return Selection(self.plan[problem.name].reduction)


def documentation(tokenizer: Any, windows: int) -> Tensor:
    """``windows`` windows of Python's own documentation, int64 ``[windows, SEQLEN]``."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return Perplexity(seqlen=SEQLEN, num_samples=windows).windows(None, tokenizer, [text])


def plainly_pruned(dense: Any, plan: Plan, config: GrailConfig) -> Any:
    """A copy of ``dense`` without the units that ``plan`` removed, and with nothing done about it."""
    model = copy.deepcopy(dense)
    layout = resolve(model)
    kept = {group.name: plan[group.name].reduction.slots if group.name in plan else group.units for group in layout.groups}
    methods = Methods(SameUnits(plan), NoCompensation(), Uniform())
    FitRun(model, layout, methods, kept, (), config.seed, Silent()).run_()
    return model


def loss(model: Any, windows: Tensor) -> float:
    """Cross-entropy in nats per token."""
    rows = [{"input_ids": row} for row in windows]
    return float(Perplexity()(model, None, None, rows, progress=False)["loss"])


@torch.inference_mode()
def speeds(models: Sequence[Any], windows: Tensor) -> list[float]:
    """Tokens per second of each model: the best of several rounds, in which the models take turns."""
    ids = windows[:SPEED_WINDOWS]
    best = [0.0] * len(models)
    for _ in range(SPEED_ROUNDS):
        for index, model in enumerate(models):
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            best[index] = max(best[index], ids.numel() / (time.perf_counter() - start))
    return best


def measure(models: Mapping[str, Any], dtype: torch.dtype, texts: Mapping[str, Tensor]) -> dict[str, Result]:
    """Results of all models; the first one is the dense model."""
    written = {name: loss(model, texts["sample"]) for name, model in models.items()}
    dense = next(iter(written.values()))
    rates = speeds(list(models.values()), texts["documentation"])
    results = {}
    for (name, model), rate in zip(models.items(), rates, strict=True):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        perplexity = float(torch.tensor(loss(model, texts["documentation"])).exp())
        results[name] = Result(perplexity, written[name] - dense, parameters, parameters * dtype.itemsize, rate)
    return results


def table(results: Mapping[str, Result]) -> Table:
    """The results, one column per model."""
    shown = Table(title=f"{MODEL.name}, half of its blocks' parameters gone", title_justify="left")
    shown.add_column("")
    for name in results:
        shown.add_column(name, justify="right")
    rows = {
        "perplexity, Python documentation": [f"{item.perplexity:.1f}" for item in results.values()],
        "KL divergence from dense, nats per token": [f"{item.kl:.3f}" for item in results.values()],
        "parameters": [f"{item.parameters:,}" for item in results.values()],
        "bytes": [f"{item.bytes:,}" for item in results.values()],
        "tokens per second": [f"{item.tokens_per_second:,.0f}" for item in results.values()],
    }
    for name, cells in rows.items():
        shown.add_row(name, *cells)
    return shown
