"""A speed test for people: two tables, and its ratios as a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from optimum_grail.errors import ConfigError
from optimum_grail.report.table import MISSING, gibibytes, percent, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOISE = "within the noise"
"""Said of a ratio whose interval holds 1."""
WRITTEN_BY = "optimum-grail speed test"
"""What a result, and the file of its figure, say of themselves."""


def models_table(result: Mapping[str, Any]) -> Table:
    """One line per model: sizes, type, what a token takes in the key-value cache, and the most memory of a pass."""
    table = _table(f"Speed of {result['kind']}: {_work(result)}")
    cached = any(model["kv_cache_bytes_per_token"] is not None for model in result["models"])
    sizes = result["settings"]["batch_sizes"]
    peaks = {(row["model"], row["batch"]): row.get("peak_memory") for row in result["rows"]}
    headings = ["type", "parameters", "weights", *(["KV cache\nper token"] if cached else [])]
    for heading in (*headings, *(f"peak,\nbatch {size}" for size in sizes)):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in result["models"]:
        cache = model["kv_cache_bytes_per_token"]
        cells = [model["dtype"], f"{model['parameters'] / 1e6:,.2f} M", gibibytes(model["bytes"])]
        cells += [MISSING if cache is None else f"{cache:,.0f} B"] if cached else []
        found = [peaks[model["name"], size] for size in sizes]
        table.add_row(Text(model["name"]), *cells, *(MISSING if peak is None else gibibytes(peak) for peak in found))
    return table


def speed_table(result: Mapping[str, Any]) -> Table:
    """One line per part of a pass, batch size and model: how fast, how much faster than the first model, what the ratio
    of operations would allow, and how much of that is there."""
    table = _table("")
    table.columns[0].min_width = 20
    for heading in ("per second", "speed-up", "ideal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("realised", justify="right", min_width=10)
    places = list(dict.fromkeys((row["part"], row["batch"]) for row in result["rows"]))
    for part, batch in places:
        rows = [row for row in result["rows"] if (row["part"], row["batch"]) == (part, batch)]
        what = part if part == "load" else f"{part if part != 'forward' else rows[0]['unit']}, batch of {batch}"
        table.add_section()
        table.add_row(Text(what, style="bold"))
        for row in rows:
            table.add_row(Text(f"  {row['model']}"), _speed(row), *_gain(row, result))
    return table


def _table(title: str) -> Table:
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
    )
    table.add_column("model", overflow="fold")
    return table


def lines_below(result: Mapping[str, Any]) -> list[str]:
    """What the columns mean and on what they were measured."""
    settings, ratio = result["settings"], result["rows"][-1]["speedup"]
    device = result["models"][0]["device_name"] or result["hardware"].get("processor", "")
    where = (
        "on the GPU" if result["models"][0]["device_name"] else "resident in the model's process beyond its libraries"
    )
    return [
        f"{_units(result)} per second: medians of {settings['repeats']} rounds in turns ± half the interquartile "
        f"range; inputs are {settings['inputs']}. Speed-up against {_first(result)}, with an interval of "
        f"{percent(ratio['confidence'])}.",
        "Ideal: operations of the first model / operations of this one. Realised: share of the operations saved that "
        "is saved in time.",
        f"Peak memory: model and pass, {where}.",
        f"On {device}, {result['threads']} threads; torch {result['versions'].get('torch', MISSING)}.",
        *(f"note: {note}" for note in result["notes"]),
    ]


def rate(value: float) -> str:
    """A number per second for people, with three digits or all that are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def need_matplotlib() -> None:
    """Refuse to draw without it.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if not can_plot():
        raise ConfigError("Figures need matplotlib: pip install 'optimum-grail[plots]'.")


def plot_speed(result: Mapping[str, Any]) -> bytes:
    """Draw the speed-ups with their intervals, one bar per model in each row, and the ideals as dashes.

    Args:
        result: what :meth:`optimum_grail.evaluation.speed.speed_test.Prepared.run` returned.

    Returns:
        A PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["part"] != "load" and row["model"] != _first(result)]
    places = list(dict.fromkeys((row["part"], row["batch"]) for row in rows))
    figure = Figure(figsize=(2.5 + 1.4 * len(places), 3.6), layout="constrained")
    _draw(figure.subplots(), rows, places)
    figure.suptitle(f"Speed-up against {_first(result)}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": WRITTEN_BY})
    return buffer.getvalue()


def _draw(panel: Axes, rows: list[dict[str, Any]], places: list[tuple[str, int]]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    width = 0.8 / len(models)
    for index, model in enumerate(models):
        own = [row for row in rows if row["model"] == model]
        at = [places.index((row["part"], row["batch"])) + (index + 0.5) * width - 0.4 for row in own]
        ratios = [row["speedup"] for row in own]
        heights = [ratio["median"] for ratio in ratios]
        ends = [
            [ratio["median"] - ratio["low"] for ratio in ratios],
            [ratio["high"] - ratio["median"] for ratio in ratios],
        ]
        panel.bar(at, heights, width=0.9 * width, yerr=ends, capsize=2, label=model)
        ideals = [(place, row["ideal"]) for place, row in zip(at, own, strict=True) if row["ideal"] is not None]
        label = "ideal, by operations" if index == len(models) - 1 else None
        panel.plot(
            [place for place, _ in ideals],
            [ideal for _, ideal in ideals],
            "_",
            color="tab:red",
            markersize=14,
            label=label,
        )
    panel.axhline(1.0, color="grey", linewidth=0.8)
    panel.set_xticks(range(len(places)), [f"{part}\nbatch of {batch}" for part, batch in places], fontsize=8)
    panel.set_ylabel("times as fast", fontsize=8)
    panel.tick_params(axis="y", labelsize=7)
    panel.legend(fontsize=7, frameon=False)


def _units(result: Mapping[str, Any]) -> str:
    return ", ".join(sorted({str(row["unit"]) for row in result["rows"] if row["part"] != "load"})).capitalize()


def _first(result: Mapping[str, Any]) -> str:
    return str(result["models"][0]["name"])


def _work(result: Mapping[str, Any]) -> str:
    """What a pass is."""
    settings = result["settings"]
    text = f"{settings['tokens']} tokens" if settings["tokens"] else ""
    text = f"prompts of {text}, {settings['new_tokens']} new ones" if settings["new_tokens"] else text
    image = " x ".join(map(str, settings["image"][1:]))
    return ", ".join(part for part in (text, f"images of {image}" if image else "") if part)


def _speed(row: Mapping[str, Any]) -> str:
    """The median with its spread; of loading, which is no rate for people, its seconds."""
    if row["part"] == "load":
        return seconds(1 / row["per_second"])
    return f"{rate(row['per_second'])} ± {rate(row['spread'])}"


def _gain(row: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Cells of the ratio, the ideal and what of it is realised."""
    if row["model"] == _first(result):
        return MISSING, MISSING, MISSING
    ratio = row["speedup"]
    ideal = MISSING if row["ideal"] is None else f"{row['ideal']:.2f}"
    share = MISSING if row["realised"] is None else f"{100 * row['realised']:.0f} %"
    shown = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return shown, ideal, NOISE if row["within_noise"] else share
