"""Compress a real language model by half, show what is lost and what is regained, save it, load it again.

The model is ``examples/llama-books-3m``. Nothing is downloaded: the model writes its own calibration text, and the
evaluation text is the documentation that ships with every Python interpreter, and a fresh sample of the dense model.

    python examples/demo.py [--sparsity 0.5] [--num-samples 96] [--eval-windows 64] [--output outputs]
"""

from __future__ import annotations

import time

START = time.perf_counter()  # the seconds told at the end include the imports below

import argparse  # noqa: E402
import copy  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from pydoc_data.topics import topics  # noqa: E402
from typing import Any, ClassVar  # noqa: E402

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import torch  # noqa: E402
import transformers  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402

from optimum_grail import GrailCompressor, GrailConfig, Plan  # noqa: E402
from optimum_grail.allocations.uniform import Uniform  # noqa: E402
from optimum_grail.compensators.none import NoCompensation  # noqa: E402
from optimum_grail.core.problem import GroupProblem, Need, Selection  # noqa: E402
from optimum_grail.data.selfgen import generate_self_text  # noqa: E402
from optimum_grail.evaluation.metrics import Measured, Readers  # noqa: E402
from optimum_grail.evaluation.metrics.perplexity import Perplexity  # noqa: E402
from optimum_grail.fit.fit import FitRun  # noqa: E402
from optimum_grail.fit.methods import Methods  # noqa: E402
from optimum_grail.models.resolve import resolve  # noqa: E402
from optimum_grail.report.environment import hardware, versions  # noqa: E402
from optimum_grail.report.progress import RichProgress, Silent  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "examples" / "llama-books-3m"
SEQLEN = 256
RESULT = "demo_result.json"
TOLERANCE = 1e-6
"""Nats per token that saving and loading may change."""
SPEED_ROUNDS = 5
SPEED_WINDOWS = 8


@dataclass(frozen=True)
class Result:
    """What is told of one model.

    Args:
        perplexity: per token of the Python documentation.
        kl: nats per token from the dense model, at the first positions of text that the dense model wrote.
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
    metric = Perplexity(seqlen=SEQLEN, num_samples=windows)
    return metric.windows(Readers(transformers.LlamaForCausalLM, None, tokenizer, None), metric.read([text]))


def plainly_pruned(dense: Any, plan: Plan, config: GrailConfig) -> Any:
    """A copy of ``dense`` without the units that ``plan`` removed, and with nothing done about it."""
    model = copy.deepcopy(dense)
    layout = resolve(model)
    kept = layout.widths | {name: item.reduction.slots for name, item in plan.items()}
    methods = Methods(SameUnits(plan), NoCompensation(), Uniform())
    FitRun(model, layout, methods, kept, (), config.seed, Silent()).run_()
    return model


def measured(model: Any, windows: Tensor) -> Measured:
    """Perplexity, and what the model answered."""
    metric = Perplexity()
    rows = metric.read([{"input_ids": row} for row in windows])
    return metric.measure(model, Readers.of(model, None, None), rows, None)


def loss(model: Any, windows: Tensor) -> float:
    """Cross-entropy in nats per token."""
    return float(measured(model, windows).result["loss"])


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
    written = {name: measured(model, texts["sample"]).answers for name, model in models.items()}
    dense = next(iter(written.values()))
    rates = speeds(list(models.values()), texts["documentation"])
    results = {}
    for (name, model), rate in zip(models.items(), rates, strict=True):
        parameters = sum(parameter.numel() for parameter in model.parameters())
        perplexity = math.exp(loss(model, texts["documentation"]))
        divergence = written[name].agreement(dense)["kl"]
        results[name] = Result(perplexity, divergence, parameters, parameters * dtype.itemsize, rate)
    return results


def table(results: Mapping[str, Result], gone: float) -> Table:
    """The results, one column per model; ``gone`` is the fraction of the blocks' parameters that went."""
    shown = Table(title=f"{MODEL.name}, {gone:.1%} of its blocks' parameters gone", title_justify="left")
    shown.add_column("")
    for name in results:
        shown.add_column(name, justify="right")
    rows = {
        "perplexity, Python documentation": [f"{item.perplexity:.1f}" for item in results.values()],
        "KL from dense, nats per token": [f"{item.kl:.3f}" for item in results.values()],
        "parameters": [f"{item.parameters:,}" for item in results.values()],
        "bytes": [f"{item.bytes:,}" for item in results.values()],
        "tokens per second": [f"{item.tokens_per_second:,.0f}" for item in results.values()],
    }
    for name, cells in rows.items():
        shown.add_row(name, *cells)
    return shown


