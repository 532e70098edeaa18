"""ARCHITECTURE.md names what exists, and every folder of the package."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import optimum_grail

IDENTIFIER = re.compile(r"[a-z_]+(\.[a-z_]+)*\.[A-Za-z_]\w*")
FILE_ENDINGS = (".py", ".md", ".toml", ".txt", ".json", ".yml", ".safetensors")


@pytest.fixture(scope="module")
def names(repository: Path) -> list[str]:
    """What stands between single backticks on the page, outside fenced blocks."""
    page = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def _exists(path: str, repository: Path) -> bool:
    return (repository / path).exists() or (repository / "optimum_grail" / path).exists()


def test_folders_and_files_exist(names: list[str], repository: Path) -> None:
    paths = [name for name in names if re.fullmatch(r"[\w./-]+", name) and "/" in name]
    assert len(paths) > 10
    assert [path for path in paths if not _exists(path, repository)] == []


def test_identifiers_exist(names: list[str]) -> None:
    identifiers = [name for name in names if IDENTIFIER.fullmatch(name) and not name.endswith(FILE_ENDINGS)]
    assert len(identifiers) > 5
    for name in identifiers:
        pkgutil.resolve_name(f"optimum_grail.{name.removeprefix('optimum_grail.')}")


def test_every_folder_of_the_package_is_named(names: list[str]) -> None:
    folders = {module.name for module in pkgutil.iter_modules(optimum_grail.__path__) if module.ispkg}
    assert folders - {name.rstrip("/") for name in names if name.endswith("/")} == set()


def test_every_module_of_the_root_is_named(names: list[str]) -> None:
    modules = {f"{module.name}.py" for module in pkgutil.iter_modules(optimum_grail.__path__) if not module.ispkg}
    assert modules - set(names) == set()
