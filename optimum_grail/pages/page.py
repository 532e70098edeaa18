"""A page: what every page has, and rendering it. All text is escaped by the templates; none is put into markup here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

GENERATOR = "optimum-grail report"
"""How the page names its maker in its head; what says that a file may be replaced by another page."""


@dataclass(frozen=True)
class Card:
    """One headline number: what it is, the number, and what it was."""

    what: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Page:
    """What a browser is to show.

    Args:
        template: file of ``templates/`` that lays it out.
        title: heading.
        subtitle: the line below it.
        badges: pairs of a class of the style sheet (``"good"``, ``"warn"`` or empty) and a few words.
        cards: headline numbers.
        values: what else the template asks for.
    """

    template: str
    title: str
    subtitle: str
    badges: tuple[tuple[str, str], ...]
    cards: tuple[Card, ...]
    values: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """One self-contained file: no script, no request to anywhere, every text of the folder escaped."""
        environment = Environment(
            loader=PackageLoader("optimum_grail.pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        head = {"title": self.title, "subtitle": self.subtitle, "badges": self.badges, "cards": self.cards}
        return environment.get_template(self.template).render(**self.values, **head, generator=_generator())


def _generator() -> str:
    try:
        return f"{GENERATOR} {version('optimum-grail')}"
    except PackageNotFoundError:
        return GENERATOR
