"""Output folders are complete or absent."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from optimum_grail.checkpoints.output import check_output, staged_folder
from optimum_grail.errors import OutputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def checkpoint(folder, content="old"):
    with staged_folder(folder) as new:
        (new / "config.json").write_text(content)
    return folder


def test_new_folder_appears_at_the_end_only(tmp_path):
    target = tmp_path / "a" / "b"
    with staged_folder(target) as folder:
        (folder / "x").write_text("1")
        (folder / "sub").mkdir()
        assert not target.exists()
        assert folder.name == "b" and folder.is_relative_to(target.parent)
    assert names(target) == ["grail_files.json", "sub", "x"]
    assert names(target.parent) == ["b"]


def test_modes_follow_the_umask(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "x").touch()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "x").touch(mode=0o600)
    for path in (".", "x"):
        assert (tmp_path / "out" / path).stat().st_mode == (tmp_path / "plain" / path).stat().st_mode


def test_empty_folder_needs_no_permission(tmp_path):
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
    assert names(tmp_path / "out") == ["grail_files.json", "x"]
    assert names(tmp_path) == ["out"]


def test_existing_checkpoint_is_refused_or_replaced(tmp_path):
    with staged_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("old")
        (folder / "stale").write_text("old")
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="--overwrite"), staged_folder(target):
        pass
    with staged_folder(target, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        assert (target / "config.json").read_text() == "old"
    assert names(target) == ["config.json", "grail_files.json"]
    assert (target / "config.json").read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["letters.txt", "config.json", "adapter_config.json"])
def test_what_no_run_wrote_is_never_replaced(tmp_path, name):
    """A home folder, a dense model, an adapter that somebody trained."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("dear")
    with pytest.raises(OutputError, match="nothing in it says that optimum-grail wrote it"):
        check_output(tmp_path / "home", overwrite=True)
    assert names(tmp_path / "home") == [name]


def test_strangers_in_a_checkpoint_are_listed_and_survive(tmp_path):
    target = checkpoint(tmp_path / "out")
    (target / ".git" / "objects").mkdir(parents=True)
    for name in ("notes.txt", "small.gguf", "thesis.tex"):
        (target / name).write_text("years of work")
    with pytest.raises(OutputError, match=r"delete: \.git/, notes\.txt, small\.gguf and 1 more\."):
        check_output(target, overwrite=True)
    assert (target / "thesis.tex").read_text() == "years of work" and (target / ".git" / "objects").is_dir()


EARLIER = ("README.md", "config.json", "grail_config.json", "grail_plan.json", "grail_plan.safetensors")
MORE = ("grail_report.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json")


def test_folders_of_the_first_version_have_no_manifest(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    for name in (*EARLIER, *MORE):
        (target / name).write_text("{}")
    check_output(target, overwrite=True)
    (target / "optimizer.pt").write_text("")
    with pytest.raises(OutputError, match=r"delete: optimizer\.pt\."):
        check_output(target, overwrite=True)
    (target / "optimizer.pt").unlink()
    (target / "grail_files.json").write_text("[damaged")
    check_output(target, overwrite=True)
    (target / "grail_files.json").unlink()
    (target / "grail_report.json").unlink()
    with pytest.raises(OutputError, match="nothing in it says"):
        check_output(target, overwrite=True)


def test_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("inside", [".", "sub"])
def test_source_survives(tmp_path, inside):
    target = checkpoint(tmp_path / "model")
    (target / "sub").mkdir()
    with pytest.raises(OutputError, match="holds the model itself"):
        check_output(target, overwrite=True, source=target / inside)
    check_output(tmp_path / "model-small", source=target)


def test_hub_ids_are_no_source_folder(tmp_path):
    check_output(tmp_path / "out", source="someone/model")


def test_check_leaves_nothing_behind(tmp_path):
    assert check_output(tmp_path / "a" / "b" / "c") == (tmp_path / "a" / "b" / "c").resolve()
    assert names(tmp_path) == []


def test_unwritable_parent_is_told_before_the_work(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "out")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_parent(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(tmp_path / "locked" / "out")


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_leaves_the_old_folder_intact(tmp_path, error):
    target = checkpoint(tmp_path / "out")
    with pytest.raises(type(error)), staged_folder(target, overwrite=True) as folder:
        (folder / "half").write_text("x")
        raise error
    assert names(tmp_path) == ["out"]
    assert (target / "config.json").read_text() == "old"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_names_path_and_free_bytes(tmp_path, error, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=12345))
    words = r"out' is full: 100 bytes were written.*12,345 bytes"
    with pytest.raises(OutputError, match=words) as caught, staged_folder(tmp_path / "out") as folder:
        (folder / "half").write_bytes(b"x" * 100)
        raise error
    assert caught.value.__cause__ is error
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_really_full_device(tmp_path):
    with pytest.raises(OutputError, match="is full"), staged_folder(tmp_path / "out"):
        Path("/dev/full").write_text("x")
    assert names(tmp_path) == []


@pytest.mark.filterwarnings("ignore:.*is put back")
def test_failed_exchange_restores_the_old_folder_and_keeps_the_new(tmp_path, monkeypatch):
    target = checkpoint(tmp_path / "out")
    rename = Path.rename
    calls = []

    def second_fails(self, other):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OutputError, match=r"Input/output.*kept in '.*out-2'"), staged_folder(target, overwrite=True):
        pass
    assert names(tmp_path) == ["out", "out-2"]
    assert (target / "config.json").read_text() == "old"


def test_links_are_followed(tmp_path):
    real = checkpoint(tmp_path / "disk" / "real")
    (tmp_path / "link").symlink_to(real)
    with staged_folder(tmp_path / "link", overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (real / "config.json").read_text() == "new"


@pytest.mark.parametrize("name", ["x" * 300, "loop", "a\0b"])
def test_names_that_no_folder_can_have(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match=r"cannot be a folder|cannot be written"):
        check_output(tmp_path / name)


def test_longest_name(tmp_path):
    with staged_folder(tmp_path / ("x" * 255)) as folder:
        (folder / "config.json").touch()
    assert names(tmp_path) == ["x" * 255]
