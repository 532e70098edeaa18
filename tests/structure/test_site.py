"""The pages of the site: all are offered, every link leads to something. mkdocs is not needed for that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import optimum_grail


@pytest.fixture(scope="module")
def assemble(repository: Path) -> Iterator[Any]:
    """The script, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "tools" / "site"))
        import assemble

        yield assemble
    sys.modules.pop("assemble", None)


@pytest.fixture(scope="module")
def pages(assemble: Any) -> dict[str, str]:
    return dict(assemble.site()[0])


def test_every_page_is_offered_once(assemble: Any) -> None:
    pages, nav = assemble.site()
    offered = [page for section in nav for entries in section.values() for entry in entries for page in entry.values()]
    assert sorted(offered) == sorted(pages)
    assert [next(iter(section)) for section in nav] == [
        *("Start", "Guides", "Results", "Reference", "Inside", "Decisions"),
    ]


def test_every_page_of_the_documentation_is_there(pages: dict[str, str], repository: Path) -> None:
    found = {path.relative_to(repository).as_posix() for path in (repository / "docs").rglob("*.md")}
    assert found - set(pages) == set()


def test_pages_that_are_linked_are_offered(assemble: Any, pages: dict[str, str]) -> None:
    """What is put beside the pages without being one, mkdocs would find and nobody else."""
    assert [name for name in assemble.attachments(pages) if name.endswith(".md")] == []


def test_every_page_has_a_heading(assemble: Any, pages: dict[str, str]) -> None:
    assert [name for name, text in pages.items() if not assemble.title_of(text)] == []


def test_every_link_leads_to_something(assemble: Any, pages: dict[str, str], repository: Path) -> None:
    wrong = []
    for page, text in pages.items():
        for link in assemble.links_of(text):
            target, anchor = assemble.resolved(page, link)
            there = target in pages or (repository / target).is_file()
            if not there or (anchor and target in pages and anchor not in assemble.anchors_of(pages[target])):
                wrong.append(f"{page}: {link}")
    assert wrong == []


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("docs/guides/llm.md", "../adr/0016-producers.md", ("docs/adr/0016-producers.md", "")),
        ("docs/guides/llm.md", "#the-general-corpus", ("docs/guides/llm.md", "the-general-corpus")),
        ("README.md", "docs/guides/llm.md#x", ("docs/guides/llm.md", "x")),
    ],
)
def test_where_links_lead(assemble: Any, page: str, link: str, target: tuple[str, str]) -> None:
    assert assemble.resolved(page, link) == target


def test_links_in_code_are_none(assemble: Any) -> None:
    text = "[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n[web](https://x) ![picture](g.png)"
    assert assemble.links_of(text) == ["b.md", "g.png"]


def test_anchors_are_those_of_github(assemble: Any) -> None:
    text = "# One `--flag`, two\n\n```\n# no heading\n```\n## Größer als 1.5\n"
    assert assemble.anchors_of(text) == {"one---flag-two", "größer-als-15"}


def test_the_reference_has_every_public_name(pages: dict[str, str]) -> None:
    for name in set(optimum_grail.__all__) - {"__version__"}:
        assert f"| `{name}` |" in pages["reference/index.md"]
    assert "::: optimum_grail.selectors.wanda\n" in pages["reference/optimum_grail.selectors.md"]


def test_the_words_are_the_glossary(pages: dict[str, str], repository: Path) -> None:
    """One source: the page is made from ARCHITECTURE.md, and nothing is lost on the way."""
    glossary = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    entries = [" ".join(entry.split()) for entry in glossary.split("·")]
    assert len(entries) > 20 and all(entry[1:] in pages["words.md"] for entry in entries)


def test_what_is_linked_is_put_beside_the_pages(assemble: Any, tmp_path: Path) -> None:
    assemble.write(tmp_path / "site")
    assert (tmp_path / "site/pages/docs/images/methods.png").is_file()
    assert (tmp_path / "site/pages/LICENSE").is_file() == (
        "LICENSE)" in (tmp_path / "site/pages/README.md").read_text()
    )
    assert "nav: [" in (tmp_path / "site/mkdocs.yml").read_text()
