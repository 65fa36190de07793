"""What is examined of a SQLite file."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from ..engine.sqlite_files import is_on_network_file_system
from ..engine.url import sqlite_file
from ..schema import versions
from .findings import Examinations, Outcome, failed, ok, unknown, warning

#: Bytes.
_LEAST_SPACE: Final = 100_000_000
#: Seconds that looking through a file may take.
_SECONDS: Final = 10
#: Steps of SQLite's virtual machine between two looks at the clock.
_STEPS: Final = 10_000


def file(path: Path) -> Outcome:
    """Judge the mode and the owner of the file."""
    found = path.stat()
    quoted = shlex.quote(str(path))
    mode = found.st_mode & 0o777
    owner = _name(found.st_uid)
    text = f"Mode {mode:04o}, of the user {owner}"
    if mode & 0o077:
        may = "read and change" if mode & 0o022 else "read"
        return warning(
            f"{text}: other users of this machine may {may} everybody's sessions; expected 0600, "
            "for the owner alone.",
            f"chmod 600 {quoted}",
        )
    me = os.geteuid()
    # SQLite gives what root makes beside a file to the file's owner.
    if found.st_uid != me != 0:
        return warning(
            f"{text}; expected {_name(me)}, who runs this.", f"chown {_name(me)} {quoted}"
        )
    return ok(f"{text}.")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def file_system(path: Path) -> Outcome:
    """Judge where it lies."""
    if not is_on_network_file_system(path):
        return ok("Of this machine alone.")
    return warning(
        "Shared with other machines, whose locks may not hold; expected a local disk, or a "
        "database server for servers on several machines.",
        f"jupyter session-store copy --from {shlex.quote(str(path))} --to env:SERVER_URL",
    )


def disk_space(path: Path) -> Outcome:
    """Judge how much can still be written."""
    free = shutil.disk_usage(path.parent).free
    text = f"{free / 1e6:,.0f} MB are free"
    if free >= _LEAST_SPACE:
        return ok(f"{text}.")
    return warning(
        f"{text}; expected {_LEAST_SPACE / 1e6:.0f} MB.",
        f"Make room: du -xh {shlex.quote(str(path.parent))} | sort -h",
    )


def journal(connection: Connection) -> Outcome:
    """Judge how writers and readers get along."""
    path = sqlite_file(connection.engine.url)
    expected = "wal"
    if path is not None and is_on_network_file_system(path):
        expected = "delete"
    found = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if found == expected:
        return ok(f"{found}.")
    if versions.status(connection).state is versions.State.EMPTY:
        return ok(f"{found}; {expected} once it holds sessions.")
    return warning(
        f"{found}; expected {expected}.",
        f"With no server running: sqlite3 FILE 'PRAGMA journal_mode={expected}'",
    )


def integrity(connection: Connection) -> Outcome:
    """Look through the file, for a few seconds."""
    driver: Any = connection.connection.dbapi_connection
    deadline = time.monotonic() + _SECONDS
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
    except DatabaseError as error:
        found = str(error.orig)
        if found == "interrupted":
            return unknown(f"It takes longer than {_SECONDS} s: sqlite3 FILE 'PRAGMA quick_check'")
    finally:
        driver.set_progress_handler(None, 0)
    if found == "ok":
        return ok("The file is whole.")
    path = shlex.quote(str(connection.engine.url.database))
    return failed(
        f"The file is damaged: {found.splitlines()[0]}.",
        f"With no server running, restore the newest backup (ls {path}.*.backup), or save what "
        f"can be read: sqlite3 {path} .recover | sqlite3 NEW",
    )


EXAMINATIONS: Final = Examinations(
    file={"file": file, "file system": file_system, "disk space": disk_space},
    server={"journal": journal, "integrity": integrity},
)
