"""What the tests of copy and import share: databases' contents, compared across kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Final

from jupyter_session_store.records import SessionRecord
from jupyter_session_store.sql.admin.bulk_insert import DATES, NAMES
from jupyter_session_store.sql.tables import to_utc

from ..databases import Database
from .support import session

#: With what a statement begins that adds sessions.
ADDING: Final = ("COPY jupyter_sessions ", "INSERT INTO jupyter_sessions ")
#: What is not copied: it is the target's own.
_FLOOR: Final = "oldest_compatible_code"


def file_database(path: Path) -> Database:
    """Return a SQLite file as a database, which need not be there."""
    return Database("sqlite", f"sqlite:///{path}")


def contents(database: Database) -> list[tuple[Any, ...]]:
    """Return all rows of sessions, every column, the same for each kind of database."""
    rows = database.rows(f"SELECT {', '.join(NAMES)} FROM jupyter_sessions")
    return sorted(
        tuple(to_utc(value) if place in DATES else value for place, value in enumerate(row))
        for row in rows
    )


def checksum(database: Database) -> str:
    """Return a digest of :func:`contents`."""
    return hashlib.sha256(repr(contents(database)).encode()).hexdigest()


def servers(database: Database) -> list[tuple[Any, ...]]:
    """Return all rows of servers, every column."""
    columns = "namespace, server_id, hostname, pid, version, renewals, lease_seconds, started_at"
    rows = database.rows(f"SELECT {columns} FROM jupyter_servers")
    return sorted((*row[:-1], to_utc(row[-1])) for row in rows)


def adoption(database: Database) -> list[tuple[Any, ...]]:
    """Return what the meta table says, but for the floor."""
    return database.rows(
        f"SELECT name, value FROM jupyter_session_store_meta WHERE name <> '{_FLOOR}'"
    )


def number(database: Database) -> int:
    """Return how many sessions there are; 0 where there is no table yet."""
    try:
        return int(database.rows("SELECT count(*) FROM jupyter_sessions")[0][0])
    except Exception as error:
        if "no such table" in str(error) or "exist" in str(error):
            return 0
        raise


def many(count: int) -> Iterator[SessionRecord]:
    """Return sessions: a third of one namespace, the others of many that are small."""
    for index in range(count):
        namespace = f"hub:user-{index // 100}/" if index % 3 else "hub:crowd/"
        key = hashlib.sha256(str(index).encode()).hexdigest()
        yield session(namespace, index, session_id=key[:32])


def counts(done: CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    """Return what a run with ``--json`` has counted."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
