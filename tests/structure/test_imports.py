"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import pytest

IMPORT_SECONDS = 0.3
COMMAND_SECONDS = 0.2
HEAVY = {"torch", "transformers", "datasets", "huggingface_hub", "numpy", "pyarrow", "peft", "accelerate"}
DISTRIBUTION = {"PIL": "pillow"}
WITH_ANOTHER = {
    "pyarrow": "datasets",
    "yaml": "huggingface_hub",
    "packaging": "huggingface_hub",
    "matplotlib": "the plots extra",
    "lm_eval": "the lm-eval extra",
    "gguf": "the gguf extra",
    "onnxruntime": "the onnx extra",
    "openvino": "the openvino extra",
    "tokenizers": "transformers",
}
"""Modules that the package imports and that come with something it depends on."""

PROBE = """
import json, sys, time
{before}
known = set(sys.modules)
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({{name.partition(".")[0] for name in set(sys.modules) - known}})]))
"""


def _cost(statement: str, before: str = "") -> tuple[float, set[str]]:
    """Least seconds of three fresh interpreters, and the top-level modules that the statement loads."""
    seconds = []
    for _ in range(3):
        code = PROBE.format(before=before, statement=statement)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        spent, modules = json.loads(done.stdout)
        seconds.append(spent)
    return min(seconds), set(modules)


def test_importing_the_package_is_cheap() -> None:
    seconds, modules = _cost("import optimum_grail")
    assert modules & HEAVY == set()
    assert seconds < IMPORT_SECONDS


def test_optimum_cli_is_not_slowed_down() -> None:
    seconds, modules = _cost(
        "from optimum_grail.commands import _register", before="from optimum.commands import optimum_cli"
    )
    assert modules & HEAVY == set()
    assert seconds < COMMAND_SECONDS


def test_every_public_name_is_there() -> None:
    import optimum_grail

    missing = [name for name in optimum_grail.__all__ if getattr(optimum_grail, name, None) is None]
    assert missing == []
    assert set(optimum_grail.__all__) <= set(dir(optimum_grail))
    assert set(optimum_grail._HOME) | {"__version__"} == set(optimum_grail.__all__)


def test_type_checkers_see_the_names_where_they_are(repository: Path) -> None:
    import optimum_grail

    tree = ast.parse((repository / "optimum_grail" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == {name: f"optimum_grail.{home}" for name, home in optimum_grail._HOME.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    import optimum_grail

    with pytest.raises(AttributeError, match="no attribute 'GrailCompresser'"):
        _ = optimum_grail.GrailCompresser


def test_the_installed_version_is_that_of_the_source() -> None:
    import optimum_grail

    assert importlib.metadata.version("optimum-grail") == optimum_grail.__version__


def test_imports_have_no_cycle() -> None:
    """Of modules; the package's own ``__init__`` aside, whose imports are lazy."""
    graph = grimp.build_graph("optimum_grail", exclude_type_checking_imports=True, cache_dir=None)
    modules = graph.modules - {"optimum_grail"}
    edges = {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}
    TopologicalSorter(edges).prepare()


def test_layers_are_kept(repository: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_methods_never_see_a_module(package: list[Any]) -> None:
    """Selectors, compensators and allocations compute with tensors; the structure of models is for `models`."""
    folders = ("selectors", "compensators", "allocations")
    found = [
        f"{source.path}:{node.lineno}"
        for source in package
        if source.path.split("/")[1] in folders
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr == "nn")
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.nn"))
        or (isinstance(node, ast.alias) and node.name in ("nn", "torch.nn"))
    ]
    assert found == []


def test_first_party_imports_are_at_the_top(package: list[Any]) -> None:
    """Elsewhere only in a command's ``run`` and in the loading hook: what must not be loaded before it is needed."""
    found = []
    for source in package:
        if source.path.startswith("optimum_grail/commands/") or source.path == "optimum_grail/models/hook.py":
            continue
        for function in ast.walk(source.tree):
            if isinstance(function, ast.FunctionDef):
                found += [
                    f"{source.path}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optimum_grail")
                ]
    assert found == []


def test_what_is_imported_is_declared(package: list[Any], repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {requirement.split(">")[0].strip() for requirement in project["dependencies"]}
    imported = set()
    for source in package:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
    third_party = imported - sys.stdlib_module_names - {"optimum_grail"} - set(WITH_ANOTHER)
    assert {DISTRIBUTION.get(name, name) for name in third_party} - declared == set()
