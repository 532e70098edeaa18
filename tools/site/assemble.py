"""Puts the pages of the site together: the repository's Markdown as it lies there, the words, the API reference.

python tools/site/assemble.py FOLDER    writes FOLDER/pages and FOLDER/mkdocs.yml

The pages keep their places, so that a link that works in the repository works on the site. Guides come in the order in
which docs/guides/README.md names them: a new guide is one line there.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LINK = re.compile(r"(?<!\\)\]\(([^()\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
METHODS = ("selectors", "compensators", "refits", "allocations", "signals", "architectures", "export/targets")
"""Folders with a file per entry, each a page of the reference."""
Nav = list[dict[str, Any]]


def title_of(text: str) -> str:
    """The heading of a page of Markdown."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def links_of(text: str) -> list[str]:
    """Where the links and pictures of a page lead, outside code; addresses of the web are left out."""
    found = LINK.findall(CODE.sub("", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors_of(text: str) -> set[str]:
    """The names that headings of a page have, as GitHub and the site make them."""
    headings = re.findall(
        r"^#+ (.+)$", CODE.sub(lambda code: code[0].strip("`") if "\n" not in code[0] else "", text), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def guides() -> list[str]:
    """The guides, as their index names them."""
    index = (REPOSITORY / "docs/guides/README.md").read_text(encoding="utf-8")
    return [f"docs/guides/{name}" for name in dict.fromkeys(re.findall(r"\(([\w-]+\.md)\)", index))]


def sections() -> dict[str, list[str]]:
    """The pages that lie in the repository, by section, in the order of a user's journey."""
    results = ("real", "shapes", "benchmarks", "methods", "corpora", "recovery", "engines", "speed", "cost", "families")
    cards = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("model_cards/*/README.md"))
    models = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("examples/*/README.md"))
    decisions = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/adr/[0-9]*.md"))
    chosen = [page for page in ("docs/choose.md",) if (REPOSITORY / page).is_file()]
    return {
        "Start": ["README.md", *chosen],
        "Guides": ["docs/guides/README.md", *guides()],
        "Results": [*(f"docs/{name}.md" for name in results), "model_cards/README.md", *cards],
        "Inside": [
            "ARCHITECTURE.md",
            *("CONTRIBUTING.md", "CHANGELOG.md"),
            *("examples/README.md", *models, "optimum_grail/data/corpora/README.md"),
        ],
        "Decisions": ["docs/adr/README.md", *decisions],
    }


def attachments(pages: Mapping[str, str]) -> Iterator[str]:
    """Files of the repository that the pages link to and that are no pages themselves."""
    for page, text in pages.items():
        for link in links_of(text):
            target = resolved(page, link)[0]
            if target not in pages and (REPOSITORY / target).is_file():
                yield target


def resolved(page: str, link: str) -> tuple[str, str]:
    """The file, from the root of the repository, and the anchor that a link on ``page`` leads to."""
    path, _, anchor = link.partition("#")
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / path).parts if path else PurePosixPath(page).parts:
        if part == "..":
            if parts:
                parts.pop()
        else:
            parts.append(part)
    return "/".join(parts), anchor


def words() -> str:
    """The glossary of ARCHITECTURE.md as a page, a term each line, in the order of the alphabet."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    glossary = text.partition("\n## Glossary\n")[2].partition("\n## ")[0]
    entries = [" ".join(entry.split()) for entry in glossary.split("·")]
    rows = sorted((entry for entry in entries if entry), key=lambda entry: entry.lstrip("*").lower())
    lines = "\n\n".join(f"{entry[0].upper() if entry[0] != '*' else '*'}{entry[1:]}" for entry in rows)
    return f"# Words\n\nOne word per concept, in the code and on these pages.\n\n{lines}\n"


def homes() -> dict[str, str]:
    """Every public name of the package and the module that defines it; nothing is imported."""
    tree = ast.parse((REPOSITORY / "optimum_grail/__init__.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME"
    )
    return dict(ast.literal_eval(value))


def reference() -> dict[str, str]:
    """The pages of the API reference: a table of the public names, a page per module, and one per folder of methods."""
    found = {name: f"optimum_grail.{module}" for name, module in homes().items()}
    folders = {f"optimum_grail.{folder.replace('/', '.')}": folder for folder in METHODS}
    pages = {
        f"reference/{module}.md": f"# {module}\n\n::: {module}\n"
        for module in dict.fromkeys(found.values())
        if module not in folders
    }
    for module, folder in folders.items():
        files = sorted(file.stem for file in (REPOSITORY / "optimum_grail" / folder).glob("[a-z]*.py"))
        parts = "\n".join(f"::: {module}.{stem}\n" for stem in files)
        pages[f"reference/{module}.md"] = f"# {module}\n\n{parts}"
    rows = "\n".join(f"| `{name}` | [{module}]({module}.md) |" for name, module in found.items())
    index = "# Reference\n\nWhat `import optimum_grail` gives.\n\n| name | described in |\n|---|---|\n"
    return {"reference/index.md": f"{index}{rows}\n", **pages}


def site() -> tuple[dict[str, str], Nav]:
    """All pages by their places, and the order in which they are offered."""
    pages, nav = {}, []
    for section, names in sections().items():
        texts = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in names}
        pages |= {name: without_front_matter(text) for name, text in texts.items()}
        entries = [{title_of(pages[name]) or name: name} for name in names]
        if section == "Start":
            pages["words.md"] = words()
            entries.append({"Words": "words.md"})
        nav.append({section: entries})
    api = reference()
    pages |= api
    nav.insert(3, {"Reference": [{title_of(text): name} for name, text in api.items()]})
    return pages, nav


def without_front_matter(text: str) -> str:
    """A model card without the head that the Hub reads."""
    return re.sub(r"\A---\n.*?\n---\n+", "", text, count=1, flags=re.DOTALL)


def write(folder: Path) -> None:
    """Write pages, what they link to, and the settings of mkdocs."""
    pages, nav = site()
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in pages.items():
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for name in sorted(set(attachments(pages))):
        target = folder / "pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, target)
    settings = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    paths = settings.replace(
        "      handlers:\n        python:\n",
        f"      handlers:\n        python:\n          paths: [{json.dumps(str(REPOSITORY))}]\n",
    )
    more = {"nav": nav, "hooks": [str(HERE / "hooks.py")]}  # JSON is YAML
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in more.items())
    (folder / "mkdocs.yml").write_text(paths + lines, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]))
