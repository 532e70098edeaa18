"""How much of the registered maps is proposed again for models whose map is hidden.

For the tiny example of every registered map, the groups of the map are compared with those of the proposal, which is
made without it: a group is found if the proposal has one of the same kind with the same consumer, producers and units.

Rows go to ``benchmarks/results/proposals.json`` as soon as they are there; families that are there already are not
tried again.

    python benchmarks/proposals.py [--only MODEL_TYPE] [--table]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from _common import environment, read_results, write_results
from datasets import disable_progress_bars
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers.utils import logging

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.errors import GrailError
from optimum_grail.models.resolve import resolve
from optimum_grail.proposals.proposal import Proposal
from optimum_grail.proposals.propose import propose

RESULT = "proposals"
SEED = 0
Key = tuple[str, int, str, tuple[tuple[str, int, int], ...]]


def key(group: ChannelGroup) -> Key:
    """What makes two groups the same."""
    producers = sorted((port.module, port.span, port.offset) for port in group.producers)
    return group.kind, group.units, group.consumer.module, tuple(producers)


def groups_of(model: nn.Module, specs: tuple[ArchitectureSpec, ...]) -> dict[Key, ChannelGroup]:
    """The groups of all maps in ``model``."""
    return {key(group): group for spec in specs for group in resolve(model, spec).groups}


def row(spec: ArchitectureSpec) -> dict[str, Any]:
    """One family: how many of its groups were found, and what was left out."""
    if spec.example is None:
        raise SystemExit(f"The map of {spec.model_types[0]} has no example.")
    model = spec.example()
    expected = {key(group): group for group in resolve(model).groups}
    start = time.perf_counter()
    try:
        proposal = propose(model, spec.inputs() if spec.inputs else None)
    except GrailError as error:
        proposal = Proposal((), (), str(error))
    seconds = time.perf_counter() - start
    found = groups_of(model, proposal.specs)
    same = [found[item] for item in expected if item in found]
    streams = sum(group.stream == expected[key(group)].stream for group in same)
    return {
        "groups": len(expected),
        "found": len(same),
        "same_stream": streams,
        "more": len(found.keys() - expected.keys()),
        "missing": sorted({expected[item].name for item in expected.keys() - found.keys()})[:12],
        "left_out": [f"{item.where}: {item.why}" for item in proposal.left_out] or [],
        "error": "" if proposal.specs else proposal.model_class,
        "seconds": round(seconds, 2),
    }


def table(rows: dict[str, Any]) -> Table:
    """For people."""
    shown = Table(*("family", "groups", "found", "same stream", "more", "seconds"))
    for name, item in rows.items():
        shown.add_row(name, *(str(item[each]) for each in ("groups", "found", "same_stream", "more", "seconds")))
    return shown


def main() -> None:
    """Try every family."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="model type")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    results = read_results(RESULT)
    rows = results.setdefault("families", {})
    for spec in () if options.table else ARCHITECTURES.specs():
        name = spec.model_types[0]
        if (options.only and options.only not in spec.model_types) or (name in rows and not options.only):
            continue
        torch.manual_seed(SEED)
        rows[name] = row(spec)
        shares = [item["found"] / item["groups"] for item in rows.values()]
        totals = [sum(item[what] for item in rows.values()) for what in ("found", "groups")]
        results |= {"seed": SEED, "environment": environment(), "mean_share": sum(shares) / len(shares)}
        results["share_of_groups"] = totals[0] / totals[1]
        write_results(RESULT, results)
    Console().print(table(rows))
    Console().print(f"mean over families {results['mean_share']:.1%}, of all groups {results['share_of_groups']:.1%}")


if __name__ == "__main__":
    main()
