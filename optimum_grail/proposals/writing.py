"""A proposal as a Python file: a module with ``SPECS`` that can be saved, read, corrected and named with ``--map``."""

from __future__ import annotations

import textwrap
from dataclasses import fields

from optimum_grail.core.spec import ArchitectureSpec, GroupSpec, Strip, always, never
from optimum_grail.proposals.proposal import Proposal

WIDTH = 119


def module_text(proposal: Proposal) -> str:
    """The file: a docstring that says what was left out and why, imports, ``SPECS``.

    Args:
        proposal: as :func:`optimum_grail.proposals.propose.propose` makes it.

    Returns:
        Python source, formatted.
    """
    used = {type(group).__name__ for spec in proposal.specs for group in spec.groups}
    body = "".join(f"    {_call(spec, 1)},\n" for spec in proposal.specs)
    names = {"ArchitectureSpec", *used, *({"Strip"} if "Strip(" in body else ())}
    names |= {word for word in ("never",) if f"={word}," in body}
    imports = ", ".join(sorted(names, key=lambda name: (name[0].islower(), name)))
    specs = f"SPECS = (\n{body})\n" if body else "SPECS = ()\n"
    head = f"from optimum_grail.core.spec import {imports}\n\n" if body else ""
    return f'"""{_docstring(proposal)}"""\n\n{head}{specs}'


def _docstring(proposal: Proposal) -> str:
    lines = [
        f"A map of {proposal.model_class}, proposed by optimum-grail from watching it run.",
        "",
        "Every group keeps the laws that optimum_grail.check_map tries. Read it before you rely on it.",
    ]
    for item in proposal.left_out:
        text = f"Left out: {item.where}: {item.why}".replace("\\", "/").replace('"', "'").rstrip(".")
        lines += ["", *textwrap.wrap(f"{text}.", WIDTH)]
    return "\n".join(lines) + ("\n" if len(lines) > 1 else "")


def _call(value: ArchitectureSpec | GroupSpec | Strip, depth: int) -> str:
    """A constructor with the fields that differ from their defaults, one a line but for strips."""
    shown = [
        (item.name, _text(getattr(value, item.name), depth + 1))
        for item in fields(value)
        if item.name not in UNWRITTEN and (item.name in REQUIRED or getattr(value, item.name) != item.default)
    ]
    if isinstance(value, Strip):
        return f"Strip({', '.join(f'{name}={text}' for name, text in shown)})"
    margin = "    " * (depth + 1)
    lines = "".join(f"{margin}{name}={text},\n" for name, text in shown)
    return f"{type(value).__name__}(\n{lines}{'    ' * depth})"


UNWRITTEN = ("example", "inputs", "impossible")
"""Functions, which a proposal does not have, and what only a person knows."""
REQUIRED = ("stream", "model_types", "blocks", "groups")
"""Fields without a default, which are written whatever they hold."""


def _text(value: object, depth: int) -> str:
    """A value of a field as Python source."""
    if value is always or value is never:
        return value.__name__
    if isinstance(value, tuple):
        items = [_text(item, depth + 1) for item in value]
        single = f"({', '.join(items)}{',' * (len(items) == 1)})"
        if "\n" not in single and len(single) + 4 * depth + 20 <= WIDTH:
            return single
        margin = "    " * (depth + 1)
        return "(\n" + "".join(f"{margin}{item},\n" for item in items) + "    " * depth + ")"
    if isinstance(value, str):
        quoted = repr(value)[1:-1].replace('"', '\\"')
        return f'"{quoted}"'
    if isinstance(value, (int, float, bool)) or value is None:
        return repr(value)
    return _call(value, depth)  # type: ignore[arg-type]
