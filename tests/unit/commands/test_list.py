"""``optimum-cli grail list``."""

from __future__ import annotations

import json

import pytest

from optimum_grail.commands.list_methods import TOPICS
from optimum_grail.config.building import REGISTRIES
from optimum_grail.config.presets import presets


def test_everything_is_listed_and_documented(cli, capsys):
    assert cli("grail", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == TOPICS
    assert [row["name"] for row in found["presets"]] == list(presets())
    for part, registry in REGISTRIES.items():
        assert [row["name"] for row in found[f"{part}s"]] == registry.names()
    assert "llama" in [row["name"] for row in found["architectures"]]
    assert all(row["summary"].endswith(".") for rows in found.values() for row in rows)


def test_needs_are_told(cli, capsys):
    cli("grail", "list", "selectors", "--json")
    needs = {row["name"]: row["needs"] for row in json.loads(capsys.readouterr().out)["selectors"]}
    assert (needs["magnitude"], needs["wandapp"]) == ("no data", "block gradients, gram")


@pytest.mark.parametrize("topic", TOPICS)
def test_one_topic_as_a_table(cli, capsys, topic):
    assert cli("grail", "list", topic) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(topic)
    assert all(other not in shown.split() for other in TOPICS if other != topic)


def test_options_are_shown_with_defaults(cli, capsys):
    cli("grail", "list", "selectors")
    assert "p=1" in capsys.readouterr().out
