"""What survey and fit cost, against the least that they could cost on the same machine in the same run.

The yardstick of the fit is the time of two bare passes of all blocks over the calibration batches (the dense and the
student stream), plus the Gram products at the machine's matrix-product rate. The yardstick of the memory is one block,
its statistics and the streams; it is held against a fit as it comes, and against one with ``--offload-streams`` and
batches of half the size, each in a process of its own.

    python benchmarks/cost.py [--only CASE] [--repeats 3]
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import torch
import transformers
from _common import EMBEDDED, environment, read_results, write_results
from _memory import peak_above
from rich.console import Console
from rich.table import Table
from torch import nn

from optimum_grail import GrailConfig
from optimum_grail.data.batches import Batch, make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import expressible
from optimum_grail.pipeline.estimate import estimate, matmul_rate
from optimum_grail.report.progress import Silent
from optimum_grail.streams.capture import capture
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.survey import Survey
from optimum_grail.widths.allocate import allocate
from optimum_grail.widths.request import Request

SEED = 42
SPARSITY = 0.5
GOALS = {"fit": 2.0, "survey": 1.5, "memory": 1.0}


@dataclass(frozen=True)
class Case:
    """One model with calibration data of random tokens, whose cost is that of real text.

    Args:
        name: of the row.
        build: makes the model, in float32.
        samples: windows of calibration tokens.
        seqlen: their length.
        batch: windows per forward pass.
    """

    name: str
    build: Callable[[], nn.Module]
    samples: int
    seqlen: int
    batch: int


def embedded() -> nn.Module:
    """The model that the repository carries: 6 layers, hidden 192, FFN 512."""
    return transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)


def wider() -> nn.Module:
    """A LLaMA with random weights: 8 layers, hidden 512, FFN 1408, 8 heads, 4 key-value heads."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=512,
    )
    return transformers.LlamaForCausalLM(config)


CASES = (
    Case("llama-books-3m", embedded, samples=128, seqlen=256, batch=8),
    Case("llama-27m-random", wider, samples=64, seqlen=512, batch=4),
)


class Seconds(NamedTuple):
    """Seconds on the wall, and of the processor: where others use the machine too, the second tells more."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], Any]) -> Seconds:
        """Seconds that ``work`` takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass
