"""Make the corpus of general text that the package carries, from public packages and the data folder's classic-books.

The same archives give the same bytes. With --check nothing is written; the run fails where the committed files differ.
It stands apart from the benchmarks, since those measure and are all run by `make bench`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from card import card
from clean import LEAST, Seen, join_short, pieces, translated
from fetch import Package, check_sha256, members, wanted
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
        self.sources: dict[str, dict[str, Any]] = tomllib.loads((HERE / "sources.toml").read_text("utf-8"))["source"]
        table = tomllib.loads((HERE / "packages.toml").read_text("utf-8"))["package"]
        self.packages = {key: Package(**fields) for key, fields in table.items()}
        self._downloads, self._books = downloads, books
        self._seen = Seen()
        self._texts = self._read()

    def documents(self) -> list[Document]:
        """All rows: by genre, then by source, then in their order inside the source."""
        order = sorted(self.sources, key=lambda key: GENRES.index(self.sources[key]["genre"]))
        return [document for key in order for document in self._draw(key)]

    def _draw(self, key: str) -> list[Document]:
        source = self.sources[key]
        candidates = list(self._candidates(key))
        taken: dict[int, str] = {}
        per_file: Counter[str] = Counter()
        left = int(source["budget"])
        for index in sorted(range(len(candidates)), key=lambda index: _lot(candidates[index][0])):
            place, text = candidates[index]
            file = place.rpartition("#")[0]
            if per_file[file] >= source.get("most", sys.maxsize) or left < LEAST:
                continue
            fresh = self._seen.fresh(text, code=source["reader"] == "code")
            if fresh is not None and len(fresh) <= left:
                self._seen.add(fresh)
                taken[index] = fresh
                left -= len(fresh)
                per_file[file] += 1
        return [Document(taken[index], source["genre"], key) for index in sorted(taken)]

    def _candidates(self, key: str) -> Iterator[tuple[str, str]]:
        """Place and text of everything that the source could give."""
        source, texts = self.sources[key], self._texts.pop(key)
        if source.get("join"):
            texts = [("", text) for text in join_short((text for _, text in texts), source["size"])]
        for number, (name, text) in enumerate(texts):
            for part, piece in enumerate(pieces(text, source["size"])):
                if len(piece) >= LEAST:
                    yield f"{name or number}#{part}", piece

    def _read(self) -> dict[str, list[tuple[str, str]]]:
        """File and text of everything that the readers find, by source; every archive is opened once."""
        found: dict[str, list[tuple[str, str]]] = {key: [] for key in self.sources}
        for package in dict.fromkeys(source["package"] for source in self.sources.values()):
            asking = {key: source for key, source in self.sources.items() if source["package"] == package}
            for name, data in self._files(package, [source["files"] for source in asking.values()]):
                for key, source in asking.items():
                    if wanted(name, source["files"]):
                        found[key] += [(name, text) for text in READERS[source["reader"]](name, data)]
        for key, source in self.sources.items():
            if "beside" in source:
                known = frozenset(part for _, text in found[source["beside"]] for part in text.split("\n\n"))
                found[key] = [(name, translated(text, known)) for name, text in found[key]]
        return found

    def _files(self, package: str, patterns: list[list[str]]) -> Iterator[tuple[str, bytes]]:
        if package != "classic-books":
            yield from members(self.packages[package].fetch(self._downloads), patterns)
            return
        for file, sha256 in BOOKS.items():
            check_sha256(self._books / file, sha256)
            for row in pq.read_table(self._books / file, columns=["title", "text"]).to_pylist():
                yield row["title"], row["text"].encode()


def _lot(place: str) -> bytes:
    return hashlib.sha256(place.encode()).digest()


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


def compare(files: dict[str, bytes]) -> str | None:
    """What differs from the committed files, if anything does; the version of the Parquet writer decides bytes, too."""
    different = [name for name, content in files.items() if (TARGET / name).read_bytes() != content]
    if not different:
        return None
    ours, theirs = (
        pq.ParquetFile(source) for source in (pa.BufferReader(files["general.parquet"]), TARGET / "general.parquet")
    )
    rows = "the same" if ours.read().equals(theirs.read()) else "other"
    writers = f"written here by {ours.metadata.created_by}, there by {theirs.metadata.created_by}"
    return f"The committed files differ: {', '.join(different)}; {rows} rows, {writers}."


def main() -> None:
    """Make the corpus and its card, or compare them with what is committed."""
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
        sys.exit(compare(files))
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (TARGET / name).write_bytes(content)
    print(f"{len(documents)} documents, {len(parquet):,} bytes")


if __name__ == "__main__":
    main()
