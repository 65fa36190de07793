"""What a page of a table shows, of all namespaces or of some: the database chooses and sorts.

No statement returns more than one page, so that a table of any size costs no memory here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, or_, select, tuple_

from ...records import ServerRecord, SessionRecord
from ..queries.leases import to_server
from ..queries.rows import COLUMNS, ReadableDate, readable, to_record
from ..tables import SERVERS, SESSIONS, to_utc
from .listing import Criteria

#: How sessions may be sorted. The primary key, which is the first, is read in its own order.
SESSION_ORDERS: Final[Mapping[str, tuple[ColumnElement[Any], ...]]] = {
    "namespace": (SESSIONS.c.namespace, SESSIONS.c.session_id),
    "path": (SESSIONS.c.path, SESSIONS.c.namespace, SESSIONS.c.session_id),
    "state": (SESSIONS.c.state, SESSIONS.c.namespace, SESSIONS.c.session_id),
    "created": (SESSIONS.c.created_at, SESSIONS.c.namespace, SESSIONS.c.session_id),
    "changed": (SESSIONS.c.updated_at, SESSIONS.c.namespace, SESSIONS.c.session_id),
}
#: How servers may be sorted.
SERVER_ORDERS: Final[Mapping[str, tuple[ColumnElement[Any], ...]]] = {
    "namespace": (SERVERS.c.namespace, SERVERS.c.server_id),
    "host": (SERVERS.c.hostname, SERVERS.c.namespace, SERVERS.c.server_id),
    "started": (SERVERS.c.started_at, SERVERS.c.namespace, SERVERS.c.server_id),
    "version": (SERVERS.c.version, SERVERS.c.namespace, SERVERS.c.server_id),
}
#: How namespaces may be sorted.
NAMESPACE_ORDERS: Final = ("namespace", "sessions", "changed")


@dataclass(frozen=True)
class Choice:
    """Which rows of a table, in which order, and which page of them.

    Parameters
    ----------
    visible : str or None
        Only namespaces that begin so: all that the viewer may see. ``None``: all there are.
    namespace : str
        Only namespaces that begin so.
    text : str
        Only sessions whose path, or servers whose host, holds it, whatever the case of ASCII
        letters.
    state : str
        Only sessions in this state.
    keys : collection of (str, str) or None
        Only servers of these keys.
    sort : str
        One of the orders of the table.
    descending : bool
    offset, limit : int
        Rows.
    """

    visible: str | None = None
    namespace: str = ""
    text: str = ""
    state: str = ""
    keys: Collection[tuple[str, str]] | None = None
    sort: str = "namespace"
    descending: bool = False
    offset: int = 0
    limit: int = 50

    def _of(self, table: Table) -> list[ColumnElement[bool]]:
        each = (Criteria(prefix=one) for one in (self.visible, self.namespace))
        return [condition for one in each for condition in one.conditions_of(table.c.namespace)]

    def of_sessions(self) -> list[ColumnElement[bool]]:
        """Return the conditions for sessions."""
        found = self._of(SESSIONS)
        if self.text:
            found.append(SESSIONS.c.path.icontains(self.text, autoescape=True))
        if self.state:
            found.append(SESSIONS.c.state == self.state)
        return found

    def of_servers(self) -> list[ColumnElement[bool]]:
        """Return the conditions for servers."""
        found = self._of(SERVERS)
        if self.text:
            found.append(SERVERS.c.hostname.icontains(self.text, autoescape=True))
        if self.keys is not None:
            key = tuple_(SERVERS.c.namespace, SERVERS.c.server_id)
            found.append(key.in_(sorted(self.keys)))
        return found

    def ordered(self, order: Collection[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
        """Return an order, turned round if that is asked for."""
        return [one.desc() if self.descending else one for one in order]

    def page(self, statement: Select[Any], order: Collection[ColumnElement[Any]]) -> Select[Any]:
        """Return a statement for the rows of the page, in this order."""
        return statement.order_by(*self.ordered(order)).limit(self.limit).offset(self.offset)


class NamespaceRow(NamedTuple):
    """A namespace, as the page shows it."""

    namespace: str
    sessions: int
    changed_at: datetime


def states(connection: Connection, choice: Choice) -> dict[str, int]:
    """Return how many of the chosen sessions are in each state."""
    state = SESSIONS.c.state
    rows = connection.execute(
        select(state, func.count()).where(*choice.of_sessions()).group_by(state)
    )
    return {str(name): int(count) for name, count in rows}


def sessions(connection: Connection, choice: Choice) -> list[SessionRecord]:
    """Return a page of the chosen sessions."""
    key, order = (SESSIONS.c.namespace, SESSIONS.c.session_id), SESSION_ORDERS[choice.sort]
    # Keys are sorted, not whole rows, whose kernels' models are long.
    page = choice.page(select(*key).where(*choice.of_sessions()), order).subquery()
    is_on_page = and_(key[0] == page.c.namespace, key[1] == page.c.session_id)
    statement = select(*COLUMNS).join_from(SESSIONS, page, is_on_page)
    rows = connection.execute(statement.order_by(*choice.ordered(order)))
    return [to_record(row) for row in rows]


def session(
    connection: Connection, visible: str | None, namespace: str, session_id: str
) -> SessionRecord | None:
    """Return one session; ``None`` if it is not there, or not to be seen."""
    conditions = [*Choice(visible=visible).of_sessions(), SESSIONS.c.namespace == namespace]
    statement = select(*COLUMNS).where(*conditions, SESSIONS.c.session_id == session_id)
    row = connection.execute(statement).first()
    return None if row is None else to_record(row)


def count_servers(connection: Connection, choice: Choice) -> int:
    """Return how many servers are chosen."""
    statement = select(func.count()).select_from(SERVERS).where(*choice.of_servers())
    return int(connection.execute(statement).scalar_one())


def servers(connection: Connection, choice: Choice) -> list[ServerRecord]:
    """Return a page of the chosen servers."""
    statement = select(*readable(SERVERS)).where(*choice.of_servers())
    rows = connection.execute(choice.page(statement, SERVER_ORDERS[choice.sort]))
    return [to_server(row) for row in rows.mappings()]


def sessions_of_servers(
    connection: Connection, servers: Collection[ServerRecord]
) -> dict[tuple[str, str], int]:
    """Return how many sessions each of some servers wrote last."""
    if not servers:
        return {}
    by = (SESSIONS.c.namespace, SESSIONS.c.server_id)
    of = [and_(by[0] == one.namespace, by[1] == one.server_id) for one in servers]
    rows = connection.execute(select(*by, func.count()).where(or_(*of)).group_by(*by))
    return {(namespace, server_id): count for namespace, server_id, count in rows}


def count_namespaces(connection: Connection, choice: Choice) -> int:
    """Return how many namespaces of the chosen sessions there are."""
    distinct = func.count(SESSIONS.c.namespace.distinct())
    return int(connection.execute(select(distinct).where(*choice.of_sessions())).scalar_one())


def namespaces(connection: Connection, choice: Choice) -> list[NamespaceRow]:
    """Return a page of the namespaces of the chosen sessions."""
    name = SESSIONS.c.namespace
    count, changed = func.count(), func.max(SESSIONS.c.updated_at)
    orders: dict[str, tuple[ColumnElement[Any], ...]] = {
        "namespace": (name,),
        "sessions": (count, name),
        "changed": (changed, name),
    }
    statement = (
        select(name, count, ReadableDate(changed)).where(*choice.of_sessions()).group_by(name)
    )
    rows = connection.execute(choice.page(statement, orders[choice.sort]))
    return [NamespaceRow(name, count, to_utc(changed)) for name, count, changed in rows]


def leases(connection: Connection, visible: str | None = None) -> list[tuple[str, str, int, int]]:
    """Return the key of each server, how often it has renewed its lease, and that lease's seconds.

    In the order of their keys.
    """
    columns = SERVERS.c
    statement = (
        select(columns.namespace, columns.server_id, columns.renewals, columns.lease_seconds)
        .where(*Choice(visible=visible).of_servers())
        .order_by(columns.namespace, columns.server_id)
    )
    return [tuple(row) for row in connection.execute(statement)]
