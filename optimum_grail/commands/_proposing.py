"""What ``grail inspect --propose`` does. Heavy imports: only the command's ``run`` imports this file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn
from transformers.utils import logging

from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.checkpoints.loading import load_config, load_skeleton, model_class
from optimum_grail.core.spec import Heads, Rows
from optimum_grail.errors import OutputError
from optimum_grail.models.trial import FAILURES
from optimum_grail.proposals.proposal import Proposal
from optimum_grail.proposals.propose import propose
from optimum_grail.proposals.writing import module_text

BLOCKS = 3
"""Blocks that are built of a stack whose blocks are all of one class."""


def check_map_output(path: str | None, overwrite: bool) -> Path | None:
    """Where to write a map, refused before any long work.

    Raises:
        OutputError: it is there already and ``overwrite`` is false, it is no Python file, or its folder is absent.
    """
    if path is None:
        return None
    target = Path(path).expanduser()
    if target.suffix != ".py" or target.is_dir():
        raise OutputError(f"The output {path!r} is no Python file. Name one, for example map.py.")
    if target.exists() and not overwrite:
        raise OutputError(f"The output {path!r} exists. Choose another file, or pass --overwrite to replace it.")
    if not target.parent.is_dir():
        raise OutputError(f"The folder of the output {path!r} does not exist. Create it first.")
    return target


def propose_for(path: str, trust_remote_code: bool) -> Proposal:
    """A proposal for the model that a folder's or repository's config describes; its weights are made up.

    Raises:
        CheckpointError: as :func:`optimum_grail.checkpoints.loading.load_skeleton` says.
        ArchitectureError: the model does not run on made-up inputs.
    """
    skeleton = load_skeleton(path, trust_remote_code)
    config = load_config(path, trust_remote_code)
    kind: Any = model_class(config, trust_remote_code)

    def build(config: Any) -> nn.Module:
        """The model with random weights, the same at every run."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if _is_auto(kind):
                return kind.from_config(config, trust_remote_code=trust_remote_code).float()
            return kind(config).float()

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return propose(_short(build, skeleton, config))
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_auto(kind: type) -> bool:
    """Whether ``kind`` is an ``Auto…`` class, for a repository's own code."""
    return not issubclass(kind, nn.Module)


def _short(build: Any, skeleton: nn.Module, config: Any) -> nn.Module:
    """The model with few blocks where they are all alike, else with all."""
    count = vars(config).get("num_hidden_layers")
    lists = [m for m in skeleton.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    alike = lists and all(len({type(item) for item in found}) == 1 for found in lists)
    if not isinstance(count, int) or count <= BLOCKS or not alike:
        return build(config)
    short = copy.deepcopy(config)
    for name, value in list(vars(short).items()):
        if isinstance(value, (list, tuple)) and len(value) == count:
            setattr(short, name, value[:BLOCKS])
    short.num_hidden_layers = BLOCKS
    try:
        return build(short)
    except FAILURES:
        return build(config)


def show(proposal: Proposal, target: Path | None, console: Console) -> dict[str, Any]:
    """Print the table and the file, write the file if a place is named; returns JSON values."""
    text = module_text(proposal)
    table = Table(title=f"{proposal.model_class}: a proposed map", title_justify="left")
    for heading in ("blocks", "group", "producers", "consumer", "stream"):
        table.add_column(heading, overflow="fold")
    for spec in proposal.specs:
        for group in spec.groups:
            sources = (group.query, group.key, group.value) if isinstance(group, Heads) else group.produce
            made = (sources,) if isinstance(sources, str) else sources
            consumer = group.out if isinstance(group, Heads) else group.consume
            where = group.within or ", ".join(spec.blocks)
            producers = ", ".join(dict.fromkeys(map(_module_of, made)))
            table.add_row(*map(Text, (where, group.name, producers, consumer, str(group.stream))))
    if proposal.specs:
        console.print(table)
    for item in proposal.left_out:
        line = f"Left out: {item.where}: {item.why}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if target is not None and proposal.specs:
        write_atomically(target, lambda draft: draft.write_text(text, encoding="utf-8"))
        console.print(f"Written to {target}", markup=False, highlight=False, soft_wrap=True)
    elif proposal.specs:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return {
        "class": proposal.model_class,
        "map": text if proposal.specs else None,
        "output": str(target) if target is not None and proposal.specs else None,
        "left_out": [{"where": item.where, "why": item.why} for item in proposal.left_out],
    }


def _module_of(source: Rows) -> str:
    return source if isinstance(source, str) else source.module
