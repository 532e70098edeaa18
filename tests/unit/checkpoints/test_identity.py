"""Where a model of the Hub was loaded from."""

from __future__ import annotations

from optimum_grail.checkpoints import identity
from optimum_grail.checkpoints.identity import commit_of


def test_the_commit_is_that_of_the_cache(monkeypatch):
    known = {("org/m", None): "/cache/models--org--m/snapshots/abc123/config.json"}
    monkeypatch.setattr(identity, "try_to_load_from_cache", lambda name, file, revision: known.get((name, revision)))
    assert commit_of("org/m") == "abc123"
    assert commit_of("org/m", "v1") == "v1"
    assert commit_of("org/unknown") is None
