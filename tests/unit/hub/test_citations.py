"""Every method that a paper describes has one, and every paper is cited by a method that exists."""

from __future__ import annotations

import re

from optimum_grail.config.building import REGISTRIES
from optimum_grail.hub.citations import PAPERS

OURS = {
    "selector": {"random", "schur"},
    "compensator": {"none", "grail"},
    "allocation": {"uniform", "balanced"},
}
"""Baselines and our own; GRAIL is cited always."""


def test_every_method_has_its_paper():
    for part, registry in REGISTRIES.items():
        assert set(registry.names()) - OURS[part] == set(PAPERS[part])


def test_entries_are_bibtex():
    for papers in PAPERS.values():
        for entry in papers.values():
            assert re.match(r"@\w+\{[a-z]+\d{4}[a-z]+,\n", entry) and entry.count("{") == entry.count("}")
            assert re.search(r"arXiv:\d{4}\.\d{5}", entry)
