"""What stands in the database, read through its driver."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..databases import Database


class Row(NamedTuple):
    """A row of ``jupyter_sessions``, without what no client ever sees."""

    session_id: str
    path: str | None
    name: str
    type: str
    kernel_id: str
    kernel_name: str
    state: str
    namespace: str


def rows_of(database: Database) -> list[Row]:
    """Return the sessions, the oldest first."""
    columns = ", ".join(Row._fields)
    query = f"SELECT {columns} FROM jupyter_sessions ORDER BY created_at, session_id"
    return [Row(*row) for row in database.rows(query)]


def row_of(database: Database, session_id: str) -> Row:
    """Return the one row of a session."""
    (row,) = (row for row in rows_of(database) if row.session_id == session_id)
    return row


def dump(database: Database) -> list[tuple[Any, ...]]:
    """Return every column of every session, to compare before and after."""
    return database.rows("SELECT * FROM jupyter_sessions ORDER BY namespace, session_id")
