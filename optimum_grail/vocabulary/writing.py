"""The folder of a model with a smaller vocabulary; complete or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from optimum_grail.checkpoints.files import carry_over
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.checkpoints.output import staged_folder
from optimum_grail.checkpoints.plan_file import write_json
from optimum_grail.checkpoints.writing import write_weights
from optimum_grail.errors import CheckpointError
from optimum_grail.pages.vocabulary import VOCABULARY_FILE
from optimum_grail.vocabulary.plan import VocabularyPlan
from optimum_grail.vocabulary.renumbering import renumbered, settings_values
from optimum_grail.vocabulary.rows import TokenRows, gather_

CARD = "README.md"
TOKENIZER = "tokenizer.json"
STALE = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "*.model")
"""Other forms of the whole vocabulary, which tokenizer.json makes needless."""
HEAD = """\
---
library_name: transformers
tags:
- optimum-grail
---

# {name}
"""


@dataclass(frozen=True)
class Smaller:
    """A model with a smaller vocabulary, to be written.

    Args:
        source: the dense model's folder.
        companions: its tokenizer, first, and processor.
        tokenizer: what ``tokenizer.json`` is going to hold.
        plan: which tokens stay.
        rows: where the model has a row for every token.
    """

    source: Path
    companions: tuple[Any, ...]
    tokenizer: Mapping[str, Any]
    plan: VocabularyPlan
    rows: TokenRows

    def save(
        self,
        target: str | Path,
        note: Callable[[Any], tuple[dict[str, Any], str]],
        overwrite: bool = False,
    ) -> None:
        """Write weights, configs, tokenizer, note and card.

        Args:
            target: the folder to be.
            note: called with the tokenizer as a user loads it; returns what ``grail_vocabulary.json`` says beside the
                ids, and the paragraph of the card. What it raises, nothing is written.
            overwrite: whether what a run wrote there may be replaced.

        Raises:
            OutputError: as :func:`optimum_grail.checkpoints.output.staged_folder`.
            CheckpointError: the weights cannot be loaded, or the tokenizer cannot be loaded again.
        """
        with staged_folder(target, overwrite) as folder:
            model = load_model(self.source, device="cpu")
            gather_(model, self.rows.axes, self.plan)
            write_weights(model, folder, "5GB")
            for companion in self.companions:
                companion.save_pretrained(folder)
            for stale in (file for pattern in STALE for file in folder.glob(pattern)):
                stale.unlink()
            self._renumber_(folder)
            values, paragraph = note(_loaded(folder))
            write_json(folder / VOCABULARY_FILE, {**values, "kept": list(self.plan.kept)})
            carry_over(self.source, folder)
            self._write_card(folder, paragraph)

    def _renumber_(self, folder: Path) -> None:
        ids = self.plan.ids
        _write(folder / TOKENIZER, self.tokenizer)
        _change_(folder / "config.json", lambda values: renumbered(values, ids))
        _change_(folder / "tokenizer_config.json", lambda values: settings_values(values, ids))
        empty = list(range(len(self.plan.kept), self.plan.rows))

        def generation(values: dict[str, Any]) -> dict[str, Any]:
            """The new ids; rows without a token are not to be written."""
            values = renumbered(values, ids)
            return {**values, "suppress_tokens": [*(values.get("suppress_tokens") or ()), *empty]} if empty else values

        _change_(folder / "generation_config.json", generation)

    def _write_card(self, folder: Path, paragraph: str) -> None:
        card = self.source / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else HEAD.format(name=folder.name)
        (folder / CARD).write_text(f"{text.rstrip()}\n\n## Vocabulary\n\n{paragraph}\n", encoding="utf-8")


def _loaded(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # tokenizers fail with bare exceptions of many libraries
        raise CheckpointError(
            f"The tokenizer with fewer tokens does not load ({str(error)[:300]}). Leave its vocabulary whole."
        ) from error


def _change_(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite a JSON file, where it exists."""
    if file.is_file():
        write_json(file, change(json.loads(file.read_text(encoding="utf-8"))))


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
