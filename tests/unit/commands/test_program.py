"""The installed program, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def optimum_cli(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help():
    done = optimum_cli("grail", "--help")
    assert done.returncode == 0
    assert all(f"    {name} " in done.stdout for name in ("compress", "evaluate", "card", "push", "inspect", "list"))
    assert "optimum-cli grail compress -m MODEL -o small" in done.stdout


def test_list_as_json():
    done = optimum_cli("grail", "list", "presets", "--json")
    assert done.returncode == 0
    assert "grail-plus" in [row["name"] for row in json.loads(done.stdout)["presets"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compress", "-m", "x", "-o", "y", "--sparsity", "2"), "sparsity is 2; expected a number in (0, 1)"),
        (("inspect", "-m", "./no/such/model"), "Error: "),
    ],
)
def test_bad_input_exits_2_without_a_traceback(words, message):
    done = optimum_cli("grail", *words)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
