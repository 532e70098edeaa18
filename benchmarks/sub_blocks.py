"""Is a sub-block that goes altogether worth what the error curves say? Predicted and measured damage, sub-block by
sub-block.

Of every attention and feed-forward layer, one at a time, a half, an eighth, one unit or none stays, and what stays
makes up for the rest as the curves suppose. Predicted is what the knapsack reads (``gradient-curves``), measured the
rise of the loss against the dense outputs, as ``curves`` measures it. Rows go to
``benchmarks/results/sub_blocks.json``, one per model; a model that is there is not measured again.

    python benchmarks/sub_blocks.py [--only MODEL]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where cores are shared, threads that spin while waiting cost most

import datasets
import torch
import transformers
from _common import environment, read_results, write_results
from _layers import dense_model, general_text
from corpora import BOOKS, MODELS, SMOL, Model

from optimum_grail.core.readout import Readout
from optimum_grail.core.reduction import Reduction
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.signals import SIGNALS, Signal, Tensors, Visit
from optimum_grail.signals._curves import Thinned
from optimum_grail.streams.masking import masked
from optimum_grail.survey.survey import Survey

WINDOWS: Mapping[str, int] = {BOOKS: 64, SMOL: 16}
PARTS = (2, 8)


@dataclass(frozen=True)
class Measured(Signal):
    """Rise of the loss with a half, an eighth, one and none of a group's units left; float64 ``[widths, 2]`` by group:
    the widths, and the rises."""

    moments: ClassVar[bool] = True
    tail: ClassVar[bool] = True

    def block(self, visit: Visit, sums: Tensors, found: Tensors) -> Tensors:
        """One forward pass per width."""
        return {group.name: torch.tensor(list(_rises(visit, group)), dtype=torch.float64) for group in visit.groups}


def _rises(visit: Visit, group: Any) -> Iterator[tuple[float, float]]:
    thinned = Thinned.of(group, visit.problems[group.name])
    for width, part in {max(group.units // part, 1): part for part in (*PARTS, group.units)}.items():
        yield width, thinned.damage(visit, part)[1]
    nothing = Reduction.drop_all(group.units)
    empty = Readout(thinned.problem.weight[:, :0])
    with masked(visit.dense.model, group, thinned.problem, nothing, empty):
        yield 0, max(visit.damage(), 0.0)


def measured(model: Model) -> dict[str, Any]:
    """The row of one model."""
    found, windows = dense_model(model), WINDOWS[model.name]
    layout, data = resolve(found), general_text(model, found, windows, 0)
    needs = frozenset({"gradient-curves", "measured"})
    findings = Survey(found, layout, data.batches, Silent(), needs).run()
    groups = []
    for group in layout.groups:
        curve = findings.curves[group.name]
        widths, rises = findings.of("measured")[group.name].T.tolist()
        predicted = [curve.damage(int(width)) for width in widths]
        groups.append(
            {"name": group.name, "kind": group.kind, "widths": widths, "predicted": predicted, "measured": rises}
        )
    return {"model": model.name, "windows": windows, "seqlen": model.seqlen, "groups": groups, **environment()}


def told(row: Mapping[str, Any]) -> Iterator[str]:
    """Medians of measured by predicted damage, kind by kind and width by width."""
    for kind in ("heads", "mlp"):
        groups = [group for group in row["groups"] if group["kind"] == kind]
        for place, width in enumerate(groups[0]["widths"]):
            ratios = sorted(group["measured"][place] / group["predicted"][place] for group in groups)
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            yield f"{row['model']} {kind} {width:.0f} left: {median(ratios):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure what is missing, and print what it says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", choices=list(WINDOWS))
    options = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    SIGNALS.add("measured", Measured)
    for model in MODELS:
        if model.name not in WINDOWS or options.only not in (None, model.name):
            continue
        if model.folder is None:
            print(f"{model.name} is absent, passed over", file=sys.stderr)
            continue
        rows = read_results("sub_blocks").get("rows", [])
        if all(row["model"] != model.name for row in rows):
            write_results("sub_blocks", {"rows": [*rows, measured(model)]})
    for row in read_results("sub_blocks").get("rows", []):
        print("\n".join(told(row)))


if __name__ == "__main__":
    main()
