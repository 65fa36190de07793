"""Removing sessions that are not needed, of all namespaces, for operators.

In many short statements, each of which commits by itself: a server that waits for
the locks of one waits a fraction of a second. Each carries its conditions anew, so
that a session stays that was written meanwhile, or whose server came back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Final, NamedTuple, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Delete, Table, and_, delete, not_, or_, select

from ...records import GATEWAY_AUTHORITY, SERVER_AUTHORITY, STARTING, ServerRecord, SessionRecord
from ..models import Server, Session
from ..queries.leases import (
    IS_AUTHORITY,
    IS_OWNER,
    LOCAL,
    authority_begins,
    evict_without_takeover,
    no_registered_server,
)
from ..queries.rows import COLUMNS, to_record
from . import listing
from .admin_connection import retry_if_rolled_back

_SERVERS: Final = cast("Table", Server.__table__)
_SESSIONS: Final = cast("Table", Session.__table__)

#: Seconds for which one statement is to hold its locks.
_HOLD: Final = 0.02
#: Rows that the first statement removes, and every other one at least and at most.
_FIRST: Final = 100
_LEAST: Final = 10
#: With the namespaces and the conditions no more than 800 parameters: SQLite before 3.32 takes
#: 999 in a statement.
_MOST: Final = 650
#: Seconds between two statements, at most.
_PAUSE: Final = 0.1
#: A statement names its rows by ranges of the primary key, one a namespace: SQLite
#: parses no more than a thousand of them.
_NAMESPACES: Final = 100

#: Not even started, by a server that is gone.
_UNSTARTED: Final = and_(
    not_(LOCAL), _SESSIONS.c.state == STARTING, _SESSIONS.c.kernel_id.is_(None)
)
_LEFT_BY_SERVERS: Final = or_(
    and_(LOCAL, no_registered_server(IS_AUTHORITY)),
    and_(_UNSTARTED, no_registered_server(IS_OWNER)),
)
#: A gateway's sessions are answered for by any server of their namespace.
_UNATTENDED: Final = no_registered_server(or_(authority_begins(GATEWAY_AUTHORITY), IS_AUTHORITY))
_VACANT: Final = no_registered_server()


class Candidate(NamedTuple):
    """What is read of a session to tell whether it is to go."""

    namespace: str
    session_id: str
    authority: str
    state: str
    kernel_id: str | None
    server_id: str | None


R = TypeVar("R", Candidate, SessionRecord)

_CANDIDATE: Final = tuple(_SESSIONS.c[name] for name in Candidate._fields)


class Counted(NamedTuple):
    """So many sessions, of so many namespaces."""

    sessions: int
    namespaces: int


@dataclass(frozen=True)
class Selection:
    """Which sessions are to go.

    Parameters
    ----------
    criteria : Criteria
        All of these hold for each.
    dead_servers : bool
        Only what servers left that are not alive: the sessions on kernels of
        their own, and those that they had not begun to start on a gateway.
    living : collection of ServerRecord, optional
        The servers that are alive: a session whose authority is alive stays.
        ``None``: any server may be.
    vacated : bool
        Only while no server is registered in their namespace.
    """

    criteria: listing.Criteria
    dead_servers: bool = False
    living: Collection[ServerRecord] | None = None
    vacated: bool = False

    def candidates(self, connection: Connection) -> Iterator[Candidate]:
        """Yield them, in the order of their namespaces and ids."""
        rows = listing.keyset(connection, select(*_CANDIDATE).where(*self._readable()))
        return self._chosen(map(Candidate._make, rows))

    def sessions(self, connection: Connection) -> Iterator[SessionRecord]:
        """Yield them whole."""
        rows = listing.keyset(connection, select(*COLUMNS).where(*self._readable()))
        return self._chosen(map(to_record, rows))

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what has to hold when one is removed, after the dead were evicted.

        By then each registered server is alive, or not known to be dead.
        """
        found = self.criteria.conditions()
        if self.dead_servers:
            found.append(_LEFT_BY_SERVERS)
        elif self.living is not None:
            found.append(_UNATTENDED)
        if self.vacated:
            found.append(_VACANT)
        return found

    def _readable(self) -> list[ColumnElement[bool]]:
        left = [or_(LOCAL, _UNSTARTED)] if self.dead_servers else []
        return [*self.criteria.conditions(), *left]

    def _chosen(self, rows: Iterator[R]) -> Iterator[R]:
        if self.living is None:
            return rows
        servers = {(server.namespace, server.server_id) for server in self.living}
        namespaces = {namespace for namespace, _ in servers}

        def attended(row: R) -> bool:
            namespace, authority = row.namespace, row.authority
            if authority.startswith(SERVER_AUTHORITY):
                return (namespace, authority.removeprefix(SERVER_AUTHORITY)) in servers
            if self.dead_servers:
                return (namespace, row.server_id) in servers
            return authority.startswith(GATEWAY_AUTHORITY) and namespace in namespaces

        return (row for row in rows if not attended(row))


