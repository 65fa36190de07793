"""Every session and every server, of all namespaces, for operators.

Read in batches along the primary key: no statement is long, no transaction
stays open, and memory does not grow with the table.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlalchemy.exc import DBAPIError

from ...paths import path_digest
from ...records import ServerRecord, SessionRecord
from ..queries.leases import to_server
from ..queries.rows import COLUMNS, readable, to_record
from ..tables import SERVERS, SESSIONS

#: Rows that are read at once.
BATCH: Final = 1000


@dataclass(frozen=True)
class Criteria:
    """Which sessions: those that equal everything that is given, compared exactly.

    `prefix` is what their namespaces begin with, and `session_ids` are those of some of them.
    `unchanged_since` is aware: only sessions that were not written since.
    """

    namespace: str | None = None
    prefix: str | None = None
    session_ids: Collection[str] | None = None
    path: str | None = None
    kernel_id: str | None = None
    server_id: str | None = None
    state: str | None = None
    unchanged_since: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return them as SQL."""
        names = ("kernel_id", "server_id", "state")
        values = ((SESSIONS.c[name], getattr(self, name)) for name in names)
        found = self.conditions_of(SESSIONS.c.namespace)
        found += [column == value for column, value in values if value is not None]
        if self.session_ids is not None:
            found.append(SESSIONS.c.session_id.in_(self.session_ids))
        if self.path is not None:
            found.append(SESSIONS.c.path_digest == path_digest(self.path))
        if self.unchanged_since is not None:
            found.append(SESSIONS.c.updated_at < self.unchanged_since)
        return found

    def covers(self, namespace: str) -> bool:
        """Return whether a namespace is one of those of which sessions are chosen."""
        is_named = self.namespace is None or namespace == self.namespace
        return is_named and namespace.startswith(self.prefix or "")

    def conditions_of(self, namespace: ColumnElement[str]) -> list[ColumnElement[bool]]:
        """Return as SQL what is said of a namespace."""
        found: list[ColumnElement[bool]] = []
        if self.namespace is not None:
            found.append(namespace == self.namespace)
        if self.prefix:
            # A range of the key. Texts are in the order of their code points on each database.
            found.append(namespace >= self.prefix)
            end = _end_of(self.prefix)
            found += [] if end is None else [namespace < end]
        return found


def _end_of(prefix: str) -> str | None:
    """Return the first text after all that begin so; ``None`` where there is none."""
    for place in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[place]) + 1
        if following <= sys.maxunicode:
            # No text has a surrogate.
            character = chr(0xE000 if following == 0xD800 else following)
            return prefix[:place] + character
    return None


def sessions(connection: Connection, criteria: Criteria | None = None) -> Iterator[SessionRecord]:
    """Return sessions in the order of their namespaces and ids, by default all.

    One that is added or removed meanwhile is there or not; every other comes once.
    """
    conditions = (criteria or Criteria()).conditions()
    return map(to_record, keyset(connection, select(*COLUMNS).where(*conditions)))


def keyset(connection: Connection, statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a select from the sessions, in the order of the primary key."""
    return chain.from_iterable(pages(connection, statement))


def pages(
    connection: Connection, statement: Select[Any], *, batch: int = BATCH
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a select from the sessions in lists, in the order of the primary key.

    Two of its columns are named ``namespace`` and ``session_id``. Each value comes as the driver
    gives it.
    """
    key = (SESSIONS.c.namespace, SESSIONS.c.session_id)
    ordered = statement.order_by(*key)
    names = [column.name for column in statement.selected_columns]
    at = (names.index("namespace"), names.index("session_id"))
    last: tuple[str, str] | None = None
    while True:
        rows = []
        if last is not None:
            # First the rest of a namespace, then the next ones: two ranges of the key, where
            # one condition for both is read as a whole table on some databases.
            rest = ordered.where(key[0] == last[0], key[1] > last[1]).limit(batch)
            rows = _fetch(connection, rest)
        if len(rows) < batch:
            following = ordered if last is None else ordered.where(key[0] > last[0])
            rows += _fetch(connection, following.limit(batch - len(rows)))
        if rows:
            yield rows
        if len(rows) < batch:
            return
        last = (rows[-1][at[0]], rows[-1][at[1]])


def _fetch(connection: Connection, statement: Select[Any]) -> list[tuple[Any, ...]]:
    # Straight from the driver: SQLAlchemy's rows are a third of what a whole table takes.
    with closing(connection.execute(statement)) as result:
        assert result.cursor is not None
        try:
            return list(result.cursor.fetchall())
        except connection.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(str(statement), None, error, hide_parameters=True) from error


def servers(
    connection: Connection, namespace: str | None = None, *, prefix: str | None = None
) -> list[ServerRecord]:
    """Return the registered servers, of some namespaces or of all, in the order of their keys."""
    conditions = Criteria(namespace=namespace, prefix=prefix).conditions_of(SERVERS.c.namespace)
    by = (SERVERS.c.namespace, SERVERS.c.server_id)
    statement = select(*readable(SERVERS)).where(*conditions).order_by(*by)
    return [to_server(row) for row in connection.execute(statement).mappings()]


def counts(connection: Connection) -> dict[tuple[str, str | None], int]:
    """Return how many sessions there are, by namespace and server id."""
    by = (SESSIONS.c.namespace, SESSIONS.c.server_id)
    rows = connection.execute(select(*by, func.count()).group_by(*by))
    return {(namespace, server_id): count for namespace, server_id, count in rows}
