"""The package's source, parsed once."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the repository's root, its text and its syntax tree."""

    path: str
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @classmethod
    def read(cls, file: Path, root: Path) -> Source:
        text = file.read_text(encoding="utf-8")
        return cls(file.relative_to(root).as_posix(), text, ast.parse(text))


def _sources(root: Path, *folders: str) -> list[Source]:
    files = [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    return [Source.read(file, root) for file in files]


@pytest.fixture(scope="session")
def package(repository: Path) -> list[Source]:
    """The files of the package."""
    return _sources(repository, "optimum_grail")


@pytest.fixture(scope="session")
def everything(repository: Path) -> list[Source]:
    """All Python files that people maintain: package, tests, examples, benchmarks, tools."""
    return _sources(repository, "optimum_grail", "tests", "examples", "benchmarks", "tools")
