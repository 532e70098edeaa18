"""A compression on several sources: what each gave stands in the report, and the same mixture gives the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_grail.config.config import GrailConfig
from optimum_grail.errors import GrailError
from optimum_grail.report.report import Report


def test_the_report_says_what_each_source_gave(compress_llama: Callable[..., Any], prose: Any, tmp_path: Path) -> None:
    mixture = {"self": 1, str(prose.calibration): 2}
    compressor = compress_llama(dataset=mixture, sparsity=0.5, num_samples=15, seqlen=64)
    compressor.save_pretrained(tmp_path / "small")
    data = Report.load(tmp_path / "small").calibration
    assert data is not None and data == compressor.report.calibration
    assert [(part.name, part.weight, part.samples, part.tokens) for part in data.sources] == [
        (str(prose.calibration), 2, 10, 640),
        ("self", 1, 5, 320),
    ]
    assert (data.source, data.samples, data.tokens) == (f"{prose.calibration}:2 + self:1", 15, 960)
    assert len({data.sha256, *(part.sha256 for part in data.sources)}) == 3
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert f"| {prose.calibration.name} | 2 | 10 | 640 |" in card and str(prose.calibration.parent) not in card

    written = GrailConfig.from_pretrained(tmp_path / "small")
    assert written.dataset == {str(prose.calibration): 2, "self": 1}
    again = compress_llama(
        **{name: getattr(written, name) for name in ("dataset", "sparsity", "num_samples", "seqlen")}
    )
    assert again.report.calibration.sha256 == data.sha256
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in compressor.model.state_dict().items())


def test_the_command_line_takes_sources_with_weights(
    cli: Callable[..., int], embedded_llama: Path, prose: Any, tmp_path: Path, capsys: Any
) -> None:
    words = ("compress", "-m", embedded_llama, "-o", tmp_path / "small", "--preset", "wanda", "--seqlen", "32")
    sources = ("general:2", "self:starts=general,top_p=0.9", prose.calibration)
    assert cli("grail", *words, "--num-samples", "20", "--dataset", *sources) == 0
    out = capsys.readouterr().out
    assert (
        f"calibrated on general:2 + {prose.calibration}:1 + self:weight=1,top_p=0.9,starts=general: 20 samples" in out
    )
    assert f"  {prose.calibration}: 5 samples, 160 tokens" in out and "  general/code: 1 samples" in out


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (["general:2", "self:1"], "Spell a mixture"),
        ({"self:starts=chat": 1, "general": 1}, "starts=chat needs a tokenizer with a chat template"),
        ({"no/such/file.txt": 1, "self": 1}, "does not exist"),
    ],
)
def test_wrong_mixtures_end_before_the_work(compress_llama: Callable[..., Any], dataset: Any, message: str) -> None:
    with pytest.raises(GrailError, match=message):
        compress_llama(dataset=dataset, num_samples=16, seqlen=32)
