"""Work folders: where a run writes what is not finished. The next run removes those whose process has ended; a
:class:`Hold` is on a folder that outlives it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

LOCK = "lock"
SUFFIX = ".tmp"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class WorkFolder:
    """A new folder that nobody takes for abandoned while this process lives: it holds a file that is locked so long.

    The system gives the lock back when the process ends, however it ends. The folder is removed by :meth:`remove`, when
    the object is forgotten, or at the end of the interpreter.

    Args:
        parent: an existing folder.
        prefix: how the name begins.

    Raises:
        OSError: the folder or the file in it cannot be written.
    """

    def __init__(self, parent: str | Path, prefix: str) -> None:
        self.path = Path(parent) / f"{prefix}{uuid.uuid4().hex[:12]}{SUFFIX}"
        self.path.mkdir(mode=0o700)
        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(descriptor):
                os.write(descriptor, _machine())  # after locking: an empty file that is free says nothing
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        self._end = weakref.finalize(self, _remove, self.path, descriptor)

    def remove(self) -> None:
        """Remove the folder, unless :meth:`keep` was called."""
        self._end()

    def keep(self) -> None:
        """Leave the folder to the user: nobody removes it from now on."""
        if self._end.detach() is not None:
            (self.path / LOCK).unlink(missing_ok=True)


def temporary_folder(prefix: str) -> WorkFolder:
    """A new folder below the temporary one; those of processes that were killed are removed first.

    Args:
        prefix: how the names of such folders begin.

    Raises:
        OSError: it cannot be made.
    """
    place = tempfile.gettempdir()
    remove_abandoned(place, prefix)
    return WorkFolder(place, prefix)


class Hold:
    """What keeps other processes off a folder that outlives this one; the system gives it back when the process ends.

    Args:
        folder: the folder.
        descriptor: of the open, locked file in it.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._end = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def on(cls, folder: Path) -> Hold | None:
        """Hold an existing folder; ``None`` if another process does. Where the file system knows no locks, nobody is
        kept off.

        Raises:
            OSError: nothing can be written there.
        """
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        if _is_held(descriptor):
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _machine(), 0)
        return cls(folder, descriptor)

    def release(self) -> None:
        """Let others have the folder."""
        self._end()

    def discard(self, prefix: str) -> None:
        """Remove the folder. What a process that is killed over it leaves goes by a name that :func:`remove_abandoned`
        looks for with ``prefix``."""
        doomed = self.folder.with_name(f"{prefix}{uuid.uuid4().hex[:12]}{SUFFIX}")
        self.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        self.release()


def remove_abandoned(parent: str | Path, prefix: str, rescue: Callable[[Path], bool] | None = None) -> None:
    """Remove the work folders in ``parent`` that no living process needs.

    That is certain only where this running system made them and their lock is free. What another machine or container
    host made, or this one before it was started anew, stays: a lock need not be seen from everywhere.

    Args:
        parent: a folder; one that does not exist holds none.
        prefix: how the names begin.
        rescue: called with a folder before it is removed, which it is not if the answer is ``False``.
    """
    for folder in sorted(Path(parent).glob(f"{prefix}*{SUFFIX}")):
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except OSError:  # none of ours, somebody else's, or gone meanwhile
            continue
        try:
            ended = os.read(descriptor, 1000) == _machine() and _lock(descriptor)
            if ended and (rescue is None or rescue(folder)):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _remove(folder: Path, descriptor: int) -> None:
    if sys.platform == "win32":  # where an open file cannot be removed
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _machine() -> bytes:
    """What names this running system: the same in all containers on it, another after a restart; never empty."""
    name = _BOOT.read_text(encoding="ascii") if _BOOT.exists() else platform.node()
    return f"optimum-grail on {name.strip()}".encode()


if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        """There is no such lock: nothing counts as abandoned."""
        return False

    def _is_held(descriptor: int) -> bool:
        """There is no such lock: nothing counts as held."""
        return False

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Lock an open file for this process; ``False`` if another one has it, or the file system knows no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _is_held(descriptor: int) -> bool:
        """Whether another process has the lock on an open file; if not, this one has it now, where there are locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False
