"""The script that runs the pages on a real model: its steps, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = """# A page

```bash
echo one > one.txt   # a comment
cat one.txt missing.txt
```

```text
not run
```

```python
print("two")
```
"""


@pytest.fixture
def journeys(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script, on a page of its own and without a model."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import journeys

    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(journeys, "REPOSITORY", tmp_path)
    monkeypatch.setattr(journeys, "furnish", lambda folder: None)
    yield journeys
    for name in ("journeys", "_common"):
        sys.modules.pop(name, None)


def test_steps_are_lines_and_blocks(journeys: Any) -> None:
    found = [(step.language, step.code.strip()) for step in journeys.steps("page.md")]
    assert found == [
        ("bash", "echo one > one.txt   # a comment"),
        ("bash", "cat one.txt missing.txt"),
        ("python", 'print("two")'),
    ]


def test_it_stops_where_a_step_fails_and_goes_on_from_there(journeys: Any, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    rows = journeys.journey(["page.md"], folder, False)
    assert [row["outcome"] for row in rows] == ["done", "exit 1"] and "missing.txt" in rows[1]["said"][-1]
    (folder / "missing.txt").write_text("there")
    again = journeys.journey(["page.md"], folder, False)
    assert [row["outcome"] for row in again] == ["done"] * 3
    assert again[0] == rows[0], "what was done is not run again"
    assert journeys.journey(["page.md"], folder, False) == again
    assert len(json.loads((folder / "journeys.json").read_text())) == 3


def test_what_follows_a_changed_step_is_made_anew(journeys: Any, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "missing.txt").write_text("there")
    rows = journeys.journey(["page.md"], folder, False)
    (tmp_path / "page.md").write_text(PAGE.replace("cat one", "cat ./one"))
    again = journeys.journey(["page.md"], folder, False)
    assert again[0] == rows[0] and again[1]["code"].startswith("cat ./one")
    assert again[2]["seconds"] != rows[2]["seconds"]


def test_a_trial_is_quick(journeys: Any) -> None:
    step = journeys.Step("page.md", "bash", "optimum-cli grail compress -m x -o y  # why")
    assert step.command(True)[-1] == "optimum-cli grail compress -m x -o y  --num-samples 16 --seqlen 64 # why"
    assert step.command(False)[-1] == "optimum-cli grail compress -m x -o y  # why".replace("  #", "  #")