def reloaded_loss(folder: Path, windows: Tensor) -> float:
    """Cross-entropy of the saved checkpoint, loaded the way anyone would."""
    return loss(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), windows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sparsity", type=float, default=0.5, help="fraction of the blocks' parameters that goes")
    parser.add_argument("--num-samples", type=int, default=96, help="calibration rows that the model writes")
    parser.add_argument("--eval-windows", type=int, default=64, help=f"windows of {SEQLEN} tokens per evaluation text")
    parser.add_argument("--seed", type=int, default=42, help="of everything random; the evaluation sample has another")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "outputs", help="folder to write to")
    return parser.parse_args()


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Compress, measure, save, load again; returns what ``demo_result.json`` says."""
    config = GrailConfig(
        sparsity=options.sparsity, seqlen=SEQLEN, num_samples=options.num_samples, dataset="self", seed=options.seed
    )
    compressor = GrailCompressor.from_pretrained(MODEL, config)
    dense, dtype = copy.deepcopy(compressor.model).float(), compressor.model.dtype
    folder = options.output / "demo"
    compressor.compress(save_directory=folder, overwrite=True, progress=RichProgress(console))
    console.print("Evaluating", highlight=False)
    sample = generate_self_text(
        dense, compressor.tokenizer, num_samples=options.eval_windows, seqlen=SEQLEN, seed=options.seed + 1
    ).ids
    texts = {"documentation": documentation(compressor.tokenizer, options.eval_windows), "sample": sample}
    models = {
        "dense": dense,
        "plainly pruned": plainly_pruned(dense, compressor.plan, config),
        "compensated": copy.deepcopy(compressor.model).float(),
    }
    results = measure(models, dtype, texts)
    again = reloaded_loss(folder, texts["documentation"])
    same = abs(again - math.log(results["compensated"].perplexity)) < TOLERANCE
    report = compressor.report
    return {
        "results": {name: asdict(result) for name, result in results.items()},
        "asked": dict(report.asked),
        "achieved": report.achieved,
        "widths": {row.name: [row.units_before, row.units_after] for row in report.groups},
        "reloaded_perplexity": math.exp(again),
        "reloaded_is_the_same": same,
        "calibration": {"source": report.calibration.source, "samples": options.num_samples, "seqlen": SEQLEN},
        "evaluation": {"windows": options.eval_windows, "seqlen": SEQLEN, "sample_seed": options.seed + 1},
        "seed": options.seed,
        "seconds": {**report.seconds, "total": time.perf_counter() - START},
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Run the demo and print its outcome."""
    options = arguments()
    transformers.utils.logging.disable_progress_bar()
    console = Console(highlight=False, soft_wrap=True)
    outcome = run(options, console)
    results = {name: Result(**values) for name, values in outcome["results"].items()}
    console.print(table(results, outcome["achieved"]))
    folder = options.output / "demo"
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    verdict = "the same" if outcome["reloaded_is_the_same"] else "NOT the same as before saving"
    console.print(f"Loaded again by plain transformers: perplexity {outcome['reloaded_perplexity']:.1f}, {verdict}.")
    console.print(f"Checkpoint: {shown}    model card: {shown / 'README.md'}    figures: {shown.parent / RESULT}\n")
    console.print("    from transformers import AutoModelForCausalLM, AutoTokenizer")
    console.print(f'    model = AutoModelForCausalLM.from_pretrained("{shown}")')
    console.print(f'    tokenizer = AutoTokenizer.from_pretrained("{shown}")\n')
    console.print(f"{outcome['seconds']['total']:.0f} s in total.")
    (options.output / RESULT).write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    if not outcome["reloaded_is_the_same"]:
        raise SystemExit("The saved checkpoint does not behave as the model in memory did.")


if __name__ == "__main__":
    main()
