"""What a card takes over from that of the base model, and what it keeps to itself."""

from __future__ import annotations

import dataclasses

from optimum_grail.hub.card import build_card
from optimum_grail.hub.metadata import inherited_from, without_folders
from optimum_grail.report.report import SourceRows


def test_no_model_has_no_card_even_beside_one(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    assert inherited_from(None) == inherited_from("") == {}
    assert inherited_from(".") == {"license": "mit"}


def test_paths_are_cut_wherever_they_stand():
    assert without_folders({"dataset": "/home/a/b.txt", "rows": ["/home/c.txt", 3, "a/b"]}) == {
        "dataset": "b.txt",
        "rows": ["c.txt", 3, "a/b"],
    }
    assert without_folders("/home/a/b.txt:2 + self:1 + /srv/c.txt:1") == "b.txt:2 + self:1 + c.txt:1"
    assert without_folders("1 + 1") == "1 + 1"


def test_sources_of_one_name_stay_apart():
    mixture = {"/home/a/x/b.txt:split=test": 1, "/home/c/x/b.txt:split=test": 2, "self": 1, "/srv/z.txt": 1}
    assert without_folders(mixture) == {"a/x/b.txt:split=test": 1, "c/x/b.txt:split=test": 2, "self": 1, "srv/z.txt": 1}
    assert without_folders({"/home/a/b.txt": {"weight": 2}}) == {"b.txt": {"weight": 2}}


def test_several_sources_are_a_table_without_their_folders(report):
    name = "/home/someone/rows.txt"
    sources = (SourceRows(name, 2.0, 10, 1280, "ab"), SourceRows("self", 1.0, 5, 640, "cd"))
    data = dataclasses.replace(
        report.calibration, source=f"{name}:2 + self:1", sources=sources, notes=(f"{name}: odd",)
    )
    text = str(build_card(dataclasses.replace(report, calibration=data, config={"dataset": {name: 2, "self": 1}})))
    assert "/home" not in text
    for words in ("Calibration data: rows.txt:2 + self:1, ", "| rows.txt | 2 | 10 | 1,280 |", "| self | 1 | 5 | 640 |"):
        assert words in text
    assert '"rows.txt": 2' in text and "- rows.txt: odd" in text
    alone = dataclasses.replace(data, sources=sources[:1])
    assert "| source |" not in str(build_card(dataclasses.replace(report, calibration=alone)))
