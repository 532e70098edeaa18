"""Every method that a paper describes carries it; a card cites those of its methods."""

from __future__ import annotations

import re

from optimum_grail.config.building import REGISTRIES
from optimum_grail.core.papers import FLAP, GRAIL
from optimum_grail.hub.citations import citations

OURS = {
    "selector": {"random", "schur", "frequency"},
    "compensator": {"none", "grail"},
    "allocation": {"uniform", "balanced"},
    "refit": {"none", "producers"},
    "pattern_selector": {"magnitude"},
}
"""Baselines and our own; GRAIL is cited always."""


def test_every_method_has_its_paper():
    for part, registry in REGISTRIES.items():
        assert {name for name, method in registry if method.paper is None} == OURS[part]


def test_entries_are_bibtex():
    papers = {GRAIL} | {method.paper for registry in REGISTRIES.values() for _, method in registry if method.paper}
    for entry in papers:
        assert re.match(r"@\w+\{[a-z]+\d{4}[a-z]+,\n", entry) and entry.count("{") == entry.count("}")
        assert re.search(r"arXiv:\d{4}\.\d{5}", entry)


def test_a_method_that_is_not_installed_is_passed_over():
    config = {"selector": "flap", "compensator": {"name": "theirs"}, "allocation": "unknown:x=1"}
    assert citations(config) == (GRAIL, FLAP)


def test_a_pattern_is_cited_where_one_was_laid():
    alone, laid = ({"pattern_selector": "sparsegpt", "pattern": pattern} for pattern in (None, "2:4"))
    assert citations(alone) == (GRAIL,)
    assert len(citations(laid)) == 2 and "sparsegpt" in citations(laid)[1]
