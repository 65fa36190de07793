"""The units of work on servers: registering, renewing, evicting, departing.

A renewal is two statements. An eviction is a transaction of several, which is
made once in a server's death.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from ...records import (
    CLOSING,
    GATEWAY_AUTHORITY,
    READY,
    SERVER_AUTHORITY,
    STARTING,
    Departure,
    Scope,
    ServerRecord,
    SessionRecord,
)
from ..engine.transactions import transaction
from ..models import Server, Session, to_utc
from . import session_queries
from .rows import COLUMNS, check_columns, readable, to_record

_SERVERS: Final = cast("Table", Server.__table__)
_SESSIONS: Final = cast("Table", Session.__table__)
_FIELDS: Final = tuple(field.name for field in fields(ServerRecord))
check_columns(ServerRecord, _FIELDS, _SERVERS, set())
_READABLE: Final = readable(_SERVERS)

_THIS: Final = and_(
    _SERVERS.c.namespace == bindparam("in_namespace"), _SERVERS.c.server_id == bindparam("this_id")
)
_INSERT: Final = insert(_SERVERS)
_RENEW: Final = update(_SERVERS).where(_THIS).values(renewals=_SERVERS.c.renewals + 1)
_LIST: Final = select(*_READABLE).where(_SERVERS.c.namespace == bindparam("in_namespace"))
_EVICT: Final = delete(_SERVERS).where(_THIS, _SERVERS.c.renewals == bindparam("seen"))
_LEFT_UNFINISHED: Final = exists(
    select(literal(1)).where(
        _SESSIONS.c.namespace == bindparam("in_namespace"),
        _SESSIONS.c.server_id == bindparam("this_id"),
        _SESSIONS.c.state.in_([STARTING, CLOSING]),
    )
)
_REMOVE: Final = delete(_SERVERS).where(_THIS, not_(_LEFT_UNFINISHED))


def _this(server: ServerRecord) -> dict[str, Any]:
    return {"in_namespace": server.namespace, "this_id": server.server_id}


def register(connection: Connection, server: ServerRecord) -> None:
    """Register a server; one that is registered already is renewed."""
    if connection.execute(_RENEW, _this(server)).rowcount:
        return
    try:
        connection.execute(_INSERT, {name: getattr(server, name) for name in _FIELDS})
    except IntegrityError:
        # Another manager over the same kernels was first.
        connection.execute(_RENEW, _this(server))


def renew(
    connection: Connection, server: ServerRecord, held: Collection[SessionRecord]
) -> list[ServerRecord]:
    """Renew a lease and read all of the namespace; bring an evicted server back."""
    if not connection.execute(_RENEW, _this(server)).rowcount:
        # Before, so that a renewal that is repeated half way puts back the rest; and after,
        # because an eviction at the same time removes the sessions of unregistered servers.
        for record in held:
            _put_back(connection, record)
        register(connection, server)
        for record in held:
            _put_back(connection, record)
    rows = connection.execute(_LIST, {"in_namespace": server.namespace}).mappings()
    return [to_server(row) for row in rows]


def to_server(row: Mapping[Any, Any]) -> ServerRecord:
    """Turn a row of the servers' table, its dates readable, into a record."""
    values = {name: row[name] for name in _FIELDS}
    return ServerRecord(**{**values, "started_at": to_utc(values["started_at"])})


def _put_back(connection: Connection, record: SessionRecord) -> None:
    if session_queries.add(connection, record) is session_queries.Added.PATH_CLAIMED:
        session_queries.add(connection, record.replace(claim=None))


