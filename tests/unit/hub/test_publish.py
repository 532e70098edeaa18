"""What ends an upload, and what is said then; the Hub itself is played by a stub here."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
from optimum.commands.base import RootOptimumCLICommand

from optimum_grail.checkpoints.files import write_manifest
from optimum_grail.commands.grail import GrailCommand
from optimum_grail.errors import CheckpointError, HubError
from optimum_grail.hub import publish
from optimum_grail.hub.publish import Upload, files_of, push_folder, push_saved


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
def cli():
    def run(*words):
        root = RootOptimumCLICommand("optimum-cli")
        GrailCommand(root.subparsers)
        args = root.parser.parse_args(list(words))
        args.func(args).run()
        return 0

    return run


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


OURS = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "modeling_grail.py", "README.md")
STRANGERS = ("id_rsa", "optimizer.pt", "pytorch_model.bin", "notes/diary.txt", "small.gguf", ".env", ".git/config")


@pytest.fixture
def mixed(folder):
    """A checkpoint with other things in it, as the first version wrote it: without a manifest."""
    for name in (*OURS, *STRANGERS):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    return folder


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


def test_a_dry_run_lists_and_sends_nothing(mixed, cli, capsys, monkeypatch):
    monkeypatch.setattr(publish, "HfApi", None)
    assert cli("grail", "push", str(mixed), "me/small", "--dry-run", "--include", "*.gguf") == 0
    shown = capsys.readouterr().out
    assert "              1  model.safetensors\n" in shown and "small.gguf" in shown and "nothing was sent" in shown
    assert "id_rsa" in shown.partition("Not published")[2]
    assert cli("grail", "push", str(mixed), "me/small", "--dry-run", "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert set(files) == {*OURS, "grail_report.json"} and files["config.json"] == 1
