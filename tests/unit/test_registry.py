"""The registry: what other distributions offer is read once."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from optimum_grail import registry
from optimum_grail.config.config import GrailConfig


def test_installed_distributions_are_read_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()

    def read(group: str) -> EntryPoints:
        reads[group] += 1
        return EntryPoints([EntryPoint("theirs", "a_module:A", group)] if group.endswith(".signals") else [])

    monkeypatch.setattr(registry, "entry_points", read)
    registry.installed_points.cache_clear()
    try:
        for _ in range(2):
            GrailConfig(sparsity=0.3).resolved()
            assert list(registry.points_of("optimum_grail.signals")) == ["theirs"]
    finally:
        registry.installed_points.cache_clear()
    assert "optimum_grail.compensators" in reads and set(reads.values()) == {1}
