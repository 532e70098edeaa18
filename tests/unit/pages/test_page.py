"""What every page has."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import UndefinedError

from optimum_grail.pages.page import GENERATOR, Card, Page
from tests.unit.pages.conftest import Parsed

VALUES: dict[str, Any] = {"sizes": [("tokens", "2", "1", "-50.0 %")], "texts": [], "reasons": []}


def page(**changes: Any) -> Page:
    values = {
        "badges": (("good", "fine"), ("", "plain")),
        "cards": (Card("tokens", "1", "2 before"),),
        "values": VALUES,
    }
    return Page("vocabulary.html.jinja", "A title", "and more", **(values | changes))


def test_head_badges_and_cards() -> None:
    parsed = Parsed(page().html())
    assert [found["class"] for found in parsed.named("li")] == ["badge good", "badge "]
    assert "tokens 1 2 before" in parsed.text and "A title and more fine plain" in parsed.text
    (name,) = (found["content"] for found in parsed.named("meta") if found.get("name") == "generator")
    assert str(name).startswith(GENERATOR)


def test_it_says_how_wide_screens_and_dark_ones_are_met() -> None:
    html = page().html()
    assert 'name="viewport" content="width=device-width' in html
    assert "prefers-color-scheme: dark" in html and "color-scheme: light dark" in html


def test_quotes_in_attributes_end_nothing() -> None:
    parsed = Parsed(page(badges=(('" x="', "y"),)).html())
    (badge,) = parsed.named("li")
    assert set(badge) == {"class"} and badge["class"] == 'badge " x="'


def test_what_a_template_lacks_is_never_silent() -> None:
    with pytest.raises(UndefinedError, match="reasons"):
        page(values={"sizes": [], "texts": []}).html()


def test_the_same_page_twice_is_the_same_file() -> None:
    assert page().html() == page().html()
