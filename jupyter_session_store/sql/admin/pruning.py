"""Removing sessions that are not needed, of all namespaces, for operators.

In many short statements, each of which commits by itself: a server that waits for
the locks of one waits a fraction of a second. Each carries its conditions anew, so
that a session stays that was written meanwhile, or whose server came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import filterfalse, groupby, islice
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, delete, not_, or_, select

from ...authorities import authority_kind, server_of
from ...records import STARTING, ServerRecord, SessionRecord
from ..queries import leases
from ..queries.authorities import IS_AUTHORITY, LOCAL, SHARED, UNKNOWN_AUTHORITY
from ..queries.leases import IS_OWNER, no_registered_server
from ..queries.rows import COLUMNS, to_record
from ..tables import SESSIONS
from . import listing
from .admin_connection import retry_if_rolled_back

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
_UNSTARTED: Final = and_(not_(LOCAL), SESSIONS.c.state == STARTING, SESSIONS.c.kernel_id.is_(None))
_LEFT_BY_SERVERS: Final = or_(
    and_(LOCAL, no_registered_server(IS_AUTHORITY)),
    and_(_UNSTARTED, no_registered_server(IS_OWNER)),
)
#: Any server of their namespace answers for sessions on kernels that several servers use.
_UNATTENDED: Final = or_(
    and_(SHARED, no_registered_server()),
    and_(LOCAL, no_registered_server(IS_AUTHORITY)),
    UNKNOWN_AUTHORITY,
)
_VACANT: Final = no_registered_server()
#: What its server has in memory, and would write back, is never removed.
_NOT_ON_OWN_KERNELS: Final = or_(not_(LOCAL), no_registered_server(IS_AUTHORITY))


class Candidate(NamedTuple):
    """What is read of a session to tell whether it is to go."""

    namespace: str
    session_id: str
    authority: str
    state: str
    kernel_id: str | None
    server_id: str | None


R = TypeVar("R", Candidate, SessionRecord)

_CANDIDATE: Final = tuple(SESSIONS.c[name] for name in Candidate._fields)


class Counted(NamedTuple):
    """So many sessions, of so many namespaces."""

    sessions: int
    namespaces: int

    def plus(self, other: Counted) -> Counted:
        """Return the sum; the two are of different namespaces."""
        return Counted(self.sessions + other.sessions, self.namespaces + other.namespaces)


@dataclass(frozen=True)
class Selection:
    """Which sessions are to go: those for which all `criteria` hold.

    A session whose authority is among the `living` servers stays, and a gateway's where any of
    them is of its namespace; with `force`, only what is on kernels of their own stays. With
    `dead_servers`, only what servers left that are not alive: the sessions on kernels of their
    own, and those that they had not begun to start on a gateway. With `vacated`, only while no
    server is registered in their namespace.
    """

    criteria: listing.Criteria
    living: Collection[ServerRecord] = ()
    dead_servers: bool = False
    vacated: bool = False
    force: bool = False

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

        By then each registered server is alive, or not known to be dead. The ids of the
        sessions are named beside these.
        """
        found = replace(self.criteria, session_ids=None).conditions()
        if self.dead_servers:
            found.append(_LEFT_BY_SERVERS)
        elif self.force:
            found.append(_NOT_ON_OWN_KERNELS)
        elif not self.vacated:
            found.append(_UNATTENDED)
        if self.vacated:
            found.append(_VACANT)
        return found

    def _readable(self) -> list[ColumnElement[bool]]:
        left = [or_(LOCAL, _UNSTARTED)] if self.dead_servers else []
        return [*self.criteria.conditions(), *left]

    def attendance(self) -> Callable[[Candidate | SessionRecord], bool]:
        """Return what says of a session whether it stays for a living server's sake."""
        servers = {server.key for server in self.living}
        namespaces = {namespace for namespace, _ in servers}

        def is_attended(row: Candidate | SessionRecord) -> bool:
            server_id = server_of(row.authority)
            if server_id is None:
                if not self.dead_servers:
                    is_known = authority_kind(row.authority) is not None
                    return is_known and not self.force and row.namespace in namespaces
                server_id = row.server_id
            return (row.namespace, server_id) in servers

        return is_attended

    def _chosen(self, rows: Iterator[R]) -> Iterator[R]:
        return filterfalse(self.attendance(), rows)


def count(connection: Connection, selection: Selection) -> Counted:
    """Return how many sessions are to go."""
    sessions = namespaces = 0
    for _, group in groupby(selection.candidates(connection), key=_namespace):
        namespaces += 1
        sessions += sum(1 for _ in group)
    return Counted(sessions, namespaces)


def evict(connection: Connection, servers: Iterable[ServerRecord]) -> Iterator[int]:
    """Evict servers, a namespace at a time, and yield how many were of each.

    They come in the order of their namespaces. One that has renewed since it was seen stays.
    """
    for namespace, group in groupby(servers, key=_namespace):
        unit = partial(leases.evict_without_takeover, connection, namespace, list(group))
        yield retry_if_rolled_back(connection, unit)


def unregister(connection: Connection, servers: Iterable[ServerRecord]) -> Iterator[int]:
    """Remove the registrations of servers, whether they live or not; else as :func:`evict`."""
    for server in servers:
        yield retry_if_rolled_back(connection, partial(leases.unregister, connection, server))


def remove(connection: Connection, selection: Selection) -> Iterator[Counted]:
    """Remove sessions, and yield after each statement what was removed until then.

    It stops when the caller stops iterating: nothing is left half done.
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
            SESSIONS.c.namespace == name,
            SESSIONS.c.session_id.in_([row.session_id for row in rows]),
        )
        for name, rows in groups
    )
    return connection.execute(delete(SESSIONS).where(or_(*keys), *conditions)).rowcount


def _namespace(one: Candidate | ServerRecord) -> str:
    return one.namespace
