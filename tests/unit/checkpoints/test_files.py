"""Which files are a run's, and which of a model's folder come along."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimum_grail.checkpoints.files import MANY, WRITTEN, carry_over, matches, strangers, write_manifest, written_files


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_names_what_was_written_and_is_still_there(tmp_path: Path) -> None:
    write_manifest(fill(tmp_path, "config.json", "1_Pooling/config.json", "gone.txt"))
    (tmp_path / "gone.txt").unlink()
    fill(tmp_path, "notes.txt", "1_Pooling/mine.txt", "data/rows/1.txt", "data/rows/2.txt")
    (tmp_path / "empty").mkdir()
    known = written_files(tmp_path)
    assert known == {"config.json", "1_Pooling/config.json", "grail_files.json"}
    assert strangers(tmp_path, known) == ["1_Pooling/mine.txt", "data/", "empty/", "notes.txt"]


@pytest.mark.parametrize("content", ["[1", "[]", '{"files": 3}', '{"others": []}', "\udcff"])
def test_a_damaged_manifest_names_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "grail_files.json").write_bytes(content.encode(errors="surrogateescape"))
    assert written_files(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00003.safetensors", True),
        ("grail_plan.tensors", True),
        ("additional_chat_templates/tools.jinja", True),
        ("modeling_custom.py", True),
        ("sub/model.safetensors", False),
        ("sub/grail_plan.json", False),
        ("pytorch_model.bin", False),
        ("optimizer.pt", False),
        ("id_rsa", False),
        ("setup.py", False),
    ],
)
def test_names_of_what_a_run_writes(name: str, expected: bool) -> None:
    assert matches(name, WRITTEN) == expected


CARRIED = {
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "LICENSE",
    "handler.py",
    "modeling_custom.py",
    "eval/labels.txt",
}
WRITTEN_BY_US = {"config.json", "model.safetensors"}
LEFT = {
    *("README.md", "readme.txt", "grail_report.json", "grail_config.json", "modeling_grail.py", "params.json"),
    *("tokenizer.json", "vocab.txt", "special_tokens_map.json", "model.safetensors.index.json", "adapter_config.json"),
    *("pytorch_model.bin", "old.PT", "tf_model.h5", "flax_model.msgpack", "small.gguf", "events.out.tfevents.1"),
    *("optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin", "all_results.json"),
    *(".env", ".git/config", "eval/.hidden/x.txt", "onnx/model.onnx", "onnx/config.json"),
    *("checkpoint-5/config.json", "checkpoint-5/deep/optimizer.pt"),
}


def test_small_files_come_along(tmp_path: Path) -> None:
    source = fill(tmp_path / "dense", *CARRIED, *WRITTEN_BY_US, *LEFT)
    folder = tmp_path / "small"
    for name in WRITTEN_BY_US:
        fill(folder, name).joinpath(name).write_text("ours")
    (source / "scaler").write_bytes(b"\x80\x04pickle")
    (source / "archive").write_bytes(b"PK\x03\x04torch")
    (source / "id_rsa").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    (source / "big.txt").write_bytes(b"x" * (16 * 2**20 + 1))
    fill(source, *(f"rows/{number}.txt" for number in range(MANY + 1)))
    carry_over(source, folder)
    assert files(folder) == CARRIED | WRITTEN_BY_US
    assert (folder / "config.json").read_text() == "ours" and (folder / "LICENSE").read_text() == "LICENSE"


def test_links_out_of_the_folder_stay_behind(tmp_path: Path) -> None:
    source = fill(tmp_path / "dense", "a.json", "sub/b.json")
    secret = fill(tmp_path / "elsewhere", "secret.txt")
    (source / "link.txt").symlink_to(secret / "secret.txt")
    (source / "folder").symlink_to(secret)
    (source / "sub" / "up.txt").symlink_to(secret / "secret.txt")
    (source / "nowhere.txt").symlink_to("nothing")
    (source / "same.json").symlink_to("a.json")
    carry_over(source, tmp_path / "small")
    assert files(tmp_path / "small") == {"a.json", "same.json", "sub/b.json"}
    assert not (tmp_path / "small" / "same.json").is_symlink()


def test_a_snapshot_of_the_cache_links_to_its_blobs(tmp_path: Path) -> None:
    blobs = fill(tmp_path / "models--a--b" / "blobs", "0123", "4567")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    (snapshot / "1_Pooling").mkdir(parents=True)
    (snapshot / "modules.json").symlink_to("../../blobs/0123")
    (snapshot / "1_Pooling" / "config.json").symlink_to(blobs / "4567")
    (snapshot / "outside.txt").symlink_to(fill(tmp_path, "secret.txt") / "secret.txt")
    carry_over(snapshot, tmp_path / "small")
    assert files(tmp_path / "small") == {"modules.json", "1_Pooling/config.json"}
    assert (tmp_path / "small" / "modules.json").read_text() == "0123"
