"""The units of work on servers: registering, renewing, evicting, departing.

A renewal is two statements. An eviction is a transaction of several, which is
made once in a server's death. Each grows with the servers and sessions of a namespace,
and no faster: a row is looked up by its key, and many go in one statement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.exc import DataError, IntegrityError

from ...authorities import authority_of
from ...records import CLOSING, READY, STARTING, Departure, Scope, ServerRecord, SessionRecord
from ..engine.backend import backend_of
from ..engine.transactions import transaction
from ..tables import SERVERS, SESSIONS, to_utc
from . import session_queries
from .authorities import AUTHORITATIVE_SERVER, LOCAL, UNKNOWN_AUTHORITY
from .rows import COLUMNS, check_columns, readable, to_record

T = TypeVar("T")

#: Servers that one statement names, three parameters each: SQLite before 3.32 takes 999.
_BATCH: Final = 300
_FIELDS: Final = tuple(field.name for field in fields(ServerRecord))
check_columns(ServerRecord, _FIELDS, SERVERS, set())
_THIS: Final = and_(
    SERVERS.c.namespace == bindparam("in_namespace"), SERVERS.c.server_id == bindparam("this_id")
)
_COUNT: Final = update(SERVERS).where(_THIS).values(renewals=SERVERS.c.renewals + bindparam("step"))
_RENEW: Final = update(SERVERS).where(_THIS).values(renewals=SERVERS.c.renewals + 1)
_ALL: Final = SERVERS.c.namespace == bindparam("in_namespace")
_LIST: Final = select(*readable(SERVERS)).where(_ALL)
_SOME: Final = _LIST.where(SERVERS.c.server_id.in_(bindparam("ids", expanding=True)))
#: What a renewal reads of each server, each time.
_LEASES: Final = select(SERVERS.c.server_id, SERVERS.c.renewals, SERVERS.c.lease_seconds).where(
    _ALL
)
_OWN_SESSIONS: Final = select(SESSIONS.c.session_id, SESSIONS.c.version, null()).where(
    session_queries.IN_SCOPE
)
_LEASES_AND_OWN_SESSIONS: Final = union_all(_LEASES, _OWN_SESSIONS)
_IS_SESSION: Final = or_(SESSIONS.c.state != STARTING, SESSIONS.c.path.is_not(None))
_IS_UNFINISHED: Final = and_(
    SESSIONS.c.server_id == bindparam("this_id"), SESSIONS.c.state.in_([STARTING, CLOSING])
)


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, literal_column("1"))))


_NUMBERS_OF_SESSIONS: Final = (
    select(null(), _number(_IS_SESSION), null(), _number(_IS_UNFINISHED))
    .select_from(SESSIONS)
    .where(session_queries.IN_SCOPE)
)
_LEASES_AND_NUMBERS_OF_SESSIONS: Final = union_all(
    _LEASES.add_columns(null()), _NUMBERS_OF_SESSIONS
)
_LEFT_UNFINISHED: Final = exists(
    select(literal(1)).where(SESSIONS.c.namespace == bindparam("in_namespace"), _IS_UNFINISHED)
)
_UNREGISTER: Final = delete(SERVERS).where(_THIS)
_DEPART: Final = _UNREGISTER.where(not_(_LEFT_UNFINISHED))


def _this(server: ServerRecord) -> dict[str, Any]:
    return {"in_namespace": server.namespace, "this_id": server.server_id}


def register(connection: Connection, server: ServerRecord) -> None:
    """Register a server; one that is registered already is renewed."""
    if connection.execute(_RENEW, _this(server)).rowcount:
        return
    try:
        connection.execute(insert(SERVERS), asdict(server))
    except IntegrityError:
        # Another manager over the same kernels was first.
        connection.execute(_RENEW, _this(server))


def renew(
    connection: Connection,
    server: ServerRecord,
    held: Collection[SessionRecord],
    neighbours: Neighbours,
) -> list[ServerRecord]:
    """Renew a lease and read all of the namespace; bring an evicted server back.

    The same statement reads the versions of the sessions on the server's own kernels, or how
    many sessions it shares with others.
    """
    if not connection.execute(_RENEW, _this(server)).rowcount:
        # Before, so that a renewal that is repeated half way puts back the rest; and after,
        # because an eviction at the same time removes the sessions of unregistered servers.
        for record in held:
            _put_back(connection, record)
        register(connection, server)
        for record in held:
            _put_back(connection, record)
    return neighbours.read(connection, server)


class Neighbours:
    """The servers of a namespace, as each renewal reads them, and the renewing one's own sessions.

    Of each server it reads how far it has counted, and the rest once: that does not change.

    Attributes
    ----------
    shared : Scope or None
        The sessions on kernels that other servers use too, which are counted.
    number_of_sessions : int or None
        How many there are, or how many of the server's own; ``None`` before they were counted.
    unfinished : int or None
        How many of the shared ones the renewing server is starting or closing.
    """

    def __init__(self) -> None:
        self.shared: Scope | None = None
        self.number_of_sessions: int | None = None
        self.unfinished: int | None = None
        self._known: dict[str, dict[str, ServerRecord]] = {}
        self._own_versions: tuple[Scope, dict[str, int]] | None = None

    def read(self, connection: Connection, server: ServerRecord) -> list[ServerRecord]:
        """Return them: one statement, and one more for each batch of new ones."""
        namespace = server.namespace
        ours = {"in_namespace": namespace}
        known = self._known.get(namespace)
        if known is None:
            found = {one.server_id: one for one in _servers(connection, _LIST, ours)}
            if self.shared is not None:
                shared = session_queries.scoped(self.shared, this_id=server.server_id)
                self._note_numbers(*connection.execute(_NUMBERS_OF_SESSIONS, shared).one())
        else:
            rows = self._read_leases_and_sessions(connection, server)
            same = {one.server_id: one.lease_seconds for one in known.values()}
            new = [one.server_id for one in rows if same.get(one.server_id) != one.lease_seconds]
            found = {
                one.server_id: replace(known[one.server_id], renewals=one.renewals)
                for one in rows
                if same.get(one.server_id) == one.lease_seconds
            }
            for ids in batches(new):
                servers = _servers(connection, _SOME, {**ours, "ids": ids})
                found.update((one.server_id, one) for one in servers)
        self._known[namespace] = found
        return list(found.values())

    def _read_leases_and_sessions(
        self, connection: Connection, server: ServerRecord
    ) -> list[Row[Any]]:
        """Return the leases; remember what the same statement says of sessions."""
        if self.shared is not None:
            statement, scope = _LEASES_AND_NUMBERS_OF_SESSIONS, self.shared
        else:
            scope = Scope(server.namespace, authority_of(server.server_id))
            statement = _LEASES_AND_OWN_SESSIONS
        values = session_queries.scoped(scope, this_id=server.server_id)
        rows = connection.execute(statement, values).all()
        of_sessions = [row for row in rows if row[2] is None]
        if self.shared is not None:
            self._note_numbers(*of_sessions[0])
        else:
            self.number_of_sessions = len(of_sessions)
            self._own_versions = (scope, {row[0]: row[1] for row in of_sessions})
        return [row for row in rows if row[2] is not None]

    def _note_numbers(self, _: None, sessions: int, __: None, unfinished: int) -> None:
        self.number_of_sessions, self.unfinished = sessions, unfinished

    def own_versions(self, scope: Scope) -> dict[str, int] | None:
        """Return the versions of a server's own sessions, as the last renewal has found them.

        They are told once: what was found is old by the next time. From any thread.
        """
        own, self._own_versions = self._own_versions, None
        return None if own is None or own[0] != scope else own[1]


def _servers(
    connection: Connection, statement: Select[Any], values: Mapping[str, Any]
) -> list[ServerRecord]:
    return [to_server(row) for row in connection.execute(statement, values).mappings()]


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield lists of as many servers as one statement names."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def to_server(row: Mapping[Any, Any]) -> ServerRecord:
    """Turn a row of the servers' table, its dates readable, into a record."""
    values = {name: row[name] for name in _FIELDS}
    return ServerRecord(**{**values, "started_at": to_utc(values["started_at"])})


