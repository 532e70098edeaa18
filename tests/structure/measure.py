"""The numbers that the house holds: ``python tests/structure/measure.py`` prints them and fails where one is worse."""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAPS = "optimum_grail/architectures/"
CONFIG = "GrailConfig.__init__"
"""The one signature that lists everything that may be asked."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Number:
    """One measurement with the limit it is held to: ``most`` or ``least``."""

    name: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def line(self) -> str:
        """For people."""
        limit = f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"
        return f"{'ok ' if self.holds else 'BAD'}  {self.name:<58} {self.value:>8g}   {limit}"


def files(*folders: str) -> dict[str, str]:
    """Path below the root to text, of all Python files of the folders."""
    found = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in found}


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Qualified name and node of every function, inner ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        if isinstance(node, Function | ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def parameters(node: Function) -> list[ast.arg]:
    """All parameters but ``self`` and ``cls``."""
    found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument for argument in found if argument.arg not in ("self", "cls")]


def body_lines(node: Function) -> int:
    """Lines of the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def code_lines(text: str) -> int:
    """Lines that are neither blank, nor comment, nor part of a docstring."""
    tree, told = ast.parse(text), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for number, line in lines if line.strip() and not line.strip().startswith("#") and number not in told)


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Annotations of parameters, results and variables."""
    for node in ast.walk(tree):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            found = [node.annotation]
        elif isinstance(node, Function):
            found = [node.returns]
        yield from (item for item in found if item is not None)


def is_any(annotation: ast.expr) -> bool:
    """Whether an annotation says nothing."""
    return ast.unparse(annotation) == "Any"


def is_public(name: str) -> bool:
    """Whether a qualified name is for others: no part of it starts with an underscore, but for magic methods."""
    return all(not part.startswith("_") for part in name.split(".") if not part.startswith("__"))


def longest_repetition(texts: dict[str, str], shortest: int = 6) -> tuple[int, str]:
    """Most lines that two places share, white space aside, and where; imports and blank lines are passed over."""
    lines: list[tuple[str, int, str]] = []
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            word = line.strip()
            if len(word) > 1 and not word.startswith(("import ", "from ", "#")):
                lines.append((path, number, word))
        lines.append((path, 0, f"end of {path}"))
    homes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for start in range(len(lines) - shortest + 1):
        homes[tuple(word for *_, word in lines[start : start + shortest])].append(start)
    best, where = 0, "nowhere"
    for places in homes.values():
        for first, second in pairwise(places):
            count = 0
            while second + count < len(lines) and lines[first + count][2] == lines[second + count][2]:
                count += 1
            if count > best:
                best, where = count, f"{lines[first][0]}:{lines[first][1]} and {lines[second][0]}:{lines[second][1]}"
    return best, where


def measure() -> list[Number]:
    """All numbers, of the working tree."""
    package, tests = files("optimum_grail"), files("tests")
    trees = {path: ast.parse(text) for path, text in package.items()}
    named = [(f"{path} {name}", name, node) for path, tree in trees.items() for name, node in functions(tree)]
    lines = [len(text.splitlines()) for text in package.values()]
    kinds = [item for tree in trees.values() for item in annotations(tree)]
    long = [place for place, name, node in named if len(parameters(node)) > 6 and name != CONFIG]
    bare = [place for place, name, node in named if is_public(name) and ast.get_docstring(node) is None]
    shared, where = longest_repetition(package)
    # Maps are data: the same contract tests try them all, however many there are.
    code = sum(code_lines(text) for path, text in package.items() if not path.startswith(MAPS))
    return [
        Number("median lines of a file", statistics.median(lines), most=110),
        Number("lines of the longest file", max(lines), most=300),
        Number("lines of the longest function body", max(body_lines(node) for *_, node in named), most=40),
        Number("functions of more than 6 parameters", len(long), most=PARAMETER_LISTS),
        Number("public functions without a docstring", len([place for place in bare if "__" not in place]), most=0),
        Number("percent of annotations that say Any", round(100 * sum(map(is_any, kinds)) / len(kinds), 1), most=ANY),
        Number(
            "code lines of the tests per code line but for maps",
            round(sum(map(code_lines, tests.values())) / code, 2),
            least=1,
        ),
        Number(f"most lines shared by two places ({where})", shared, most=12),
    ]


PARAMETER_LISTS = 10
ANY = 3.0


def main() -> int:
    """Print all numbers; 1 where one is outside its limit."""
    numbers = measure()
    sys.stdout.write("\n".join(number.line() for number in numbers) + "\n")
    return 0 if all(number.holds for number in numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
