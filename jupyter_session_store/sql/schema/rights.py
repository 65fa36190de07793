"""What servers must be allowed to do to each table, and the statements that allow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..engine.backend import backend_of
from ..models import SERVERS, SESSIONS, Base, Meta
from .versions import VERSION_TABLE

#: What servers need on each table.
_NEEDED: Final[Mapping[str, Sequence[str]]] = {
    SESSIONS.name: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    SERVERS.name: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    Meta.__tablename__: ("SELECT",),
    VERSION_TABLE: ("SELECT",),
}


def lacking(connection: Connection) -> dict[str, list[str]]:
    """Return the rights that servers need and this role lacks, by table.

    Each is tried, on no row.
    """
    denied = {
        table: [verb for verb in verbs if not _may(connection, verb, table)]
        for table, verbs in _NEEDED.items()
    }
    return {table: verbs for table, verbs in denied.items() if verbs}


def grants(connection: Connection, lacks: Mapping[str, Iterable[str]]) -> str:
    """Return the statements that give this role what it lacks."""
    backend = backend_of(connection)
    name = backend.role(connection)
    return " ".join(
        f"GRANT {', '.join(verbs)} ON {backend.qualify(connection, table)} TO {name};"
        for table, verbs in lacks.items()
    )


def _may(connection: Connection, verb: str, table: str) -> bool:
    try:
        connection.exec_driver_sql(_attempt(verb, table))
    except DBAPIError as error:
        if backend_of(connection).is_denied(error):
            return False
        raise
    return True


def _attempt(verb: str, table: str) -> str:
    columns = ["version_num"]
    if table in Base.metadata.tables:
        columns = [column.name for column in Base.metadata.tables[table].columns]
    # None reads a column or a row: each needs the one right alone.
    nulls = ", ".join("NULL" for _ in columns)
    return {
        "SELECT": f"SELECT {columns[0]} FROM {table} WHERE 1 = 0",
        "INSERT": (
            f"INSERT INTO {table} ({', '.join(columns)}) "
            f"SELECT {nulls} FROM (SELECT 1 AS one) AS no_row WHERE 1 = 0"
        ),
        "UPDATE": f"UPDATE {table} SET {columns[0]} = '' WHERE 1 = 0",
        "DELETE": f"DELETE FROM {table} WHERE 1 = 0",
    }[verb]