def no_registered_server(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that no server of a session's namespace meets all `conditions`."""
    registered = select(literal(1)).where(
        _SERVERS.c.namespace == _SESSIONS.c.namespace, *conditions
    )
    return not_(exists(registered.correlate(_SESSIONS)))


def authority_begins(authority: str) -> ColumnElement[bool]:
    """Return the condition that a session's authority begins so; SQLite's LIKE ignores case."""
    length: ColumnElement[int] = literal_column(str(len(authority)))
    return func.substr(_SESSIONS.c.authority, literal_column("1"), length) == authority


_IN_NAMESPACE: Final = _SESSIONS.c.namespace == bindparam("in_namespace")
#: Kernels that a server runs itself.
LOCAL: Final = authority_begins(SERVER_AUTHORITY)
#: The server that a session's authority names, and the one that wrote the session.
IS_AUTHORITY: Final = literal(SERVER_AUTHORITY) + _SERVERS.c.server_id == _SESSIONS.c.authority
IS_OWNER: Final = _SERVERS.c.server_id == _SESSIONS.c.server_id
_OWNER_GONE: Final = and_(_IN_NAMESPACE, not_(LOCAL), no_registered_server(IS_OWNER))
_REMOVE_LOCAL: Final = delete(_SESSIONS).where(
    _IN_NAMESPACE, LOCAL, no_registered_server(IS_AUTHORITY)
)
_REOPEN: Final = (
    update(_SESSIONS).where(_OWNER_GONE, _SESSIONS.c.state == CLOSING).values(state=READY)
)
_REMOVE_UNSTARTED: Final = delete(_SESSIONS).where(
    _OWNER_GONE, _SESSIONS.c.state == STARTING, _SESSIONS.c.kernel_id.is_(None)
)
_TAKE_OVER: Final = (
    update(_SESSIONS)
    .where(session_queries.IN_SCOPE, _OWNER_GONE, _SESSIONS.c.state == STARTING)
    .values(server_id=bindparam("new_server"))
)
_STARTED_BY: Final = select(*COLUMNS).where(
    session_queries.IN_SCOPE,
    _SESSIONS.c.state == STARTING,
    _SESSIONS.c.server_id == bindparam("new_server"),
)


def evict(
    connection: Connection, scope: Scope, servers: Collection[ServerRecord], by: str
) -> tuple[int, list[SessionRecord]]:
    """Evict servers, and release what unregistered ones left; say how many were evicted."""
    ours = {"in_namespace": scope.namespace}
    with transaction(connection):
        evicted = 0
        for server in servers:
            seen = {**_this(server), "seen": server.renewals}
            evicted += connection.execute(_EVICT, seen).rowcount
        for statement in (_REMOVE_LOCAL, _REOPEN, _REMOVE_UNSTARTED):
            connection.execute(statement, ours)
        connection.execute(_TAKE_OVER, session_queries.scoped(scope, new_server=by))
        # With those that were taken over by the same statements, whose commit was not answered.
        rows = connection.execute(_STARTED_BY, session_queries.scoped(scope, new_server=by)).all()
    return evicted, [to_record(row) for row in rows]


def evict_without_takeover(
    connection: Connection, namespace: str, servers: Collection[ServerRecord]
) -> int:
    """Evict servers for an operator: the living servers take over what those were starting.

    Parameters
    ----------
    connection : Connection
    namespace : str
    servers : collection of ServerRecord
        Of that namespace, as they were when they were last seen to renew.

    Returns
    -------
    int
        How many were evicted: not those that have renewed since.
    """
    with transaction(connection):
        evicted = sum(
            connection.execute(_EVICT, {**_this(server), "seen": server.renewals}).rowcount
            for server in servers
        )
        connection.execute(_REOPEN, {"in_namespace": namespace})
    return evicted


#: Sessions whose authority no server would have written.
UNKNOWN_AUTHORITY: Final = and_(not_(LOCAL), not_(authority_begins(GATEWAY_AUTHORITY)))
_WITH_UNKNOWN_AUTHORITY: Final = select(_SESSIONS.c.session_id).where(
    _IN_NAMESPACE, UNKNOWN_AUTHORITY
)


def with_unknown_authority(connection: Connection, scope: Scope) -> list[str]:
    """Return the sessions of a namespace whose authority no server would have written."""
    rows = connection.execute(_WITH_UNKNOWN_AUTHORITY, {"in_namespace": scope.namespace})
    return [str(row[0]) for row in rows]


def depart(connection: Connection, departure: Departure) -> int:
    """Remove the sessions whose kernels do not run on, and the server if none does."""
    scope, running = departure.scope, departure.running
    count = 0
    if running is not None:
        statement = delete(_SESSIONS).where(
            session_queries.IN_SCOPE,
            or_(_SESSIONS.c.kernel_id.is_(None), _SESSIONS.c.kernel_id.not_in(list(running))),
        )
        count = connection.execute(statement, session_queries.scoped(scope)).rowcount
    if not running:
        connection.execute(
            _REMOVE, {"in_namespace": scope.namespace, "this_id": departure.server_id}
        )
    return count