class Run:
    """A case at work: the model stays dense, every fit gets a copy."""

    case: Case
    model: nn.Module
    layout: Layout
    methods: Methods
    batches: Sequence[Batch]

    @classmethod
    def of(cls, case: Case) -> Run:
        """Build the model, draw the data."""
        model = case.build().eval()
        selector, compensator, allocation = GrailConfig().methods()
        methods = Methods(selector, compensator, allocation)
        return cls(case, model, resolve(model), methods, cls._batches(case, model, case.batch))

    @staticmethod
    def _batches(case: Case, model: Any, size: int) -> Sequence[Batch]:
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(model.config.vocab_size, (case.samples, case.seqlen), generator=generator)
        return make_batches([{"input_ids": row} for row in ids], batch_size=size)

    @property
    def thrifty(self) -> Run:
        """The same with batches of half the size."""
        return replace(self, batches=self._batches(self.case, self.model, max(self.case.batch // 2, 1)))

    def survey(self) -> Findings:
        """The survey."""
        return Survey(self.model, self.layout, self.batches, Silent()).run()

    def widths(self, findings: Findings) -> dict[str, int]:
        """Units to keep."""

        def accepts(groups: Any, width: int) -> bool:
            return all(expressible(self.model, self.layout, group, width) for group in groups)

        return allocate(self.layout, Request(SPARSITY), self.methods.allocation, accepts, findings).kept

    def fit(self, model: nn.Module, kept: dict[str, int], offload: bool = False) -> None:
        """The fit, of ``model`` in place."""
        FitRun(model, self.layout, self.methods, kept, self.batches, SEED, Silent(), offload=offload).run_()

    @torch.no_grad()
    def bare(self) -> Seconds:
        """One pass of all blocks over the batches, nothing recorded."""
        (stack,) = self.layout.stacks
        captured = capture(self.model, {stack.name: stack.blocks}, self.batches)[stack.name]
        hidden = captured.hidden

        def work() -> None:
            for path in stack.blocks:
                block = self.model.get_submodule(path)
                for index, call in enumerate(captured.calls[path]):
                    hidden[index] = call.run(block, hidden[index])

        return Seconds.of(work)


def memory_parts(run: Run) -> dict[str, int]:
    """Bytes of one block, of its statistics (fit and held-out sums of every group) and of the two streams."""
    (stack,) = run.layout.stacks
    captured = capture(run.model, {stack.name: stack.blocks}, run.batches)[stack.name]
    block = run.model.get_submodule(stack.blocks[0])
    statistics = 0
    for group in run.layout.of_block(stack.blocks[0]):
        features = group.units * group.consumer.span
        outputs = run.layout.weights[group.consumer.module].rows
        statistics += 2 * 8 * features * (features + outputs)
    return {
        "block": sum(4 * parameter.numel() for parameter in block.parameters()),
        "statistics": statistics,
        "streams": 2 * sum(4 * hidden.numel() for hidden in captured.hidden),
    }


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """All figures of one case: memory of one fit, the least seconds of all rounds."""
    run = Run.of(case)
    cost = estimate(run.model, run.layout, run.methods, run.batches)
    parts = memory_parts(run)
    kept = run.widths(run.survey())
    peak, _ = alone(case.name, kept, offload=False)
    offloaded, seconds = alone(case.name, kept, offload=True)
    times: dict[str, list[Seconds]] = {"bare": [], "fit": [], "survey": []}
    rates = []
    for _ in range(repeats):
        model = copy.deepcopy(run.model)
        times["bare"].append(run.bare())
        rates.append(matmul_rate())
        times["fit"].append(Seconds.of(lambda model=model: run.fit(model, kept)))
        times["bare"].append(run.bare())
        times["survey"].append(Seconds.of(run.survey))
        rates.append(matmul_rate())
    gram = cost.gram_flops / max(rates)
    bare, fit, survey = (min(item.wall for item in times[name]) for name in ("bare", "fit", "survey"))
    cpu = {name: min(item.cpu for item in items) for name, items in times.items()}
    return {
        "name": case.name,
        "layers": len(run.layout.stacks[0].blocks),
        "tokens": case.samples * case.seqlen,
        "bare_pass_seconds": bare,
        "gram_seconds": gram,
        "fit_seconds": fit,
        "survey_seconds": survey,
        "fit_ratio": fit / (2 * bare + gram),
        "survey_ratio": survey / fit,
        "cpu_seconds": cpu,
        "cpu_fit_ratio": cpu["fit"] / (2 * cpu["bare"] + gram * torch.get_num_threads()),
        "cpu_survey_ratio": cpu["survey"] / cpu["fit"],
        "all_seconds": times,
        "matmul_flops_per_second": max(rates),
        "forward_flops": cost.forward_flops,
        "peak_bytes": peak,
        "memory_parts": parts,
        "memory_ratio": None if peak is None else peak / sum(parts.values()),
        "offloaded": {
            "batch": run.thrifty.batches[0].size,
            "peak_bytes": offloaded,
            "memory_ratio": None if offloaded is None else offloaded / sum(parts.values()),
            "fit_seconds": seconds.wall,
        },
        "estimated_seconds": cost.seconds,
        "estimated_bytes": cost.memory,
    }


def peak_of(name: str, kept: dict[str, int], offload: bool) -> tuple[int | None, Seconds]:
    """Peak and seconds of one fit of the case ``name``; with ``offload``, streams in files and half the batch size."""
    run = Run.of(next(case for case in CASES if case.name == name))
    run = run.thrifty if offload else run
    seconds: list[Seconds] = []
    peak = peak_above(lambda: seconds.append(Seconds.of(lambda: run.fit(run.model, kept, offload))))
    return peak, seconds[0]


def alone(name: str, kept: dict[str, int], offload: bool) -> tuple[int | None, Seconds]:
    """The same in a process of its own: what earlier work left in the allocator would add to the peak."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_of, name, kept, offload).result()


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(title="Cost of survey and fit: seconds, MiB", box=None, title_justify="left")
    for heading in ("", "passes", "Gram", "fit", "ratio", "survey", "/ fit", "peak", "in files", "least"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        peaks = row["peak_bytes"], row["offloaded"]["peak_bytes"]
        shown.add_row(
            row["name"],
            *(f"{value:.1f}" for value in (2 * row["bare_pass_seconds"], row["gram_seconds"], row["fit_seconds"])),
            f"{row['fit_ratio']:.2f}",
            f"{row['survey_seconds']:.1f}",
            f"{row['survey_ratio']:.2f}",
            *("-" if peak is None else f"{peak / 2**20:.0f}" for peak in peaks),
            f"{sum(row['memory_parts'].values()) / 2**20:.0f}",
        )
    shown.caption = (
        "passes: two bare ones; ratio: fit / (passes + Gram products), at most 2.0; / fit: of the survey, at most 1.5; "
        "peak: of the fit, beyond the model; in files: the same with --offload-streams and half the batch size; least: "
        "one block, its statistics and two streams"
    )
    return shown


def main() -> None:
    """Measure the cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one case only")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the best counts")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    rows = {row["name"]: row for row in read_results("cost").get("rows", [])}
    for case in CASES:
        if options.only in (None, case.name):
            rows[case.name] = {**measure(case, options.repeats), **environment()}
            write_results("cost", {"goals": GOALS, "rows": list(rows.values())})
    Console().print(table(list(rows.values())))


if __name__ == "__main__":
    main()