def _put_back(connection: Connection, record: SessionRecord) -> None:
    # What the database cannot store keeps no server from coming back; its mirror tells of it.
    with suppress(DataError):
        if session_queries.add(connection, record) is session_queries.Added.PATH_CLAIMED:
            session_queries.add(connection, record.replace(claim=None))


def no_registered_server(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that no server of a session's namespace meets all `conditions`."""
    registered = select(literal(1)).where(SERVERS.c.namespace == SESSIONS.c.namespace, *conditions)
    return not_(exists(registered.correlate(SESSIONS)))


_IN_NAMESPACE: Final = SESSIONS.c.namespace == bindparam("in_namespace")
#: The server that wrote a session.
IS_OWNER: Final = SERVERS.c.server_id == SESSIONS.c.server_id
#: Not as :func:`no_registered_server` has it: this is one look-up for each session on each
#: database, in a table of keys that PostgreSQL makes first, even if it knows nothing of the sizes.
_REGISTERED: Final = select(SERVERS.c.server_id).where(_ALL)
_OWNER_GONE: Final = and_(
    _IN_NAMESPACE,
    not_(LOCAL),
    or_(SESSIONS.c.server_id.is_(None), SESSIONS.c.server_id.not_in(_REGISTERED)),
)
_REMOVE_LOCAL: Final = delete(SESSIONS).where(
    _IN_NAMESPACE, LOCAL, AUTHORITATIVE_SERVER.not_in(_REGISTERED)
)
_REOPEN: Final = (
    update(SESSIONS)
    .where(_OWNER_GONE, SESSIONS.c.state == CLOSING)
    .values(state=READY, **session_queries.CHANGED)
)
_REMOVE_UNSTARTED: Final = delete(SESSIONS).where(
    _OWNER_GONE, SESSIONS.c.state == STARTING, SESSIONS.c.kernel_id.is_(None)
)
_TAKE_OVER: Final = (
    update(SESSIONS)
    .where(session_queries.IN_SCOPE, _OWNER_GONE, SESSIONS.c.state == STARTING)
    .values(server_id=bindparam("new_server"), **session_queries.CHANGED)
)
_UNFINISHED_BY: Final = select(*COLUMNS).where(session_queries.IN_SCOPE, _IS_UNFINISHED)


def evict(
    connection: Connection, scope: Scope, servers: Collection[ServerRecord], by: str
) -> tuple[int, list[SessionRecord]]:
    """Evict servers, and release what unregistered ones left; say how many were evicted."""
    ours = {"in_namespace": scope.namespace}
    with transaction(connection):
        evicted = _evict(connection, servers)
        for statement in (_REMOVE_LOCAL, _REOPEN, _REMOVE_UNSTARTED):
            connection.execute(statement, ours)
        connection.execute(_TAKE_OVER, session_queries.scoped(scope, new_server=by))
        # With those that were taken over by the same statements, whose commit was not answered.
        rows = connection.execute(_UNFINISHED_BY, session_queries.scoped(scope, this_id=by)).all()
    return evicted, [to_record(row) for row in rows]


#: The ids once more: by them alone each database finds the rows by their key.
_EVICT: Final = delete(SERVERS).where(
    _ALL,
    SERVERS.c.server_id.in_(bindparam("ids", expanding=True)),
    tuple_(SERVERS.c.server_id, SERVERS.c.renewals).in_(bindparam("seen", expanding=True)),
)


def _evict(connection: Connection, servers: Collection[ServerRecord]) -> int:
    """Remove the registrations of servers, of each only if it has not renewed since it was seen."""
    evicted = 0
    by_key = sorted(servers, key=attrgetter("key"))
    for namespace, group in groupby(by_key, key=attrgetter("namespace")):
        for batch in batches(group):
            values = {
                "in_namespace": namespace,
                "ids": [server.server_id for server in batch],
                "seen": [(server.server_id, server.renewals) for server in batch],
            }
            evicted += connection.execute(_EVICT, values).rowcount
    return evicted


def evict_without_takeover(
    connection: Connection, namespace: str, servers: Collection[ServerRecord]
) -> int:
    """Evict servers for an operator: the living servers take over what those were starting.

    Says how many were evicted: not those that have renewed since they were seen.
    """
    with transaction(connection):
        evicted = _evict(connection, servers)
        connection.execute(_REOPEN, {"in_namespace": namespace})
    return evicted


_WITH_UNKNOWN_AUTHORITY: Final = select(SESSIONS.c.session_id).where(
    _IN_NAMESPACE, UNKNOWN_AUTHORITY
)


def with_unknown_authority(connection: Connection, scope: Scope) -> list[str]:
    """Return the sessions of a namespace whose authority no server would have written."""
    rows = connection.execute(_WITH_UNKNOWN_AUTHORITY, {"in_namespace": scope.namespace})
    return [str(row[0]) for row in rows]


def unregister(connection: Connection, server: ServerRecord) -> int:
    """Remove the registration of a server, and return whether it was there."""
    return connection.execute(_UNREGISTER, _this(server)).rowcount


def try_write(connection: Connection, server: ServerRecord) -> None:
    """Write the row of a server as a renewal does, commit it, and leave it as it was.

    A read alone does not show that writes fail. It waits for a lock no longer than a server
    does. Any server will do; it may have gone meanwhile.
    """
    with transaction(connection):
        if limit := backend_of(connection).lock_wait_limit:
            connection.exec_driver_sql(limit)
        # Where nothing is changed, MySQL and SQLite write nothing, and do not notice that the
        # disk is full. The two are one transaction: no other connection sees what is between.
        for step in (1, -1):
            connection.execute(_COUNT, {**_this(server), "step": step})


def depart(connection: Connection, departure: Departure) -> int:
    """Remove the sessions whose kernels do not run on, and the server if none does."""
    scope, running = departure.scope, departure.running
    count = 0
    if running is not None:
        statement = delete(SESSIONS).where(
            session_queries.IN_SCOPE,
            or_(SESSIONS.c.kernel_id.is_(None), SESSIONS.c.kernel_id.not_in(list(running))),
        )
        count = connection.execute(statement, session_queries.scoped(scope)).rowcount
    if not running:
        this = {"in_namespace": scope.namespace, "this_id": departure.server_id}
        connection.execute(_DEPART, this)
    return count
