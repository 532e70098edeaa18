"""Public packages, fetched by their registries' ordinary clients, and what files they hold."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One archive of a registry.

    Attributes:
        registry: ``"pypi"``, ``"npm"`` or ``"debian"``.
        name: what the registry calls it.
        version: the only version that is read.
        file: name of the archive.
        sha256: of the archive.
    """

    registry: str
    name: str
    version: str
    file: str
    sha256: str

    def command(self, folder: Path) -> list[str]:
        """What fetches the archive into the current folder, which is ``folder``."""
        if self.registry == "pypi":
            pinned = f"{self.name}=={self.version}"
            return ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), pinned]
        if self.registry == "npm":
            return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]
        return ["apt-get", "download", "--quiet", f"{self.name}={self.version}"]

    def fetch(self, folder: Path) -> Path:
        """The archive in ``folder``, downloaded unless it is there already.

        Raises:
            SystemExit: the client failed, or the archive is not the one that was pinned.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file
        if not path.is_file():
            done = subprocess.run(self.command(folder), cwd=folder, capture_output=True, text=True, check=False)
            if not path.is_file():
                raise SystemExit(
                    f"{self.name} {self.version} cannot be fetched from {self.registry}: {done.stderr.strip()[-300:]} "
                    f"Put {self.file} into {folder} yourself and run again; old Debian packages are kept at "
                    "snapshot.debian.org."
                )
        check_sha256(path, self.sha256)
        return path


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file with another hash.

    Raises:
        SystemExit: names both hashes.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{path} has the sha256 {found}, expected {expected}. Delete it and run again.")


def members(archive: Path, asked: list[list[str]]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of ``archive`` that a list of patterns wants, in order of their names.

    Gzipped members (``.gz``, ``.dz``) are unpacked.
    """
    found = dict(_all_members(archive, asked))
    for name in sorted(found):
        data = found[name]
        yield name, gzip.decompress(data) if name.endswith((".gz", ".dz")) else data


def _all_members(archive: Path, asked: list[list[str]]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if any(wanted(name, patterns) for patterns in asked):
                    yield name, opened.read(name)
        return
    stream = io.BytesIO(_data_of_deb(archive.read_bytes())) if archive.suffix == ".deb" else archive.open("rb")
    with stream, tarfile.open(fileobj=stream) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            content = tar.extractfile(member) if any(wanted(name, patterns) for patterns in asked) else None
            if content is not None:
                yield name, content.read()


def wanted(name: str, patterns: list[str]) -> bool:
    """Whether a pattern matches the whole name, and none of those with ``!`` in front does."""
    kept, left_out = (
        [pattern for pattern in patterns if not pattern.startswith("!")],
        [pattern[1:] for pattern in patterns if pattern.startswith("!")],
    )
    return any(fnmatchcase(name, pattern) for pattern in kept) and not any(
        fnmatchcase(name, pattern) for pattern in left_out
    )


def _data_of_deb(deb: bytes) -> bytes:
    """The inner archive of files: a .deb is an ``ar`` archive with headers of 60 bytes."""
    place = len(b"!<arch>\n")
    while place < len(deb):
        name, size = deb[place : place + 16].decode().strip(), int(deb[place + 48 : place + 58])
        start = place + 60
        if re.match(r"data\.tar", name):
            return deb[start : start + size]
        place = start + size + size % 2
    raise SystemExit("The .deb file holds no data archive. Delete it and run again.")
