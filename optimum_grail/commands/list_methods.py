"""``optimum-cli grail list``: what there is to choose from."""

from __future__ import annotations

import inspect
import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_output_flags, describe, session
from optimum_grail.config.presets import presets
from optimum_grail.core.preset import Preset

if TYPE_CHECKING:
    from optimum_grail.core.contracts import Allocation, Compensator, Refit, Selector
    from optimum_grail.core.spec import ArchitectureSpec
    from optimum_grail.export.contract import Target

TOPICS = (
    "presets",
    "selectors",
    "compensators",
    "refits",
    "allocations",
    "pattern_selectors",
    "architectures",
    "targets",
)
EXAMPLES = """\
  optimum-cli grail list                      everything
  optimum-cli grail list selectors            with their options, as in --selector magnitude:p=2
  optimum-cli grail list presets --json"""


class ListCommand(BaseOptimumCLICommand):
    """Names, what the documentation opens with, options with defaults."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """One optional topic."""
        describe(
            parser,
            "List presets, methods, architectures and export targets, with what they do and their options.",
            EXAMPLES,
        )
        parser.add_argument("topic", nargs="?", choices=TOPICS, help="What to list; everything when not given.")
        add_output_flags(parser)

    def run(self) -> None:
        """Print one table per topic."""
        with session(self.args) as out:
            from rich import box
            from rich.table import Table
            from rich.text import Text

            out.result = {topic: rows_of(topic) for topic in ([self.args.topic] if self.args.topic else TOPICS)}
            for topic, rows in out.result.items():
                table = Table(title=topic, title_justify="left", box=box.SIMPLE, show_header=False)
                table.add_column(no_wrap=True, style="bold")
                table.add_column(overflow="fold")
                for row in rows:
                    rest = [f"{key}: {_words(value)}" for key, value in row.items() if key not in ("name", "summary")]
                    table.add_row(row["name"], Text("\n").join([Text(row["summary"]), *(Text(s, "dim") for s in rest)]))
                out.console.print(table)


def rows_of(topic: str) -> list[dict[str, Any]]:
    """One row of JSON values per entry of ``topic``."""
    if topic == "presets":
        return [_preset(preset) for preset in presets().values()]
    if topic == "architectures":
        from optimum_grail.architectures import ARCHITECTURES

        return [_architecture(name, spec) for name, spec in ARCHITECTURES]
    from optimum_grail.config.building import REGISTRIES, method_options

    if topic == "targets":
        from optimum_grail.export.targets import TARGETS

        return [_target(name, entry, method_options(entry)) for name, entry in TARGETS]
    return [_method(name, entry, method_options(entry)) for name, entry in REGISTRIES[topic.removesuffix("s")]]


def _preset(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "summary": preset.summary,
        "paper": preset.paper,
        "needs": preset.needs,
        "cost": preset.cost,
        "works": preset.works,
        "methods": " + ".join(preset.values.values()),
    }


def _method(
    name: str, entry: type[Selector | Compensator | Refit | Allocation], options: dict[str, tuple[Any, Any]]
) -> dict[str, Any]:
    needs = sorted(entry().needs)
    return {
        "name": name,
        "summary": summary_of(entry),
        "needs": ", ".join(needs).replace("-", " ") or "no data",
        "options": {key: default for key, (_, default) in options.items()},
    }


def _target(name: str, entry: type[Target], options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    found = {key: default for key, (_, default) in options.items()}
    return {"name": name, "summary": summary_of(entry), "options": found}


def _architecture(name: str, spec: ArchitectureSpec) -> dict[str, Any]:
    module = sys.modules.get(getattr(spec.example, "__module__", ""))
    return {
        "name": name,
        "summary": summary_of(module),
        "groups": ", ".join(type(group).__name__.lower() for group in spec.groups),
    }


def summary_of(item: object) -> str:
    """First paragraph of the documentation of a class or module, on one line; empty if it has none."""
    text = (inspect.getdoc(item) or "") if item is not None else ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "")


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "-"
    return str(value)
