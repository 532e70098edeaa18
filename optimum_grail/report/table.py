"""A report as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from optimum_grail.report.heads import head_lines
from optimum_grail.report.report import Calibration, GroupRow, Report, SourceRows
from optimum_grail.report.words import ASKED_KINDS, ASKED_NAMES, KINDS

MISSING = "-"
NOT_TOLD_APART = "not told apart"
"""Said of two times that differ by less than their spreads."""
AGREEMENTS: Mapping[str, str] = {
    "kl": "KL from dense (nats per token)",
    "same_token": "top-1 agreement with dense",
    "same_class": "top-1 agreement with dense",
    "cosine": "cosine to dense embeddings",
}
"""What the kinds of agreement with the dense model are called."""
NAMED = 8
"""Most groups that one line names."""


def number(value: object, digits: int = 4) -> str:
    """A measured value for people: whole numbers with thousands separators, others with ``digits`` digits."""
    if isinstance(value, int):
        return f"{value:,}"
    return MISSING if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def percent(fraction: float | None) -> str:
    """A fraction as ``"49.9 %"``."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def change(before: object, after: object) -> str:
    """The relative change from ``before`` to ``after``, signed, or a dash."""
    if not isinstance(before, int | float) or not isinstance(after, int | float) or before == 0:
        return MISSING
    return f"{100 * (after - before) / before:+.1f} %"


def seconds(value: float) -> str:
    """A duration for people: ``"12.3 ms"`` or ``"4.56 s"``."""
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def gibibytes(value: int) -> str:
    """A size for people, in MiB or GiB."""
    return f"{value / 2**20:,.1f} MiB" if value < 2**30 else f"{value / 2**30:,.2f} GiB"


def comparison_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Rows of ``(quantity, dense, plainly pruned, compressed, change)`` for people: sizes, evaluation results, the time
    and memory of a forward pass. What was not measured is a dash."""
    sizes: list[tuple[str, Any, Any, Any]] = [
        ("parameters", report.parameters_before, None, report.parameters_after),
        ("parameters of the blocks", report.block_parameters_before, None, report.block_parameters_after),
        ("bytes", report.bytes_before, None, report.bytes_after),
    ]
    results = [
        (result_name(row), row.get("dense"), row.get("plain"), row.get("compressed")) for row in report.evaluation
    ]
    agreements = [cells for row in report.evaluation for cells in agreement_rows(row)]
    measured = [
        (f"{name}, batch of {row['batch']}", *cells)
        for name, cells_of in (("latency", _times), ("memory", _memory))
        for row in report.forward.get(name, ())
        for cells in [cells_of(row)]
    ]
    counted = [(name, number(a), number(b), number(c), change(a, c)) for name, a, b, c in sizes + results]
    return counted + agreements + measured


def _times(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    dense, compressed = row["dense"], row["compressed"]
    spreads = row.get("dense_spread", 0.0), row.get("compressed_spread", 0.0)
    apart = told_apart(dense, compressed, *spreads)
    before, after = (_spread(*pair) for pair in zip((dense, compressed), spreads, strict=True))
    return before, MISSING, after, change(dense, compressed) if apart else NOT_TOLD_APART


def _spread(value: float, spread: float) -> str:
    return f"{seconds(value)} ± {seconds(spread)}" if spread else seconds(value)


def _memory(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    dense, compressed = row["dense"], row["compressed"]
    return gibibytes(dense), MISSING, gibibytes(compressed), change(dense, compressed)


def told_apart(first: float, second: float, first_spread: float, second_spread: float) -> bool:
    """Whether two times differ by more than their spreads together."""
    return abs(first - second) > first_spread + second_spread


def result_name(row: Mapping[str, Any], what: str = "") -> str:
    """What to call an evaluation result: the metric (or ``what`` of it was told instead), what was done to the inputs,
    the data set, and whether that is of the calibration data's corpus."""
    name = what or str(row.get("metric", "result"))
    name += f", {row['perturbation']}" if row.get("perturbation") else ""
    return f"{name} on {marked(row['dataset'], row.get('corpus'))}" if row.get("dataset") else name


