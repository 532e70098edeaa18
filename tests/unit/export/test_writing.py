"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from optimum_grail.errors import CheckpointError, ConfigError, OutputError
from optimum_grail.export.gguf import writing
from optimum_grail.export.gguf.plan import Entry, Plan
from optimum_grail.export.gguf.sources import Stored
from optimum_grail.export.gguf.types import TYPES, bytes_of
from optimum_grail.export.gguf.writing import need_library, packed, write_file

gguf = pytest.importorskip("gguf")
MATRIX = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
KEYS = {
    "general.name": "it",
    "llama.block_count": 3,
    "a.flag": True,
    "a.share": 0.5,
    "a.list": [1, 2],
    "a.words": ["x"],
}


def entry(kind: str, name: str = "m") -> Entry:
    return Entry(name, tuple(MATRIX.shape), kind, Stored(name))


def plan(*entries: Entry) -> Plan:
    return Plan("llama", "f32", KEYS, entries)


@pytest.mark.parametrize("kind", TYPES)
def test_numbers_come_back_as_near_as_their_type_holds_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_file(plan(entry(kind), entry("f32", "n")), lambda name: MATRIX, path, lambda: None)
    reader = gguf.GGUFReader(path)
    first, second = reader.tensors
    assert (first.name, first.tensor_type.name, list(first.shape)) == ("m", kind.upper(), [64, 6])
    assert first.n_bytes == bytes_of((6, 64), kind)
    got = gguf.quants.dequantize(first.data, first.tensor_type).reshape(6, 64)
    error = np.abs(got - MATRIX.numpy()).max()
    assert error <= {"f32": 0, "f16": 2e-3, "bf16": 2e-2, "q8_0": 2e-2, "q4_0": 0.4}[kind]
    assert np.array_equal(second.data, MATRIX.numpy())


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_file(plan(entry("f32")), lambda name: MATRIX, path, lambda: None)
    fields = gguf.GGUFReader(path).fields
    assert {name: fields[name].contents() for name in KEYS} == KEYS
    assert fields["general.architecture"].contents() == "llama"


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_file(plan(entry("f32"), entry("f16", "n")), lambda name: MATRIX, tmp_path / "a.gguf", lambda: told.append(1))
    assert len(told) == 2


def test_what_fails_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"before")

    def broken(name: str) -> torch.Tensor:
        if name == "n":
            raise KeyboardInterrupt
        return MATRIX

    with pytest.raises(KeyboardInterrupt):
        write_file(plan(entry("f32"), entry("f32", "n")), broken, path, lambda: None)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_file(plan(entry("f32")), lambda name: MATRIX, tmp_path / "file" / "a.gguf", lambda: None)
    write_file(plan(entry("f32")), lambda name: MATRIX, tmp_path / "none" / "b" / "a.gguf", lambda: None)
    assert (tmp_path / "none" / "b" / "a.gguf").is_file()


@pytest.mark.parametrize(("kind", "number"), [("f32", float("nan")), ("bf16", float("inf")), ("f16", 70000.0)])
def test_numbers_that_a_type_does_not_hold_are_refused(kind: str, number: float) -> None:
    values = MATRIX.clone()
    values[3, 5] = number
    with pytest.raises(CheckpointError, match=f"'m' has a weight of {number:g}"):
        packed(entry(kind), values)


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need_library()
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"optimum-grail\[gguf\]"):
        need_library()
