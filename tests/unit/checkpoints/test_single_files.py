"""One file that a user named."""

from __future__ import annotations

import os

import pytest

from optimum_grail.checkpoints.single_files import check_file, write_file
from optimum_grail.errors import OutputError

MARK = b"ours"


def test_a_new_file_may_be_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = check_file("~/new/folder/file.json", MARK)
    assert not path.parent.exists(), "checking leaves nothing behind"
    write_file(path, b"text ours")
    assert (tmp_path / "new" / "folder" / "file.json").read_bytes() == b"text ours"
    assert os.listdir(path.parent) == ["file.json"]


def test_only_what_we_wrote_is_replaced_and_only_on_request(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"this is ours")
    with pytest.raises(OutputError, match=r"exists\. Choose another name, or pass --overwrite"):
        check_file(path, MARK)
    assert check_file(path, MARK, overwrite=True) == path
    path.write_bytes(b"a stranger's")
    with pytest.raises(OutputError, match="nothing in it says that optimum-grail wrote it"):
        check_file(path, MARK, overwrite=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "is a folder"), ("x" * 300, "cannot be a file"), ("a\0b", "cannot be a file"), ("file/x", "cannot be")],
)
def test_what_cannot_be_a_file(tmp_path, name, message):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=message):
        check_file(tmp_path / name, MARK)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.json"]