def marked(dataset: str, corpus: str | None) -> str:
    """A data set's name with whether it is of the calibration data's corpus, where that was asked."""
    return f"{dataset} ({'corpus ' if corpus == 'not known' else ''}{corpus})" if corpus else dataset


def agreement_rows(row: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """How far the compressed model answers as the dense one; what a later version adds is shown by its name."""
    found = dict(row.get("agreement") or {})
    found.pop("positions", None)
    return [
        (result_name(row, AGREEMENTS.get(name, name)), MISSING, MISSING, _as_told(name, value), MISSING)
        for name, value in found.items()
    ]


def _as_told(name: str, value: float) -> str:
    return percent(value) if name.startswith("same_") else number(value)


def asked_lines(report: Report) -> list[str]:
    """One line per request, with what was achieved, and one for the whole model."""
    lines = []
    left = max((row.units_after for row in report.groups if row.kind == "experts"), default=0)
    sizes = {"target_parameters": report.parameters_after, "target_bytes": report.bytes_after, "experts": left}
    for name, asked in report.asked.items():
        if name in sizes:
            lines.append(f"asked for {asked:,} {name.removeprefix('target_')}, got {sizes[name]:,}")
        if name in sizes or name == "head_dim_sparsity":
            continue  # the line of the heads says it
        achieved = (
            report.achieved_budget if name == "sparsity" else report.achieved_units.get(ASKED_KINDS.get(name, ""))
        )
        what = f"of the blocks' {report.budget}" if name == "sparsity" else ASKED_NAMES.get(name, name)
        lines.append(f"asked {percent(asked)} {what}, achieved {percent(achieved)}")
    if report.budget != "parameters":
        lines.append(f"{percent(report.achieved)} of the blocks' parameters gone")
    return [*lines, f"{percent(report.achieved_model)} of the whole model's parameters gone"]


def comparison_table(report: Report) -> Table:
    """Sizes and evaluation results, dense against compressed; a column for plain pruning if it was measured."""
    rows = comparison_rows(report)
    plain = any(row[2] != MISSING for row in rows)
    table = Table(title=Text(f"{report.name}: before and after"), title_justify="left")
    table.add_column("", overflow="fold")
    for heading in ("dense", *(["plainly pruned"] if plain else []), "compressed", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, dense, pruned, *rest in rows:
        table.add_row(Text(name), dense, *([pruned] if plain else []), *rest)
    return table


def groups_table(report: Report) -> Table:
    """One row per group: units kept, relative errors of plain pruning and of the fit, what was chosen."""
    table = Table(
        title="Layers", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True
    )
    table.add_column("layer", overflow="fold")
    for heading in ("kept", "plain", "fitted", "held", "ridge", "tau", "chosen"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.groups:
        table.add_row(Text(row.name), *group_cells(row))
    table.caption = "plain, fitted: relative squared error on the calibration rows; held: of the choice on unseen rows"
    return table


def group_cells(row: GroupRow) -> list[str]:
    """Units kept, the errors, ridge, tau and what was chosen, for people."""
    errors = (number(value, 3) for value in (row.plain_error, row.fit_error, row.held_error))
    ridge = MISSING if row.ridge is None else f"{row.ridge:.0e}"
    scale = max(row.per_unit.values(), default=1)
    return [
        f"{row.units_after * scale}/{row.units_before * scale}",
        *errors,
        ridge,
        number(row.tau, 2),
        row.chosen or MISSING,
    ]


def refit_lines(report: Report) -> list[str]:
    """Whether producers were refitted, and what that took away where the consumers alone left it."""
    rows = [row for row in report.groups if row.kind in ("mlp", "conv") and 0 < row.units_after < row.units_before]
    gains = [row.producers for row in rows if row.producers is not None]
    share = f"{percent(min(gains))} to {percent(max(gains))} less error on unseen rows" if gains else ""
    return [f"producers refitted in {len(gains)} of {len(rows)} layers: {share}"] if gains else []


def width_lines(report: Report) -> list[str]:
    """One line per kind: units before and after, as a range where the groups differ; heads as the config counts."""
    lines = []
    for kind in dict.fromkeys(row.kind for row in report.groups if row.shrinks):
        rows = [row for row in report.groups if row.kind == kind]
        counted = dict.fromkeys(name for row in rows for name in row.per_unit) or {"units": None}
        units = ", ".join(_counts(rows, name) for name in counted)
        whole = all(row.units_after == row.units_before for row in rows)
        layers = f"in {len(rows)} layer{'s' * (len(rows) > 1)}"
        lines.append(f"{KINDS.get(kind, kind)}: {f'all {units} stay' if whole else units} {layers}")
    return lines


def _counts(rows: Sequence[GroupRow], field: str) -> str:
    """How many of what a config's field counts there were and are; once where nothing went."""
    before = {row.units_before * row.per_unit.get(field, 1) for row in rows}
    after = {row.units_after * row.per_unit.get(field, 1) for row in rows}
    heads = "key-value heads" if "key_value" in field or "kv" in field else "attention heads"
    change = _range(before) if before == after else f"{_range(before)} -> {_range(after)}"
    return change if field == "units" else f"{change} {heads}"


def whole_lines(report: Report) -> list[str]:
    """One line that names groups left whole although others of their kind shrank; the rest :func:`width_lines` says."""
    shrunk = {row.kind for row in report.groups if row.units_after < row.units_before}
    names = [row.name for row in report.groups if row.kind in shrunk and row.units_after == row.units_before]
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"Left whole: {', '.join(names[:NAMED])}{more}"]


def _range(values: set[int]) -> str:
    return f"{min(values):,}" if len(values) == 1 else f"{min(values):,}..{max(values):,}"


def run_lines(report: Report) -> list[str]:
    """What the run was calibrated on, how long it took and how much memory."""
    lines = []
    if report.calibration is not None:
        data = report.calibration
        lines.append(f"calibrated on {data.source}: {_amount(data)}")
        lines += [f"  {part.name}: {_amount(part)}" for part in data.sources if len(data.sources) > 1]
        lines += [f"note: {note}" for note in data.notes]
    stages = [f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items() if seconds >= 0.05]
    memory = [] if report.peak_memory is None else [f"peak memory {report.peak_memory / 2**30:.2f} GiB"]
    return [*lines, *([", ".join(stages + memory)] if stages or memory else [])]


def _amount(data: Calibration | SourceRows) -> str:
    return f"{data.samples:,} samples" + (f", {data.tokens:,} tokens" if data.tokens else "")


def cost_lines(report: Report) -> list[str]:
    """What the size cost in measured quality, and what half as much is predicted to cost; nothing is guessed."""
    size = f"{percent(report.achieved_model)} fewer parameters"
    costs = [
        f"{result_name(row)} {number(row['dense'])} -> {number(row['compressed'])}"
        for row in report.evaluation
        if row.get("dense") is not None and row.get("compressed") is not None
    ]
    if costs and report.half_damage is not None:
        return [f"{size} cost {', '.join(costs)}; half as much is predicted to do {_share(report)} of that damage."]
    if costs:
        return [f"{size} cost {', '.join(costs)}."]
    if report.half_damage is not None:
        return [f"Half as much is predicted to do {_share(report)} of the damage of {size}."]
    return []


def _share(report: Report) -> str:
    return f"{100 * (report.half_damage or 0.0):.0f} %"


def print_report(report: Report, console: Console, groups: bool = False) -> None:
    """Print what was asked and achieved, the comparison, the run, the warnings and, if ``groups``, every group."""
    for line in (*asked_lines(report), *width_lines(report), *head_lines(report), *refit_lines(report)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(comparison_table(report))
    if not report.evaluation:
        console.print("Quality was not evaluated: see --eval-dataset, or `optimum-cli grail evaluate`.", soft_wrap=True)
    for line in (*cost_lines(report), *run_lines(report)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if groups:
        console.print(groups_table(report))
    for line in whole_lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.standalone and report.free_width_gain:
        gain = percent(report.free_width_gain)
        text = (
            f"Free widths per layer (--allocation knapsack --no-standalone) are predicted to save {gain} of the damage."
        )
        console.print(text, highlight=False, soft_wrap=True)
    for warning in report.warnings:
        console.print(f"Warning: {warning}", markup=False, highlight=False, soft_wrap=True)
