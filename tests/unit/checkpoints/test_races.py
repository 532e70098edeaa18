"""Several runs in one place, and runs that were killed: no result is lost, no leftover stays."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
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


def test_a_place_that_was_filled_meanwhile_is_left_alone(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(OutputError, match=r"not empty.*kept in '.*out-3'") as caught, staged_folder(target) as folder:
        (folder / "config.json").write_text("second")
        checkpoint(target, "first")
        checkpoint(tmp_path / "out-2", "of another day")
    assert "--overwrite" in str(caught.value)
    assert names(tmp_path) == ["out", "out-2", "out-3"]
    read = {name: (tmp_path / name / "config.json").read_text() for name in names(tmp_path)}
    assert read == {"out": "first", "out-2": "of another day", "out-3": "second"}


def test_strangers_that_come_meanwhile_survive_overwriting(tmp_path):
    target = checkpoint(tmp_path / "out")
    with pytest.raises(OutputError, match=r"notes\.txt.*kept in '.*out-2'"), staged_folder(target, True) as folder:
        (folder / "config.json").write_text("new")
        (target / "notes.txt").write_text("mine")
    assert (target / "notes.txt").read_text() == "mine" and (target / "config.json").read_text() == "old"
    assert (tmp_path / "out-2" / "config.json").read_text() == "new"


def test_what_can_be_put_nowhere_stays_where_it_was_written(tmp_path, monkeypatch):
    rename = Path.rename

    def refuse(self, other):
        if self.parent.name == "new":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="kept in") as caught, staged_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("new")
    kept = Path(str(caught.value).split("'")[-2])
    assert (kept / "config.json").read_text() == "new"
    check_output(tmp_path / "out")
    assert (kept / "config.json").is_file(), "nobody takes it for abandoned"


RACER = """
import sys
from optimum_grail.checkpoints.output import staged_folder
from optimum_grail.errors import OutputError

try:
    with staged_folder(sys.argv[1]) as folder:
        (folder / "config.json").write_text(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
except OutputError as error:
    sys.exit(f"{error}")
"""


def start(code, *words):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_one_place(tmp_path):
    racers = [start(RACER, tmp_path / "out", word) for word in ("one", "two")]
    told = [process.communicate("go\n")[1] for process in racers]
    assert [process.returncode for process in racers] == [0, 1]
    assert told[0] == "" and f"kept in '{tmp_path / 'out-2'}'" in told[1]
    assert names(tmp_path) == ["out", "out-2"]
    assert [(tmp_path / name / "config.json").read_text() for name in names(tmp_path)] == ["one", "two"]


def test_the_next_run_clears_up_after_a_killed_one_and_not_after_a_living_one(tmp_path):
    dead, alive = (start(RACER, tmp_path / name, name) for name in ("dead", "alive"))
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert len(names(tmp_path)) == 2
    check_output(tmp_path / "another")
    (left,) = names(tmp_path)
    assert (tmp_path / left / "new" / "alive" / "config.json").is_file()
    assert alive.communicate("go\n")[1] == "" and names(tmp_path) == ["alive"]


HALFWAY = """
import os, sys
from pathlib import Path
from optimum_grail.checkpoints.output import staged_folder

rename = Path.rename
def die(self, other):
    rename(self, other)
    if self.name == "out" and self.parent.name == sys.argv[2]:
        print("ready", flush=True)
        sys.stdin.readline()
Path.rename = die
with staged_folder(sys.argv[1], overwrite=True) as folder:
    (folder / "config.json").write_text("new")
"""


@pytest.mark.parametrize(("moment", "content"), [("old away", "old"), ("new there", "new")])
def test_killed_while_it_replaces(tmp_path, moment, content):
    target = checkpoint(tmp_path / "out")
    process = start(HALFWAY, target, tmp_path.name if moment == "old away" else "new")
    assert target.exists() == (moment == "new there")
    process.send_signal(signal.SIGKILL)
    process.wait()
    if moment == "old away":
        with pytest.warns(UserWarning, match=r"out' is put back"):
            check_output(target, overwrite=True)
    else:
        check_output(target, overwrite=True)
    assert names(tmp_path) == ["out"] and (target / "config.json").read_text() == content
    assert json.loads((target / "grail_files.json").read_text()) == {"files": ["config.json", "grail_files.json"]}


def test_what_was_to_be_replaced_is_not_dropped_for_something_else(tmp_path):
    target = checkpoint(tmp_path / "out")
    process = start(HALFWAY, target, tmp_path.name)
    process.send_signal(signal.SIGKILL)
    process.wait()
    target.mkdir()
    (target / "mine.txt").touch()
    check_output(tmp_path / "another")
    assert len([*tmp_path.glob(".grail-*/old/out/config.json")]) == 1
