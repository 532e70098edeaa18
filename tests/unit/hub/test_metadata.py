"""What a card takes over from that of the base model."""

from __future__ import annotations

from optimum_grail.hub.metadata import inherited_from


def test_no_model_has_no_card_even_beside_one(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    assert inherited_from(None) == inherited_from("") == {}
    assert inherited_from(".") == {"license": "mit"}
