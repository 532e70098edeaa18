"""House rules that make the code readable: small files, small bodies, no shortcuts, everything described."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_LINES = 300
BODY_LINES = 40
# mutable defaults, bare except, no docstring, assert, print, mutable dataclass defaults and class attributes
RUFF_RULES = "B006,E722,D100,D101,D102,D103,D104,S101,T20,RUF008,RUF012"


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def test_the_rules_see_the_package(package: list[Any]) -> None:
    assert {"optimum_grail/__init__.py", "optimum_grail/core/groups.py"} <= {source.path for source in package}


def test_files_are_short(everything: list[Any]) -> None:
    lines = {source.path: len(source.text.splitlines()) for source in everything}
    assert {path: count for path, count in lines.items() if count > FILE_LINES} == {}


def test_function_bodies_are_short(package: list[Any]) -> None:
    bodies = {
        f"{source.path}:{function.lineno} {function.name}": _body_lines(function)
        for source in package
        for function in _functions(source.tree)
    }
    assert {place: count for place, count in bodies.items() if count > BODY_LINES} == {}


def test_nothing_is_guessed_with_hasattr(package: list[Any]) -> None:
    found = [
        f"{source.path}:{node.lineno}"
        for source in package
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name) and node.id == "hasattr"
    ]
    assert found == []


NO_GUESSING = ("allocations", "compensators", "core", "fit", "selectors", "survey", "widths")
"""Folders that meet no foreign objects: every attribute they read is declared."""
METHOD = re.compile(r"(selector|compensator|allocation|method)s?$")


def _guesses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and first argument of every ``getattr`` and ``hasattr``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            yield node.lineno, ast.unparse(node.args[0])


def test_what_a_stage_asks_of_a_method_is_in_its_contract(package: list[Any]) -> None:
    """An option that a method happens to have is no promise: two methods may use one name for different things."""
    found = [
        f"{source.path}:{line} {argument}"
        for source in package
        for line, argument in _guesses(source.tree)
        if METHOD.search(argument) or source.path.split("/")[1] in NO_GUESSING
    ]
    assert found == []


def test_every_function_is_annotated(package: list[Any]) -> None:
    found = []
    for source in package:
        for function in _functions(source.tree):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or function.returns is None:
                found.append(f"{source.path}:{function.lineno} {function.name} {bare}")
    assert found == []


def test_no_shortcuts_and_everything_public_is_described(repository: Path) -> None:
    """Ruff's rules, with suppressing comments ignored: what they forbid has no exceptions in the package."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--ignore-noqa", "--output-format", "concise"]
    done = subprocess.run(
        [*command, "--select", RUFF_RULES, "optimum_grail"], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
