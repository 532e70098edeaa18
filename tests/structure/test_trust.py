"""Nothing of a checkpoint is run: no pickle, no eval, no code of a repository that the caller did not trust."""

from __future__ import annotations

import ast
from typing import Any

RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_runs_text_or_unpickles(package: list[Any]) -> None:
    found = []
    for source in package:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and _called(node) in (*RUNS_TEXT, "torch.load", "yaml.load"):
                found.append(f"{source.path}:{node.lineno} {_called(node)}")
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [f"{source.path} imports {name}" for name in names if name.partition(".")[0] in UNPICKLES]
    assert found == []


def test_only_the_caller_trusts_code_of_a_repository(package: list[Any]) -> None:
    found = [
        f"{source.path}:{node.value.lineno}"
        for source in package
        for node in ast.walk(source.tree)
        if isinstance(node, ast.keyword)
        and node.arg in ("trust_remote_code", "allow_pickle", "weights_only")
        and isinstance(node.value, ast.Constant)
        and node.value.value is not (node.arg == "weights_only")
    ]
    assert found == []
