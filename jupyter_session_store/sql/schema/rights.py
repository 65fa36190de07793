"""What servers must be allowed to do to each table, and the statements that allow it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError

from ..engine.backend import backend_of, listed
from ..tables import META, METADATA, SERVERS, SESSIONS
from .migrating import Revision
from .versions import VERSION_TABLE

#: What servers need on each table.
NEEDED: Final[Mapping[str, Sequence[str]]] = {
    SESSIONS.name: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    SERVERS.name: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    META.name: ("SELECT",),
    VERSION_TABLE: ("SELECT",),
}

#: What the policies of :mod:`.wall` use with the rights of who reads a table.
WALL_TABLE: Final = "jupyter_session_store_wall"
WALL_FUNCTIONS: Final = (
    "jupyter_session_store_is_among",
    "jupyter_session_store_is_granted",
)
_FUNCTION: Final = "FUNCTION "


def lacking(connection: Connection) -> dict[str, list[str]]:
    """Return the rights that servers need and this role lacks, by table.

    Each is tried, on no row. Of a table that is not there none is lacking. Where it is what
    policies use that is denied, so is every table, and that is what it lacks.
    """
    denied = {
        table: [verb for verb in verbs if _is_denied(connection, verb, table)]
        for table, verbs in NEEDED.items()
    }
    found = {table: verbs for table, verbs in denied.items() if verbs}
    return (found and _lacking_of_wall(connection)) or found


def _lacking_of_wall(connection: Connection) -> dict[str, list[str]]:
    """Return what this role lacks of that which the policies use; nothing if it is in no group."""
    if backend_of(connection).no_wall is not None:
        return {}
    functions = (
        "SELECT CAST(CAST(oid AS regprocedure) AS text) FROM pg_catalog.pg_proc"
        f" WHERE proname IN ({listed(WALL_FUNCTIONS)}) AND pg_function_is_visible(oid)"
        " AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1"
    )
    names = connection.exec_driver_sql(functions).scalars()
    found = {f"{_FUNCTION}{name}": ["EXECUTE"] for name in names}
    table = (
        f"SELECT has_table_privilege(to_regclass('{SESSIONS.name}'), 'SELECT') AND NOT"
        f" has_table_privilege(to_regclass('{WALL_TABLE}'), 'SELECT')"
    )
    if connection.exec_driver_sql(table).scalar():
        found[WALL_TABLE] = ["SELECT"]
    return found


def grants(connection: Connection, lacks: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the statements that give this role what it lacks."""
    backend = backend_of(connection)
    return _grants(connection, lacks, backend.role(connection))


def find_missing_grants(engine: Engine) -> str:
    """Return the statements that give this role what it lacks, as far as that can be told."""
    try:
        with engine.connect() as connection:
            return " ".join(grants(connection, lacking(connection)))
    except Exception:
        # It may be anything, such as a password that cannot be read any more. What is told is
        # the fault that it was asked about.
        return ""


def grants_for_servers(connection: Connection, tables: Collection[str]) -> list[str]:
    """Return the statements that give the servers' role, whatever its name, what it needs.

    None where roles have no rights, and none on tables that have been granted to a role already.
    """
    backend = backend_of(connection)
    if backend.is_embedded or not tables:
        return []
    granted = {table for _role, table, _verbs in _granted(connection, tables)}
    needed = {one: verbs for one, verbs in NEEDED.items() if one in {*tables} - granted}
    return _grants(connection, needed, backend.any_role)


def losses(connection: Connection, undone: Sequence[Revision]) -> list[str]:
    """Return in words what is lost with some revisions: data, and the rights on dropped tables.

    Alembic's own table stays, and so do the rights on it.
    """
    lines = [
        f"Undoing {one.id} loses {one.downgrade_loses}." for one in undone if one.downgrade_loses
    ]
    if undone and undone[-1].previous is None:
        found = _granted(connection, METADATA.tables)
        if found:
            lines.append("With the tables go these GRANTs, to be given again after an upgrade:")
        for role, table, verbs in found:
            lines += (f"  {one}" for one in _grants(connection, {table: verbs}, role))
    return lines


def _granted(connection: Connection, tables: Collection[str]) -> list[tuple[str, str, list[str]]]:
    """Return the rights that others than the owner lose with some tables."""
    query = backend_of(connection).granted
    if query is None:
        return []
    rows = connection.exec_driver_sql(query.format(tables=listed(tables)))
    return [(role, table, verbs) for role, table, verbs in rows]


def _grants(connection: Connection, rights: Mapping[str, Iterable[str]], role: str) -> list[str]:
    """Return a statement for each table."""
    qualify = backend_of(connection).qualify
    return [
        f"GRANT {', '.join(verbs)} ON "
        f"{table if table.startswith(_FUNCTION) else qualify(connection, table)} TO {role};"
        for table, verbs in rights.items()
    ]


def _is_denied(connection: Connection, verb: str, table: str) -> bool:
    try:
        connection.exec_driver_sql(_attempt(verb, table))
    except DBAPIError as error:
        if backend_of(connection).is_denied(error):
            return True
        if error.connection_invalidated or inspect(connection).has_table(table):
            raise
    return False


def _attempt(verb: str, table: str) -> str:
    columns = ["version_num"]
    if table in METADATA.tables:
        columns = [column.name for column in METADATA.tables[table].columns]
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
