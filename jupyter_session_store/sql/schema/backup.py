"""A copy of a SQLite file, made before its schema is changed."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect

from ...errors import StoreUnavailable
from ..engine.url import is_memory
from .versions import VERSION_TABLE

#: What SQLite may leave beside a file.
_COMPANIONS: Final = ("-journal", "-wal", "-shm")


def back_up(
    connection: Connection, revision: str | None, log: logging.Logger | None = None
) -> Path | None:
    """Copy a SQLite file to one beside it, named after its revision and the time in UTC.

    The tables may be a stock manager's, another program's or this package's; without any,
    and for a database in memory, there is no copy.

    The copy is whole or not there: it gets its name when it is complete. Only
    its owner can read it, and nothing that exists is overwritten. `connection` is in a
    write transaction that has changed nothing yet: what others have committed is in
    the copy, and they commit nothing meanwhile.
    """
    file = _file_of(connection)
    # Alembic has just made its own, or emptied it.
    if file is None or set(inspect(connection).get_table_names()) <= {VERSION_TABLE}:
        return None
    try:
        with _new_file(file, revision or "base") as copy, closing(sqlite3.connect(copy)) as target:
            # By a connection of its own: SQLite copies nothing through one that is writing.
            with closing(sqlite3.connect(file)) as source:
                source.backup(target)
            # In WAL mode, which came along, it could not be read where one may not write.
            target.execute("PRAGMA journal_mode=DELETE")
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreUnavailable(
            f"the SQLite file {str(file)!r} could not be backed up before its schema is changed "
            f"({reason}); expected to be able to write {file.stat().st_size} bytes in "
            f"{str(file.parent)!r}. Nothing was changed. Make room there, or move the file to "
            "another folder, and run: jupyter session-store upgrade"
        ) from error
    made = copy.with_suffix("")
    (log or logging.getLogger("jupyter_session_store")).info(
        "Backed up the SQLite file %r before its schema is changed: %r", str(file), str(made)
    )
    return made


def _file_of(connection: Connection) -> Path | None:
    if is_memory(connection.engine.url):
        return None
    # Whatever the URL looks like, and through every link.
    rows = connection.exec_driver_sql("PRAGMA database_list").all()
    name = next(file for _, schema, file in rows if schema == "main")
    return Path(name) if name else None


@contextmanager
def _new_file(file: Path, revision: str) -> Iterator[Path]:
    """Yield an empty private file, which gets its name at the end, or goes."""
    now = datetime.now(timezone.utc)
    for number in count(1):
        again = "" if number == 1 else f"-{number}"
        name = f"{file.name}.{revision}-{now:%Y%m%dT%H%M%SZ}{again}.backup"
        made = file.with_name(name)
        partial = file.with_name(f"{name}.partial")
        if made.exists():
            continue
        with suppress(FileExistsError):
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            break
    try:
        yield partial
        partial.rename(made)
    except BaseException:
        for companion in ("", *_COMPANIONS):
            partial.with_name(partial.name + companion).unlink(missing_ok=True)
        raise
