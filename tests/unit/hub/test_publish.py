"""What ends an upload, and what is said then; the Hub itself is played by a stub here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from optimum_grail.errors import HubError
from optimum_grail.hub import publish
from optimum_grail.hub.publish import Upload, push_folder, push_saved


class Api:
    """Refuses the commit with whatever the class holds."""

    error: BaseException = RuntimeError("no")

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **kwargs):
        return type("Url", (), {"repo_id": repo_id})

    def list_repo_files(self, repo_id, **kwargs):
        return []

    def create_commit(self, *args, **kwargs):
        raise self.error


@pytest.fixture
def stub(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(publish, "HfApi", Api)
    return Api


@pytest.fixture
def folder(report, tmp_path):
    report.save(tmp_path)
    return tmp_path


def test_ctrl_c_says_what_to_do(stub, folder, monkeypatch):
    def wait(*args, **kwargs):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Event().wait(20)

    monkeypatch.setattr(Api, "create_commit", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the run with &
    try:
        with pytest.raises(KeyboardInterrupt, match="interrupted; nothing was committed to me/x") as stop:
            push_folder(folder, Upload("me/x", token="t"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"`optimum-cli grail push {folder} me/x`" in str(stop.value)


def test_an_unknown_failure_names_its_cause(stub, folder, monkeypatch):
    def fail(*args, **kwargs):
        try:
            raise OSError("cable pulled")
        except OSError as error:
            raise RuntimeError("Error while uploading 'x' to the Hub.") from error

    monkeypatch.setattr(Api, "create_commit", fail)
    with pytest.raises(HubError, match=r"broke off .OSError: cable pulled.*Nothing was committed"):
        push_folder(folder, Upload("me/x", token="t"))


def test_what_was_saved_stays_after_a_failure_only(stub, report, monkeypatch):
    folders = []

    def save(folder):
        folder.mkdir()
        report.save(folder)
        folders.append(folder)

    with pytest.raises(HubError, match="The complete checkpoint is still in"):
        push_saved(save, Upload("me/small", token="t"))
    assert folders[0].name == "small" and (folders[0] / "grail_report.json").is_file()
    monkeypatch.setattr(Api, "create_commit", lambda *args, **kwargs: "done")
    assert push_saved(save, Upload("me/small", token="t")) == "done"
    assert not folders[1].exists()


def test_a_failure_to_save_leaves_nothing(stub):
    folders = []

    def save(folder):
        folder.mkdir()
        folders.append(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        push_saved(save, Upload("me/small", token="t"))
    assert not folders[0].parent.exists()


def test_a_pull_request_to_another_branch_is_refused():
    with pytest.raises(HubError, match="goes to main, not to 'try'"):
        Upload("me/x", token="t", revision="try", create_pr=True).check()
    Upload("me/x", token="t", revision="main", create_pr=True).check()


def test_what_a_killed_push_saved_goes_and_what_a_failed_one_saved_stays(stub, report, monkeypatch, tmp_path):
    with pytest.raises(HubError):
        push_saved(lambda folder: (folder.mkdir(), report.save(folder)), Upload("me/small", token="t"))
    (kept,) = tmp_path.iterdir()
    code = """
import os, sys, tempfile
from optimum_grail.hub.publish import Upload, push_saved

tempfile.tempdir = sys.argv[1]
push_saved(lambda folder: (folder.mkdir(), os.kill(os.getpid(), 9)), Upload("me/small", token="t"))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len([*tmp_path.iterdir()]) == 2
    monkeypatch.setattr(Api, "create_commit", lambda *args, **kwargs: "done")
    push_saved(lambda folder: (folder.mkdir(), report.save(folder)), Upload("me/small", token="t"))
    assert [*tmp_path.iterdir()] == [kept] and (kept / "small" / "grail_report.json").is_file()
