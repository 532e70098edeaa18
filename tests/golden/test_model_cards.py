"""The cards in ``model_cards/`` are what their reports render to, and carry measured numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from huggingface_hub import ModelCard

from optimum_grail.report.report import Report

FOLDER = Path(__file__).resolve().parents[2] / "model_cards"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_model_cards", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_model_cards"] = module
    spec.loader.exec_module(module)
    return module


def test_a_language_model_and_a_network_of_ones_own_are_there(script: ModuleType) -> None:
    assert {"llama-books-3m", "resnet20"} <= set(NAMES) <= set(script.MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_rendered_from_its_report(name: str, script: ModuleType) -> None:
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert text == script.render(name), "render it again: python model_cards/make.py --render"


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_measured_results_and_no_paths(name: str) -> None:
    report = Report.load(FOLDER / name)
    card = ModelCard.load(FOLDER / name / "README.md")
    (row,) = report.evaluation
    better = max if row["higher_is_better"] else min
    assert better(row["dense"], row["compressed"]) == row["dense"]
    assert better(row["compressed"], row["plain"]) == row["compressed"]
    (result,) = card.data.eval_results
    assert result.metric_value == row["compressed"] and result.metric_type == row["metric"]
    assert report.achieved > 0.3 and report.forward["latency"] and report.calibration.sha256 in card.content
    assert (FOLDER / name / "grail_errors.png").stat().st_size > 1000 and "(grail_errors.png)" in card.content
    content = card.content + report.to_json()
    assert "/work" not in content and "/home" not in content and "/tmp" not in content and card.data.base_model is None
