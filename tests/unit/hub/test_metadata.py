"""Where a model of the Hub was loaded from."""

from __future__ import annotations

from optimum_grail.hub import metadata
from optimum_grail.hub.metadata import commit_of, inherited_from


def test_the_commit_is_that_of_the_cache(monkeypatch):
    known = {("org/m", None): "/cache/models--org--m/snapshots/abc123/config.json"}
    monkeypatch.setattr(metadata, "try_to_load_from_cache", lambda name, file, revision: known.get((name, revision)))
    assert commit_of("org/m") == "abc123"
    assert commit_of("org/m", "v1") == "v1"
    assert commit_of("org/unknown") is None


def test_no_model_has_no_card_even_beside_one(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    assert inherited_from(None) == inherited_from("") == {}
    assert inherited_from(".") == {"license": "mit"}
