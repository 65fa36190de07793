"""What can be known of a SQLite file before it is opened.

Nothing here opens and closes a file that this process may have open as a database: whoever
closes any descriptor of a file takes all locks of the process off it, and another process
would write between, or delete the write-ahead log (https://www.sqlite.org/howtocorrupt.html).
SQLite itself knows what the process has open, and waits with the closing.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError

_HEADER: Final = b"SQLite format 3\x00"
#: No database has fewer bytes, but an empty one.
_SMALLEST: Final = 512
#: Where the header says how a file may be read: 1 as it is, 2 with a write-ahead log beside it.
_READ_VERSION: Final = 19

#: File systems that are shared between hosts (the names that Linux and macOS give them).
# fmt: off
NETWORK_FILE_SYSTEMS: Final = frozenset({
    "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "efs", "fuse.ceph",
    "fuse.gcsfuse", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs", "gfs2", "glusterfs",
    "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs", "virtiofs",
    "vboxsf", "webdav",
})
# fmt: on


def refuse_unusable_file(path: Path, trait: str, *, writes: bool = True) -> None:
    """Refuse a path at which SQLite cannot keep a database; the error names the setting `trait`.

    The file may not be there yet; its folder must be. Where nothing will be written, it is
    refused only if SQLite has to write there to read.
    """
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no name of a file"
        raise ConfigurationError(
            f"{trait}: the file {str(path)!r} cannot be used: {type(error).__name__}: {reason}. "
            "Name another."
        ) from None
    if stat.S_ISDIR(mode):
        raise ConfigurationError(
            f"{trait} expected a file path, but {str(path)!r} is a directory. Name a file in it."
        )
    if not stat.S_ISREG(mode):
        raise ConfigurationError(
            f"{trait} names {str(path)!r}, which is a pipe, a socket or a device; expected a file "
            "on a disk. Name another file, or one that does not exist yet."
        )
    folder = path.parent
    if not folder.is_dir():
        raise ConfigurationError(
            f"{trait} names a file in {str(folder)!r}, which is not a folder. Create it "
            "first, or name another."
        )
    folder_writable = os.access(folder, os.W_OK | os.X_OK)
    writable = folder_writable and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
    if not writes and not writable and _can_be_read_alone(path):
        return
    if not folder_writable:
        raise ConfigurationError(
            f"{trait} names a file in {str(folder)!r}, where this user may not write; "
            "SQLite keeps its journal beside the file. Name a file in a writable folder."
        )
    if not path.exists():
        return
    if not writable:
        raise ConfigurationError(
            f"{trait} names {str(path)!r}, which this user may not read and write. "
            "Change its mode or name another file."
        )
    if not is_sqlite_file(path):
        raise ConfigurationError(
            f"{trait} names {str(path)!r}, which is not an SQLite database file. "
            "Name another file, or one that does not exist yet."
        )


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another at the same path; ``None`` if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _can_be_read_alone(path: Path) -> bool:
    """Return whether a file is a database that needs nothing beside itself to be read.

    For a file that this process cannot write, and has no lock of that could matter.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_READ_VERSION + 1)
    except OSError:
        return False
    return header.startswith(_HEADER) and header[_READ_VERSION:] == b"\x01"


def is_sqlite_file(path: Path) -> bool:
    """Return whether a file is a SQLite database, or empty, which is one too.

    Raises :class:`OSError` if it may not be read.
    """
    # Imported late: who uses a server needs no SQLite.
    import sqlite3

    size = path.stat().st_size
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if size < _SMALLEST:
        return size == 0
    # Immutable: it locks nothing, and makes no file beside it.
    uri = f"{path.absolute().as_uri()}?immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        return "not a database" not in str(error)
    return True


def is_on_network_file_system(path: Path) -> bool:
    """Return whether a file lies on a file system that other hosts may mount.

    A mount that cannot be told is taken for a local one.
    """
    # Imported late: only a file needs it, and it takes a while.
    import psutil

    target = os.path.realpath(path)
    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, partition.fstype
    return kind.lower() in NETWORK_FILE_SYSTEMS
