"""A speed test as tables and as a figure."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from rich.console import Console

from optimum_grail.errors import ConfigError
from optimum_grail.report import speed_view
from optimum_grail.report.speed_view import lines_below, models_table, plot_speed, rate, speed_table


def row(part, model, batch=8, ideal=1.5, noise=False):
    ratio = {"median": 1.25, "low": 0.99 if noise else 1.2, "high": 1.3, "confidence": 0.978515625}
    speed = {"per_second": 1234.5, "spread": 7.25, "speedup": ratio, "within_noise": noise}
    share = None if ideal is None else 0.6
    return {"part": part, "batch": batch, "unit": "tokens", "model": model, **speed, "ideal": ideal, "realised": share}


@pytest.fixture
def result():
    model = {"dtype": "bfloat16", "parameters": 134_515_008, "bytes": 269_030_016, "device_name": None}
    rows = [row("load", "dense", None, None), row("load", "small", None, None)]
    rows += [
        row("prefill", "dense"),
        row("prefill", "small"),
        row("decode", "dense"),
        row("decode", "small", noise=True),
    ]
    for index, item in enumerate(rows[2:]):
        item["peak_memory"] = 300 * 2**20 + index
    return {
        "kind": "causal language models",
        "settings": {
            "tokens": 256, "new_tokens": 64, "image": [], "repeats": 10, "batch_sizes": [8],
            "inputs": "random, from seed 1",
        },
        "models": [
            {"name": "dense", **model, "kv_cache_bytes_per_token": 23040.0},
            {"name": "small", **model, "kv_cache_bytes_per_token": 11520.0},
        ],
        "rows": rows,
        "notes": ["types differ"],
        "versions": {"torch": "2.13.0"},
        "hardware": {"processor": "a processor"},
        "threads": 2,
    }  # fmt: skip


def shown(*items):
    console = Console(width=100, file=io.StringIO())
    for item in items:
        console.print(item, soft_wrap=isinstance(item, str))
    return " ".join(console.file.getvalue().split())


def test_tables_tell_everything(result):
    text = shown(models_table(result), speed_table(result), *lines_below(result))
    for part in (
        "prompts of 256 tokens, 64 new ones",
        "134.52 M",
        "256.6 MiB",
        "11,520 B",
        "300.0 MiB",
        "prefill, batch of 8",
        "1,234 ± 7.25",
        "1.25 [1.20, 1.30] 1.50 60 %",
        "1.25 [0.99, 1.30] 1.50 within the noise",
        "Tokens per second: medians of 10 rounds",
        "an interval of 97.9 %",
        "a processor, 2 threads; torch 2.13.0",
        "note: types differ",
    ):
        assert part in text, text


def test_what_is_not_known_is_a_dash(result):
    result["kind"], result["settings"] = "models of images", result["settings"] | {"tokens": 0, "new_tokens": 0}
    result["settings"]["image"] = [3, 16, 24]
    for model in result["models"]:
        model["kv_cache_bytes_per_token"] = None
    result["rows"] = [item | {"part": "forward", "unit": "images", "peak_memory": None} for item in result["rows"][:2]]
    for item in result["rows"]:
        item["batch"] = 8
    text = shown(models_table(result), speed_table(result))
    assert "images of 16 x 24" in text and "KV cache" not in text and "images, batch of 8" in text
    assert "1.25 [1.20, 1.30] - -" in text


def test_rates_have_three_digits():
    assert [rate(value) for value in (1234567.8, 99.94, 0.01234)] == ["1,234,568", "99.9", "0.0123"]


def test_the_figure_says_who_drew_it(result):
    pytest.importorskip("matplotlib")
    picture = Image.open(io.BytesIO(plot_speed(result)))
    assert picture.info["Software"] == speed_view.WRITTEN_BY and picture.size[0] > 300


def test_without_matplotlib_no_figure(result, monkeypatch):
    monkeypatch.setattr(speed_view, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'optimum-grail\[plots\]'"):
        plot_speed(result)
