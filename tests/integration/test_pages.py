"""Pages of what the package really writes: a compressed model, a sweep, a trimmed vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.pages.folder import page_of, write_page
from optimum_grail.report.report import Report
from optimum_grail.sweep import Sweep, cells
from optimum_grail.vocabulary.trim import trim_vocabulary
from tests.unit.pages.conftest import Parsed


def test_a_compressed_model(llama_run: Callable[[str], Any], tmp_path: Path) -> None:
    """Every group has two bars, as high as its widths, and every file of the folder is named."""
    folder = llama_run("rounded").folder
    report, before = Report.load(folder), {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    page = Parsed(write_page(folder, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before, "the folder is only read"
    assert all(name in page.text for name in before)
    bars = page.named("rect")
    heights = {
        kind: [float(str(bar["height"])) for bar in bars if bar["class"] == kind] for kind in ("before", "after")
    }
    shrinking = [row for row in report.groups if row.shrinks]
    assert len(heights["before"]) == len(heights["after"]) == len(shrinking)
    for row, dense, kept in zip(sorted(shrinking, key=lambda row: row.kind), *heights.values(), strict=True):
        assert abs(kept / dense - row.units_after / row.units_before) < 1e-3
    assert f"{report.parameters_before:,} → {report.parameters_after:,}" in page.text
    assert "plain transformers loads it" in page.text and "not evaluated" in page.text


def test_a_sweep(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    texts = [{"input_ids": torch.randint(3, 90, (16,), generator=draw)} for _ in range(10)]
    sizes = iter(range(10, 100))
    sweep = Sweep(tiny_llama().eval(), measure=lambda _: {"norm": float(next(sizes))}, headline="norm", dataset=texts)
    planned = cells(["magnitude", "grail"], [0.3, 0.5], {"num_samples": 4, "seqlen": 16})
    sweep.run(planned, tmp_path / "sweep")
    page = Parsed(page_of(tmp_path / "sweep").html())
    assert len(page.named("polyline")) == 2 and len(page.named("circle")) == 4
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text(encoding="utf-8"))["rows"]
    assert all(f"{row['parameters']:,}" in page.text for row in rows)


def test_a_trimmed_vocabulary(embedded_llama: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    result = trim_vocabulary(embedded_llama, small, ["It was the best of times, it was the worst of times."])
    text = Parsed(page_of(small).html()).text
    assert f"{result.tokens_before:,} → {result.tokens_after:,}" in text
    assert "holds no report of a compression" in text
