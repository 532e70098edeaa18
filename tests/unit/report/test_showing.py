"""Tables, progress and figures."""

from __future__ import annotations

import dataclasses
import io
import time

import pytest
from rich.console import Console

from optimum_grail.errors import ConfigError, DataError
from optimum_grail.report.plots import plot_errors
from optimum_grail.report.progress import RichProgress, Silent, span
from optimum_grail.report.report import SourceRows
from optimum_grail.report.table import change, number, percent, print_report


def shown(report, **kwargs):
    console = Console(file=io.StringIO(), width=100)
    print_report(report, console, **kwargs)
    return console.file.getvalue()


def cells(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_says_what_was_asked_and_achieved(report):
    text = shown(report)
    assert "asked 50.0 % of the blocks' parameters, achieved 50.0 %" in text
    assert "40.0 % of the whole model's parameters gone" in text
    assert "Warning: something | odd" in text


def test_another_budget_is_not_called_parameters(report):
    text = shown(dataclasses.replace(report, budget="latency", budget_removed=0.512))
    assert "asked 50.0 % of the blocks' latency, achieved 51.2 %\n50.0 % of the blocks' parameters gone\n" in text


def test_a_strangers_report_is_text_and_no_format(report):
    assert "asked 50.0 % {x.y}, achieved -" in shown(dataclasses.replace(report, asked={"{x.y}": 0.5}))


def test_the_time_of_a_pass_is_compared(report):
    forward = {"latency": [{"batch": 4, "dense": 0.2, "compressed": 0.15}], "memory": []}
    line = next(line for line in shown(dataclasses.replace(report, forward=forward)).splitlines() if "latency" in line)
    assert cells(line) == [
        "latency, batch of 4",
        "200 ms",
        "150 ms",
        "-25.0 %",
    ]


@pytest.mark.parametrize(("spread", "told"), [(0.02, "-25.0 %"), (0.03, "not told apart")])
def test_times_that_differ_by_less_than_their_spreads_are_not_told_apart(report, spread, told):
    row = {"batch": 4, "dense": 0.2, "compressed": 0.15, "dense_spread": spread, "compressed_spread": 0.025}
    text = shown(dataclasses.replace(report, forward={"latency": [row]}))
    line = next(line for line in text.splitlines() if "latency" in line)
    assert cells(line) == ["latency, batch of 4", f"200 ms ± {1000 * spread:.0f} ms", "150 ms ± 25 ms", told]


def test_says_widths_and_the_run(report):
    text = shown(report)
    assert "feed-forward channels: 64 -> 24 in 2 layers" in text and "attention: all 4 stay in 1 layer\n" in text
    assert "calibrated on self: 128 samples, 32,768 tokens\nnote: streams in float32\n" in text
    assert "fit 1.5 s, peak memory 0.93 GiB" in text


def test_heads_are_counted_as_the_config_counts_them(report):
    counts = {"num_attention_heads": 3, "num_key_value_heads": 1}
    heads = dataclasses.replace(report.groups[0], per_unit=counts)
    fewer = dataclasses.replace(heads, name="layers.1.heads", units_after=2)
    text = shown(dataclasses.replace(report, groups=(fewer, dataclasses.replace(fewer, units_after=3))), groups=True)
    assert "attention: 12 -> 6..9 attention heads, 4 -> 2..3 key-value heads in 2 layers\n" in text and "6/12" in text
    assert "attention: all 12 attention heads, 4 key-value heads stay in 1 layer\n" in shown(
        dataclasses.replace(report, groups=(heads,))
    )


def test_says_the_size_where_a_size_was_asked(report):
    text = shown(dataclasses.replace(report, asked={"target_bytes": 1250}))
    assert "asked for 1,250 bytes, got 1,200\n" in text
    assert "asked for 610 parameters, got 600\n" in shown(dataclasses.replace(report, asked={"target_parameters": 610}))


def test_widths_that_differ_are_a_range(report):
    rows = (report.groups[1], dataclasses.replace(report.groups[2], units_after=40))
    assert "feed-forward channels: 64 -> 24..40 in 2 layers" in shown(dataclasses.replace(report, groups=rows))


def test_names_groups_left_whole_among_others_that_shrank(report):
    assert "Left whole" not in shown(report)
    rows = (report.groups[1], dataclasses.replace(report.groups[2], units_after=64))
    assert "Left whole: layers.1.mlp\n" in shown(dataclasses.replace(report, groups=rows))
    many = (report.groups[1], *(dataclasses.replace(rows[1], name=f"layers.{index}.mlp") for index in range(1, 13)))
    assert "layers.8.mlp and 4 more\n" in shown(dataclasses.replace(report, groups=many))


def test_says_what_the_size_cost_and_what_half_of_it_would(report):
    row = {"metric": "perplexity", "dataset": "x", "dense": 40.0, "compressed": 50.0}
    measured = dataclasses.replace(report, evaluation=(row,), half_damage=0.23)
    cost = "40.0 % fewer parameters cost perplexity on x 40 -> 50"
    assert f"{cost}; half as much is predicted to do 23 % of that damage.\n" in shown(measured)
    assert f"{cost}.\n" in shown(dataclasses.replace(measured, half_damage=None))
    predicted = "Half as much is predicted to do 23 % of the damage of 40.0 % fewer parameters.\n"
    assert predicted in shown(dataclasses.replace(measured, evaluation=()))
    assert "half as much" not in shown(dataclasses.replace(report, evaluation=())).lower()


def test_images_have_no_tokens(report):
    data = dataclasses.replace(report.calibration, tokens=0, notes=())
    assert "calibrated on self: 128 samples\n" in shown(dataclasses.replace(report, calibration=data))


def test_says_what_each_of_several_sources_gave(report):
    sources = (SourceRows("a.txt", 2.0, 1000, 128000), SourceRows("self", 1.0, 5))
    several = dataclasses.replace(report, calibration=dataclasses.replace(report.calibration, sources=sources))
    assert "\n  a.txt: 1,000 samples, 128,000 tokens\n  self: 5 samples\n" in shown(several)
    one = dataclasses.replace(report, calibration=dataclasses.replace(report.calibration, sources=sources[:1]))
    assert "  a.txt:" not in shown(one)


def test_says_what_free_widths_would_gain(report):
    assert "predicted to save 45.0 % of the damage" in shown(dataclasses.replace(report, free_width_gain=0.45))
    assert "predicted to save" not in shown(dataclasses.replace(report, free_width_gain=0.45, standalone=False))


def test_says_units_where_units_were_asked(report):
    text = shown(dataclasses.replace(report, asked={"ffn_sparsity": 0.6, "head_sparsity": 0.1}))
    assert "asked 60.0 % of the FFN channels, achieved 62.5 %" in text
    assert "asked 10.0 % of the heads, achieved 0.0 %" in text


def test_compares(report):
    text = shown(report)
    assert "perplexity on test.txt" in text and "inf" in text and "-50.0 %" in text
    assert "plainly pruned" not in text and "not evaluated" not in text


def test_plain_pruning_gets_a_column_if_measured(report):
    row = {"metric": "perplexity", "dataset": "x", "dense": 40.0, "plain": 90.0, "compressed": 50.0}
    text = shown(dataclasses.replace(report, evaluation=(row,)))
    assert "plainly pruned" in text and "90" in text and "+25.0 %" in text


def test_no_numbers_without_evaluation(report):
    assert "not evaluated" in shown(dataclasses.replace(report, evaluation=()))


def test_groups(report):
    text = shown(report, groups=True)
    assert "24/64" in text and "4/4" in text and "1e-04" in text and "plain" in text


def test_markup_in_names_is_text(report):
    assert "[red]x: before" in shown(dataclasses.replace(report, model="[red]x"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1234567, "1,234,567"), (0.123456, "0.1235"), (float("inf"), "inf"), ("text", "text")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_changes():
    assert change(40.0, 50.0) == "+25.0 %"
    assert change(0, 1) == change(None, 1) == change(1, None) == "-"
    assert percent(0.4991) == "49.9 %" and percent(None) == "-"


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    ticks = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: ticks[0])
    return ticks


def test_a_terminal_gets_a_bar():
    progress = RichProgress(Console(file=io.StringIO(), force_terminal=True, width=100))
    progress.update(1, "before the start")
    progress.start(2, "measuring")
    progress.update(1, "layers.0.mlp")
    progress.message("[x] about 3 s")
    progress.start(1, "compressing")
    progress.finish()
    progress.finish()
    text = progress.console.file.getvalue()
    assert "[x] about 3 s" in text and "measuring: layers.0.mlp" in text and "compressing" in text
    assert " used, about " not in text


def test_a_log_gets_a_line_for_every_block(clock):
    progress = RichProgress(Console(file=io.StringIO(), width=40))
    progress.start(6, "compressing")
    for block in range(3):
        for part in ("heads", "mlp"):
            clock[0] += 15
            progress.update(1, f"model.layers.{block}.{part}")
    progress.finish()
    assert progress.console.file.getvalue().splitlines() == [
        "compressing ...",
        "compressing: 1 of 6 (model.layers.0), 15 s used, about 75 s left",
        "compressing: 3 of 6 (model.layers.1), 45 s used, about 45 s left",
        "compressing: 5 of 6 (model.layers.2), 75 s used, about 15 s left",
        "compressing: 6 of 6 in 90 s",
    ]


def test_a_log_gets_few_lines_of_what_has_no_blocks(clock):
    progress = RichProgress(Console(file=io.StringIO(), width=40))
    progress.start(1000, "perplexity")
    for _ in range(250):
        clock[0] += 0.125
        progress.update(4, "perplexity")
    progress.message("said at once")
    progress.finish()
    lines = progress.console.file.getvalue().splitlines()
    assert lines[1] == "perplexity: 100 of 1,000, 3.1 s used, about 28 s left" and len(lines) == 12
    progress.start(1000, "perplexity")
    for _ in range(1000):
        clock[0] += 0.0019
        progress.update(1, "perplexity")
    assert len(progress.console.file.getvalue().splitlines()) == len(lines) + 1, "sooner done than told"
    assert lines[-2:] == ["said at once", "perplexity: 1,000 of 1,000 in 31 s"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (119, "119 s"), (125, "2 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert span(seconds) == text


def test_silence(capsys):
    progress = Silent()
    progress.start(1, "a")
    progress.update(1, "b")
    progress.message("c")
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_figure(report, tmp_path):
    pytest.importorskip("matplotlib")
    png = plot_errors(report, tmp_path / "errors.png")
    assert png.startswith(b"\x89PNG") and (tmp_path / "errors.png").read_bytes() == png
    assert plot_errors(report) == png


def test_no_figure_without_errors(report):
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="no errors"):
        plot_errors(dataclasses.replace(report, groups=report.groups[:1]))


def test_no_figure_without_matplotlib(report, monkeypatch):
    monkeypatch.setattr("optimum_grail.report.plots.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        plot_errors(report)
