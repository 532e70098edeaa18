"""Blocks in files: complete or absent, of one owner, and read only as far as they are what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_grail.checkpoints import atomic, block_store
from optimum_grail.checkpoints.atomic import write_atomically
from optimum_grail.checkpoints.block_store import BlockStore
from optimum_grail.errors import CheckpointError, OutputError

PATH = "model.layers.0"
FOUND = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.float64), "c": torch.zeros(0)}


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    found = BlockStore(tmp_path / "blocks", "me", "Delete it.")
    found.put(PATH, FOUND, {"plans": [1, 2.5, None]})
    return found


def test_what_was_put_is_read(store: BlockStore) -> None:
    assert PATH in store and "model.layers.1" not in store and len(store) == 1 and 7 not in store
    assert store.notes(PATH) == {"plans": [1, 2.5, None]}
    assert store.shapes(PATH) == {"a": (3, 2), "b": (2,), "c": (0,)}
    read = store.read(PATH, ["a", "b"])
    assert torch.equal(read["a"], FOUND["a"]) and read["b"].dtype == torch.float64 and "c" not in read


def test_parts_of_one_tensor_are_written_once_each(store: BlockStore) -> None:
    whole = torch.arange(1000.0)
    store.put("x/y", {"first": whole[:2], "second": whole[2:4]}, {})
    assert (store.folder / "x%2Fy.safetensors").stat().st_size < 1000
    assert torch.equal(store.read("x/y", ["second"])["second"], torch.tensor([2.0, 3.0]))


def spoil(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[:-5])
    elif how == "no safetensors":
        file.write_bytes(b"\x80\x04" + data)
    elif how == "gone":
        file.unlink()
    elif how == "another block":
        save_file(load_file(file), file, {"block": "other", "owner": "me", "notes": "{}"})
    elif how == "no notes":
        save_file(load_file(file), file, {"block": PATH, "owner": "me"})
    else:
        save_file(load_file(file), file, {"block": PATH, "owner": "me", "notes": how})


@pytest.mark.parametrize(
    "how",
    [
        *("truncated", "no safetensors", "gone", "another block", "no notes"),
        *("[1]", "{", "[" * 100_000, "1" * 10_000, "\ud83d".encode("utf-8", "replace").decode()),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_block_is_refused(store: BlockStore, how: str) -> None:
    spoil(store.folder / f"{PATH}.safetensors", how)
    with pytest.raises(CheckpointError, match=r"cannot be read as block 'model\.layers\.0': .*Delete it\."):
        store.notes(PATH)


def test_blocks_of_others_and_missing_tensors_are_refused(store: BlockStore) -> None:
    with pytest.raises(CheckpointError, match="belongs to another block or run"):
        BlockStore(store.folder, "somebody").shapes(PATH)
    with pytest.raises(CheckpointError, match="cannot be read"):
        store.read(PATH, ["z"])


def test_a_full_disk_leaves_the_older_file(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, head: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_store, "save_file", full)
    with pytest.raises(OutputError, match=r"is full \([\d,]+ bytes are free\)\. Free some space\."):
        store.put(PATH, FOUND, {})
    assert store.notes(PATH) == {"plans": [1, 2.5, None]} and len(list(store.folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Block 'b' cannot be written"):
        BlockStore(tmp_path / "file", "me").put("b", {}, {})


def test_the_disk_has_the_file_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(atomic, "to_disk", lambda path: seen.append((path.name, (tmp_path / "x.json").exists())))
    write_atomically(tmp_path / "x.json", lambda draft: draft.write_text(json.dumps(1)))
    assert seen == [("x.json.part", False), (tmp_path.name, True)]


def test_an_interrupt_leaves_no_draft(tmp_path: Path) -> None:
    def stop(draft: Path) -> None:
        draft.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", stop)
    assert not list(tmp_path.iterdir())