def count(connection: Connection, selection: Selection) -> Counted:
    """Return how many sessions are to go."""
    sessions = namespaces = 0
    for _, group in groupby(selection.candidates(connection), key=_namespace):
        namespaces += 1
        sessions += sum(1 for _ in group)
    return Counted(sessions, namespaces)


def evict(connection: Connection, servers: Iterable[ServerRecord]) -> Iterator[int]:
    """Evict servers, a namespace at a time, and yield how many were of each.

    Parameters
    ----------
    connection : Connection
    servers : iterable of ServerRecord
        In the order of their namespaces, as they were when they were last seen
        to renew: one that has renewed since stays.
    """
    for namespace, group in groupby(servers, key=_namespace):
        yield retry_if_rolled_back(
            connection, partial(evict_without_takeover, connection, namespace, list(group))
        )


def unregister(connection: Connection, servers: Iterable[ServerRecord]) -> Iterator[int]:
    """Remove the registrations of servers, whether they live or not; else as :func:`evict`."""
    for server in servers:
        this = delete(_SERVERS).where(
            _SERVERS.c.namespace == server.namespace, _SERVERS.c.server_id == server.server_id
        )
        yield retry_if_rolled_back(connection, partial(_count, connection, this))


def remove(connection: Connection, selection: Selection) -> Iterator[Counted]:
    """Remove sessions, and yield after each statement what was removed until then.

    It stops when the caller stops iterating: nothing is left half done.

    Parameters
    ----------
    connection : Connection
    selection : Selection
    """
    candidates, conditions = selection.candidates(connection), selection.conditions()
    sessions = namespaces = 0
    last: str | None = None
    size = _FIRST
    while batch := list(islice(candidates, size)):
        groups = [(name, list(group)) for name, group in groupby(batch, key=_namespace)]
        for start in range(0, len(groups), _NAMESPACES):
            part = groups[start : start + _NAMESPACES]
            began = time.monotonic()
            removed = retry_if_rolled_back(
                connection, partial(_delete, connection, part, conditions)
            )
            took = time.monotonic() - began
            if removed:
                sessions += removed
                namespaces += len(part) - (part[0][0] == last)
                last = part[-1][0]
            yield Counted(sessions, namespaces)
            # A process that waits for SQLite's lock looks now and then, and should find it free.
            time.sleep(min(took, _PAUSE))
        size = round(min(max(size * _HOLD / max(took, 1e-9), size / 2, _LEAST), size * 2, _MOST))


def _delete(
    connection: Connection,
    groups: Sequence[tuple[str, list[Candidate]]],
    conditions: Sequence[ColumnElement[bool]],
) -> int:
    keys = (
        and_(
            _SESSIONS.c.namespace == name,
            _SESSIONS.c.session_id.in_([row.session_id for row in rows]),
        )
        for name, rows in groups
    )
    return _count(connection, delete(_SESSIONS).where(or_(*keys), *conditions))


def _count(connection: Connection, statement: Delete) -> int:
    return connection.execute(statement).rowcount


def _namespace(one: Candidate | ServerRecord) -> str:
    return one.namespace
