"""The folder of the kernel records: one for a host and a boot of it, this user's alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from jupyter_core.paths import jupyter_runtime_dir

from .kernel_record import BadRecord, KernelRecord

_NAME: Final = "session-store-kernels"
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE: Final = "/proc/self/ns/pid"
_RECORD: Final = ".json"
#: Of a record that is being written; it counts where there is no other.
_NEW: Final = ".new"
#: How often a record is looked for under both names: it may be written several times meanwhile.
_LOOKS: Final = 5
#: More than a record with some hundred sessions takes.
_LONGEST: Final = 4 * 2**20
#: Ids of kernels that are names of files too.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
#: Seconds after which nobody is left who would come back to another machine's folder.
_FOREIGN_AGE: Final = 90 * 86_400


class UnsafeFile(BadRecord):
    """A file or folder that somebody else may have written."""


def this_machine() -> str:
    """Return the name of this host, this boot of it, and this container.

    Homes are shared between machines, and a process id says something on one of them only.
    """
    try:
        boot = Path(_BOOT_ID).read_text(encoding="ascii").strip()
    except OSError:
        boot = str(round(psutil.boot_time() / 60))
    try:
        container = os.readlink(_PID_NAMESPACE)
    except OSError:
        container = ""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64]
    digest = hashlib.sha256(f"{boot} {container}".encode()).hexdigest()
    return f"{host}-{digest[:16]}"


@dataclass(frozen=True)
class KernelFolder:
    """The records, locks and logs of this user's kernels on this machine."""

    path: Path

    @classmethod
    def of_this_machine(cls) -> KernelFolder:
        """Return the folder in Jupyter's runtime directory; it need not be there."""
        return cls(Path(jupyter_runtime_dir()) / _NAME / this_machine())

    @property
    def levels(self) -> tuple[Path, Path]:
        """The folder of all machines, and this one in it: both are this user's alone."""
        return self.path.parent, self.path

    def prepare(self) -> None:
        """Make the folder, if it is not there.

        Raises
        ------
        OSError
            If that fails; :class:`UnsafeFile` if it is another user's, or writable by one.
        """
        for folder in self.levels:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_folder(folder)
            folder.chmod(0o700)

    def record_file(self, kernel_id: str) -> Path:
        """Return where a kernel's record is."""
        return self.path / f"{kernel_id}{_RECORD}"

    def _new_file(self, kernel_id: str) -> Path:
        return self.path / f"{kernel_id}{_NEW}"

    def lock_file(self, kernel_id: str) -> Path:
        """Return where a kernel's lock is."""
        return self.path / f"{kernel_id}.lock"

    def log_file(self, kernel_id: str) -> Path:
        """Return where a kernel's standard output and error go."""
        return self.path / f"{kernel_id}.log"

    def kernel_ids(self) -> list[str]:
        """Return the ids of the kernels that have records; none if there is no folder."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        ids = {stem for stem, kind in map(os.path.splitext, names) if kind in (_RECORD, _NEW)}
        return sorted(filter(can_be_recorded, ids))

    def read(self, kernel_id: str) -> KernelRecord:
        """Read a kernel's record.

        Raises
        ------
        BadRecord
            If it is none, or not only this user can have written it.
        OSError
            If it cannot be read; ``FileNotFoundError`` if it is not there.
        """
        record = KernelRecord.from_json(self._read_either(kernel_id))
        if record.kernel_id != kernel_id:
            raise BadRecord(f"it is of another kernel, {record.kernel_id!r:.60}")
        return record

    def _read_either(self, kernel_id: str) -> bytes:
        # A record that is written anew between two looks is under the other name.
        paths = [self.record_file(kernel_id), self._new_file(kernel_id)] * _LOOKS
        for path in paths:
            with suppress(FileNotFoundError):
                return read_safely(path)
        return read_safely(paths[0])

    def write(self, record: KernelRecord) -> None:
        """Write a kernel's record: whole, or not at all; raises :class:`OSError`.

        The old one is removed first, and the new one counts until it has its name: where a file
        is renamed over another, ext4 allocates its blocks at once, which takes milliseconds
        (``auto_da_alloc`` in ext4(5)). No record has to outlive the machine.
        """
        path, new = self.record_file(record.kernel_id), self._new_file(record.kernel_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        try:
            if not path.exists():
                # A crash amid an earlier write left the only one under the other name.
                with suppress(FileNotFoundError):
                    new.rename(path)
            with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(record.to_json())
            path.unlink(missing_ok=True)
            new.rename(path)
        except OSError:
            if path.exists():
                with suppress(OSError):
                    new.unlink()
            raise

    def open_log(self, kernel_id: str) -> int:
        """Open a kernel's log, to append; returns a descriptor, or raises :class:`OSError`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.log_file(kernel_id), flags | getattr(os, "O_NOFOLLOW", 0), 0o600)

    def remove(self, kernel_id: str) -> None:
        """Remove all files of a kernel, the lock last."""
        for path in (
            self._new_file(kernel_id),
            self.record_file(kernel_id),
            self.log_file(kernel_id),
            self.lock_file(kernel_id),
        ):
            with suppress(OSError):
                path.unlink()

    def remove_foreign(self) -> None:
        """Remove what other machines and earlier boots left, and nobody has touched for long."""
        with suppress(OSError), os.scandir(self.path.parent) as entries:
            for entry in entries:
                if entry.name == self.path.name or not entry.is_dir(follow_symlinks=False):
                    continue
                newest = max((one.stat().st_mtime for one in _files(entry.path)), default=0.0)
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
                if time.time() - newest > _FOREIGN_AGE:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _files(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        yield from entries


def can_be_recorded(kernel_id: str) -> bool:
    """Return whether a kernel's id can be the name of a file."""
    return _PLAIN_ID.fullmatch(kernel_id) is not None


def check_folder(path: Path) -> None:
    """Check that only this user can have written a folder; raises :class:`UnsafeFile`."""
    _check_safe(os.lstat(path), stat.S_ISDIR)


def _check_safe(found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(found.st_mode):
        raise UnsafeFile("it is a link, or not of the expected kind")
    if sys.platform != "win32" and found.st_uid != os.geteuid():
        raise UnsafeFile("it is another user's")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeFile("others can write to it")


def read_safely(path: Path) -> bytes:
    """Read a file that only this user can have written; raises :class:`UnsafeFile`, ``OSError``."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    if path.is_symlink():
        raise UnsafeFile("it is a link, or not of the expected kind")
    descriptor = os.open(path, flags)
    try:
        _check_safe(os.fstat(descriptor), stat.S_ISREG)
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(_LONGEST + 1)
    finally:
        os.close(descriptor)
    if len(text) > _LONGEST:
        raise UnsafeFile(f"it is longer than {_LONGEST} bytes")
    return text
