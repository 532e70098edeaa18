"""The installed program, as a user starts it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest


def optimum_cli(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_help():
    done = optimum_cli("grail", "--help")
    assert done.returncode == 0
    assert all(f"    {name} " in done.stdout for name in ("compress", "evaluate", "card", "push", "inspect", "list"))
    assert "optimum-cli grail compress -m MODEL -o small" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("compress", "--help"),
        ("evaluate", "--help"),
        ("sweep", "--help"),
        ("benchmark", "--help"),
        ("push", "--help"),
    ],
)
def test_help_is_silent_quick_and_needs_no_torch(words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = optimum_cli("grail", *words, PYTHONPROFILEIMPORTTIME="1")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert [line for line in done.stderr.splitlines() if line not in imported] == []
    assert done.returncode == 0 and imported
    assert not {"torch", "transformers"} & {line.rpartition("|")[2].strip() for line in imported}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@pytest.mark.parametrize("words", [("list", "presets"), ("inspect", "-m", "MODEL")])
def test_commands_that_import_libraries_are_silent(embedded_llama, words):
    done = optimum_cli("grail", *(str(embedded_llama) if word == "MODEL" else word for word in words))
    assert (done.returncode, done.stderr) == (0, "")


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
