"""What leaves a vocabulary by the text that it is trimmed to, and what other text then costs.

A row is one model trimmed to one text. It is written, loaded again, and its logits of the tokens that stay are compared
with the dense model's on a window of that text. Rows go to ``benchmarks/results/vocabulary.json`` as soon as they are
there and are not measured again; models that are absent are passed over. ``python benchmarks/vocabulary_tables.py``
writes the table of the guide.

    python benchmarks/vocabulary.py [--only MODEL]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from _common import EMBEDDED, data_folder, environment, models_folder, read_results, write_results
from transformers import AutoTokenizer
from vocabulary_tables import section

from optimum_grail import trim_vocabulary
from optimum_grail.checkpoints.loading import load_model
from optimum_grail.pages.vocabulary import VOCABULARY_FILE

MODELS = ("SmolLM2-135M-Instruct", "Qwen2.5-Coder-0.5B-Instruct", "gemma-3-270m", "llama-books-3m")
TEXTS: Mapping[str, tuple[str, ...]] = {
    "general and classic books": ("general", "classic-books/valid.parquet"),
    "classic books": ("classic-books/valid.parquet",),
}
"""What a vocabulary is trimmed to; files are those of the data folder."""
OTHERS: Mapping[str, str] = {"other books": "classic-books/test.parquet", "WikiText-2": "wikitext-2/test.parquet"}
"""What is read with both vocabularies."""
WINDOW = 512


def place(name: str) -> str:
    """A file of the data folder, or a name that the package knows."""
    return str(data_folder() / name) if "/" in name else name


def difference(dense: Path, trimmed: Path) -> float:
    """The largest difference of a logit of the tokens that stay, on the beginning of the books that both read."""
    kept = torch.tensor(json.loads((trimmed / VOCABULARY_FILE).read_text(encoding="utf-8"))["kept"])
    books = place("classic-books/valid.parquet")
    words = datasets.load_dataset("parquet", data_files=books, split="train")[0]["text"][:8000]
    new = AutoTokenizer.from_pretrained(trimmed)(words, return_tensors="pt").input_ids[:, :WINDOW]
    with torch.inference_mode():
        before = load_model(str(dense)).float()(input_ids=kept[new]).logits[..., kept]
        after = load_model(str(trimmed)).float()(input_ids=new).logits[..., : len(kept)]
    return float((before - after).abs().max())


def measured(name: str, folder: Path, text: str) -> dict[str, Any]:
    """Trim and compare."""
    data = {part.partition("/")[0]: place(part) for part in TEXTS[text]}
    others = {other: place(path) for other, path in OTHERS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "trimmed"
        result = trim_vocabulary(folder, output, data, eval_dataset=others)
        gap = difference(folder, output)
    found = {key: value for key, value in asdict(result).items() if key not in ("output", "data")}
    rows = [{**row, "dataset": other} for row, other in zip(found.pop("evaluation"), others, strict=True)]
    return {"model": name, "text": text, **found, "evaluation": rows, "difference": gap, **environment()}


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS, metavar="MODEL")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for name in (name for name in MODELS if options.only in (None, name)):
        folder = EMBEDDED if name == EMBEDDED.name else models_folder() / name
        if not folder.is_dir():
            print(f"{name} is absent, passed over", file=sys.stderr)
            continue
        for text in TEXTS:
            rows = read_results("vocabulary").get("rows", [])
            if all((row["model"], row["text"]) != (name, text) for row in rows):
                print(f"{name}: {text}", file=sys.stderr, flush=True)
                write_results("vocabulary", {"rows": [*rows, measured(name, folder, text)]})
    print(section())


if __name__ == "__main__":
    main()
