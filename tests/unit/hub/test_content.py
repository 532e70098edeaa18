"""Which files of a checkpoint are published."""

from __future__ import annotations

import pytest

from optimum_grail.checkpoints.files import write_manifest
from optimum_grail.errors import CheckpointError
from optimum_grail.hub.content import files_of

OURS = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "modeling_grail.py", "README.md")
STRANGERS = ("id_rsa", "optimizer.pt", "pytorch_model.bin", "notes/diary.txt", "small.gguf", ".env", ".git/config")


@pytest.fixture
def mixed(report, tmp_path):
    """A checkpoint with other things in it, as the first version wrote it: without a manifest."""
    report.save(tmp_path)
    for name in (*OURS, *STRANGERS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_only_what_a_run_wrote_is_published(mixed):
    assert set(files_of(mixed)) == {*OURS, "grail_report.json"}


def test_what_the_manifest_names_is_published(report, tmp_path):
    report.save(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    for name in ("modules.json", "1_Pooling/config.json"):
        (tmp_path / name).write_text("{}")
    write_manifest(tmp_path)
    for name in ("1_Pooling/mine.txt", "vocab.txt"):
        (tmp_path / name).write_text("later")
    expected = {"modules.json", "1_Pooling/config.json", "grail_report.json", "grail_files.json", "vocab.txt"}
    assert set(files_of(tmp_path)) == expected


def test_more_is_published_where_it_is_named(mixed):
    found = files_of(mixed, ("*.gguf", "notes/*"))
    assert set(found) == {*OURS, "grail_report.json", "small.gguf", "notes/diary.txt"}
    for pattern in ("*.onnx", ".env", "*/config"):
        with pytest.raises(CheckpointError, match="fits no file"):
            files_of(mixed, (pattern,))


def test_links_out_of_the_folder_are_refused(mixed, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("x")
    (mixed / "same.json").symlink_to("config.json")
    assert "same.json" in files_of(mixed, ("same.json",))
    (mixed / "link.txt").symlink_to(secret)
    assert "link.txt" not in files_of(mixed)
    with pytest.raises(CheckpointError, match=r"'link\.txt'.*link out of the folder"):
        files_of(mixed, ("*.txt",))
    (mixed / "merges.txt").symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"'merges\.txt'.*link out of the folder"):
        files_of(mixed)


def test_a_plan_is_published_under_its_present_name(mixed):
    (mixed / "grail_plan.safetensors").write_text("x")
    found = files_of(mixed)
    assert found["grail_plan.tensors"] == mixed / "grail_plan.safetensors" and "grail_plan.safetensors" not in found
