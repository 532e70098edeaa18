"""What a card takes over from that of the base model."""

from __future__ import annotations

from optimum_grail.hub.metadata import inherited_from, without_folders


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
