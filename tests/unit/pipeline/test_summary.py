"""What a report takes from a finished run."""

from __future__ import annotations

import pytest

from optimum_grail.pipeline.summary import hub_data


def test_data_sets_of_the_hub_are_named_once_and_without_options(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "texts").touch()
    sources = ["owner/name:split=train", "self", "general/code", "local/texts", "owner/name", "/home/a.txt", "one/two"]
    assert hub_data([*sources, "list of 3 in memory"]) == ("owner/name", "one/two")
