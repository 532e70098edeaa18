"""Work folders live as long as their process, and nobody else's is ever removed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_grail.checkpoints import work_folders
from optimum_grail.checkpoints.work_folders import LOCK, WorkFolder, remove_abandoned

HOLD = """
import os, sys
from optimum_grail.checkpoints.work_folders import WorkFolder

work = WorkFolder(sys.argv[1], "w-")
(work.path / "data").write_text("x")
print(work.path, flush=True)
if sys.argv[2] == "child":
    if os.fork() == 0:
        sys.stdout.close()
        os.read(0, 1)
        os._exit(0)
    os.kill(os.getpid(), 9)
sys.stdin.readline()
"""


def hold(place: Path, how: str = "alone") -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLD, str(place), how]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_process_leaves_what_the_next_one_removes(tmp_path: Path) -> None:
    process, folder = hold(tmp_path)
    remove_abandoned(tmp_path, "w-")
    assert (folder / "data").is_file(), "its process is alive"
    kill(process)
    remove_abandoned(tmp_path, "v-")
    assert folder.exists(), "of another kind"
    remove_abandoned(tmp_path, "w-", lambda found: found != folder)
    assert folder.exists(), "there was something to rescue"
    remove_abandoned(tmp_path, "w-")
    assert not [*tmp_path.iterdir()]


def test_what_may_belong_to_another_machine_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, folder = hold(tmp_path)
    kill(process)
    with monkeypatch.context() as patch:
        patch.setattr(work_folders, "_machine", lambda: b"optimum-grail on another")
        remove_abandoned(tmp_path, "w-")
    assert folder.exists()


@pytest.mark.parametrize("content", [None, b"", b"of something else"])
def test_what_looks_alike_stays(content: bytes | None, tmp_path: Path) -> None:
    """A folder of somebody else's, or one whose owner has not locked it yet."""
    folder = tmp_path / "w-0.tmp"
    folder.mkdir()
    if content is not None:
        (folder / LOCK).write_bytes(content)
    remove_abandoned(tmp_path, "w-")
    assert folder.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_lives_on_still_needs_it(tmp_path: Path) -> None:
    process, folder = hold(tmp_path, "child")
    process.wait()
    remove_abandoned(tmp_path, "w-")
    assert folder.exists()
    process.communicate("go\n")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    process, folder = hold(tmp_path)
    kill(process)
    target = tmp_path / "target"
    folder.rename(target)
    (tmp_path / "w-1.tmp").symlink_to(target)
    remove_abandoned(tmp_path, "w-")
    assert (target / "data").is_file()


def test_it_goes_when_it_is_removed_or_forgotten_and_stays_when_it_is_kept(tmp_path: Path) -> None:
    one, two, three = (WorkFolder(tmp_path, "w-") for _ in range(3))
    one.remove()
    one.remove()
    kept = three.path
    three.keep()
    three.remove()
    del two
    gc.collect()
    remove_abandoned(tmp_path, "w-")
    assert [*tmp_path.iterdir()] == [kept] and not [*kept.iterdir()]


def test_where_locks_are_unknown_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_folders, "_lock", lambda descriptor: False)
    work = WorkFolder(tmp_path, "w-")
    monkeypatch.undo()
    remove_abandoned(tmp_path, "w-")
    assert work.path.exists()


def test_no_parent_no_leftovers(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "nowhere", "w-")


def test_a_hold_keeps_other_processes_off_as_long_as_its_own_lives(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from optimum_grail.checkpoints.work_folders import Hold"
    code += "; hold = Hold.on(Path(sys.argv[1])); print(hold is not None, flush=True); sys.stdin.readline()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    first = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == "True\n"
    assert work_folders.Hold.on(tmp_path) is None
    kill(first)
    hold = work_folders.Hold.on(tmp_path)
    assert hold is not None and work_folders.Hold.on(tmp_path) is None
    hold.release()
    assert work_folders.Hold.on(tmp_path) is not None


def test_what_is_left_of_a_discarded_folder_is_removed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data").write_text("x")
    hold = work_folders.Hold.on(tmp_path / "kept")
    assert hold is not None
    with monkeypatch.context() as patch:
        patch.setattr(work_folders.shutil, "rmtree", lambda *args, **kwargs: None)
        hold.discard("w-")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("w-")
    remove_abandoned(tmp_path, "w-")
    assert not list(tmp_path.iterdir())
