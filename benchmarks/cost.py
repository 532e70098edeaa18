"""What survey and fit cost, against the least that they could cost on the same machine in the same run, and how that
grows with the depth of a model.

The yardstick of time is two bare passes of all blocks over the calibration batches (the dense and the student stream),
plus the Gram products at the machine's matrix-product rate. The yardstick of memory is one block, its statistics, the
streams and the slices of logits that a loss takes; survey and fit are held against it as they come, each in a process
of its own. Every figure is the median of all rounds. A row is written as soon as it is there, and not measured again;
``python benchmarks/cost_tables.py`` makes the page and the picture.

    python benchmarks/cost.py [--only NAME ...] [--width N ...] [--layers N ...] [--tokens N ...] [--repeats 3]
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import torch
import transformers
from _common import EMBEDDED, environment, models_folder, read_results, write_results
from _memory import peak_above
from cost_tables import GOALS, lines
from torch import nn

from optimum_grail import GrailConfig
from optimum_grail.allocations.balanced import Balanced
from optimum_grail.core.contracts import Share
from optimum_grail.data.batches import PROBE_FRACTION, Batch, make_batches
from optimum_grail.fit.fit import FitRun
from optimum_grail.fit.methods import Methods
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.models.stock import expressible
from optimum_grail.pipeline.estimate import estimate
from optimum_grail.report.progress import Silent
from optimum_grail.streams.capture import capture
from optimum_grail.streams.language_head import COPIES, LOGITS_BYTES
from optimum_grail.streams.pace import matmul_rate
from optimum_grail.survey.findings import Findings
from optimum_grail.survey.survey import Survey
from optimum_grail.widths.allocate import allocate
from optimum_grail.widths.request import Request

SEED = 42
SPARSITY = 0.5
WIDTHS: Mapping[int, tuple[int, int, int]] = {192: (512, 3, 3), 512: (1408, 8, 4), 1024: (2816, 16, 8)}
"""Hidden size to FFN channels, heads and key-value heads, of 64 dimensions each."""
LAYERS, TOKENS, WINDOW = (6, 12, 24, 48), (8192, 32768), 512


@dataclass(frozen=True)
class Case:
    """One model with calibration data of random tokens, whose cost is that of real text.

    Args:
        name: of the row.
        build: makes the model, in float32.
        samples: windows of calibration tokens.
        seqlen: their length.
        width: hidden size, of a random model.
        layers: of a random model.
    """

    name: str
    build: Callable[[], nn.Module]
    samples: int
    seqlen: int
    width: int | None = None
    layers: int | None = None

    @property
    def tokens(self) -> int:
        """Of the calibration data."""
        return self.samples * self.seqlen


def stored(folder: Path) -> nn.Module:
    """A model on disk."""
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def random_llama(width: int, layers: int) -> nn.Module:
    """A LLaMA with random weights."""
    torch.manual_seed(SEED)
    ffn, heads, groups = WIDTHS[width]
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=64,
        vocab_size=4096,
        max_position_embeddings=WINDOW,
    )
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


def cases() -> Iterator[Case]:
    """Real models first, then the random ones, small ones first."""
    yield Case("llama-books-3m", partial(stored, EMBEDDED), 128, 256)
    for tokens, width, layers in product(TOKENS, WIDTHS, LAYERS):
        name = f"width {width}, {layers} layers, {tokens // 1024}k tokens"
        yield Case(name, partial(random_llama, width, layers), tokens // WINDOW, WINDOW, width, layers)
    if (smol := models_folder() / "SmolLM2-135M-Instruct").is_dir():
        yield Case("SmolLM2-135M-Instruct", partial(stored, smol), 64, WINDOW)


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


class Unrivalled(Balanced):
    """The default allocation without rehearsals, which are not measured here."""

    def rivals(self) -> Sequence[Share]:
        """None."""
        return ()


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
        model: Any = case.build().eval()
        generator = torch.Generator().manual_seed(SEED)
        ids = torch.randint(model.config.vocab_size, (case.samples, case.seqlen), generator=generator)
        batches = make_batches([{"input_ids": row} for row in ids], batch_size=max(1, 2048 // case.seqlen))
        return cls(case, model, resolve(model), Methods.of(GrailConfig().resolved()), batches)

    def survey(self) -> Findings:
        """The survey."""
        return Survey(self.model, self.layout, self.batches, Silent()).run()

    def widths(self, findings: Findings) -> dict[str, int]:
        """Units to keep."""

        def accepts(groups: Any, width: int) -> bool:
            return all(expressible(self.model, self.layout, group, width) for group in groups)

        return allocate(self.layout, Request(SPARSITY), self.methods.allocation, accepts, findings).kept

    def fit(self, model: nn.Module, kept: dict[str, int]) -> None:
        """The fit, of ``model`` in place."""
        FitRun(model, self.layout, self.methods, kept, self.batches, SEED, Silent()).run_()

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


def memory_parts(run: Run) -> dict[str, float]:
    """Bytes of one block, of its statistics (fit and held-out sums of every group), of the streams (the dense and the
    student's, and of the few batches that gradients are taken of the states between all blocks), and of the slices of
    logits that a loss takes."""
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
        "streams": (2 + len(stack.blocks) / PROBE_FRACTION) * sum(4 * hidden.numel() for hidden in captured.hidden),
        "logits": COPIES * LOGITS_BYTES,
    }


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """All figures of one case."""
    run = Run.of(case)
    cost = estimate(run.model, run.layout, replace(run.methods, allocation=Unrivalled()), run.batches)
    parts = memory_parts(run)
    kept = run.widths(run.survey())
    peaks = {what: alone(case.name, kept, what) for what in ("survey", "fit")}
    times: dict[str, list[Seconds]] = {"bare": [], "fit": [], "survey": []}
    rates = []
    for _ in range(repeats):
        model = copy.deepcopy(run.model)
        times["bare"].append(run.bare())
        rates.append(matmul_rate())
        times["fit"].append(Seconds.of(partial(run.fit, model, kept)))
        times["bare"].append(run.bare())
        times["survey"].append(Seconds.of(run.survey))
        rates.append(matmul_rate())
    gram = cost.gram_flops / max(rates)
    bare, fit, survey = (median(item.wall for item in times[name]) for name in ("bare", "fit", "survey"))
    peak = None if None in peaks.values() else max(peak for peak in peaks.values() if peak is not None)
    return {
        "name": case.name,
        "width": case.width,
        "layers": len(run.layout.stacks[0].blocks),
        "tokens": case.tokens,
        "repeats": repeats,
        "bare_pass_seconds": bare,
        "gram_seconds": gram,
        "fit_seconds": fit,
        "survey_seconds": survey,
        "survey / fit": survey / fit,
        "survey and fit / least": (survey + fit) / (2 * bare + gram),
        "all_seconds": times,
        "matmul_flops_per_second": max(rates),
        "peak_bytes": peaks,
        "memory_parts": parts,
        "memory / least": None if peak is None else peak / sum(parts.values()),
        "seconds told": cost.seconds / (survey + fit),
        "memory told": None if peak is None else cost.memory / peak,
    }


def peak_of(name: str, kept: dict[str, int], what: str) -> int | None:
    """Peak of the survey or the fit of the case ``name``."""
    run = Run.of(next(case for case in cases() if case.name == name))
    return peak_above(run.survey if what == "survey" else lambda: run.fit(run.model, kept))


def alone(name: str, kept: dict[str, int], what: str) -> int | None:
    """The same in a process of its own: what earlier work left in the allocator would add to the peak."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_of, name, kept, what).result()


def main() -> None:
    """Measure what is missing, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows only")
    parser.add_argument("--width", nargs="+", type=int, choices=list(WIDTHS), help="of random models")
    parser.add_argument("--layers", nargs="+", type=int, choices=LAYERS, help="of random models")
    parser.add_argument("--tokens", nargs="+", type=int, choices=TOKENS, help="of random models")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    random = {"width": options.width, "layers": options.layers, "tokens": options.tokens}
    for case in cases():
        rows = read_results("cost").get("rows", [])
        skipped = any(row["name"] == case.name for row in rows) or (options.only and case.name not in options.only)
        if any(chosen and getattr(case, name) not in chosen for name, chosen in random.items()) or skipped:
            continue
        print(case.name, file=sys.stderr, flush=True)
        row = {**measure(case, options.repeats), **environment()}
        write_results("cost", {"goals": GOALS, "rows": [*read_results("cost").get("rows", []), row]})
    print("\n".join(lines(read_results("cost").get("rows", []))))


if __name__ == "__main__":
    main()
