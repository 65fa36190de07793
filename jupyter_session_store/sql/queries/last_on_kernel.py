"""The units of work in which a session leaves its kernel: by being closed, or by moving to another.

The sessions on a kernel are counted by the update itself: it touches this
session and every other one that keeps the kernel alive. So it waits for, and then
sees, the updates of sessions that leave at the same time. Of all sessions that leave,
however concurrently, exactly one is last.

A cluster whose nodes all take writes knows of no other node's locks. When a node
commits, it compares what it has written with what the others have. So there the update
writes the other sessions' rows too, and of two that leave at once on two nodes one is
rolled back, and counts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from ...records import CLOSING, STARTING, Closing, Move, Scope, SessionRecord
from ..engine.backend import backend_of, is_on_cluster_node
from ..engine.transactions import transaction
from ..tables import SESSIONS
from .rows import COLUMNS, to_record
from .session_queries import CHANGED, IN_SCOPE, THIS, change, claim_if_free, find, scoped

_KERNEL: Final[ColumnElement[Any]] = bindparam("is_kernel_id")
#: As :attr:`.SessionRecord.keeps_kernel_alive`.
_KEEPS_KERNEL_ALIVE: Final = and_(
    SESSIONS.c.state != CLOSING,
    or_(SESSIONS.c.state != STARTING, SESSIONS.c.path_digest.is_not(None)),
)
_this_session = SESSIONS.alias("this_session")
_KERNEL_OF_THIS: Final = (
    select(_this_session.c.kernel_id)
    .where(
        _this_session.c.namespace == bindparam("in_namespace"),
        _this_session.c.session_id == bindparam("this_id"),
    )
    .scalar_subquery()
)
_CLOSING_OR_BESIDE: Final = or_(
    THIS, and_(SESSIONS.c.kernel_id == _KERNEL_OF_THIS, _KEEPS_KERNEL_ALIVE)
)
_MOVING_OR_BESIDE: Final = and_(SESSIONS.c.kernel_id == _KERNEL, or_(THIS, _KEEPS_KERNEL_ALIVE))
_LEAVING_OR_BESIDE: Final = or_(
    and_(THIS, SESSIONS.c.kernel_id.is_not_distinct_from(_KERNEL)),
    and_(SESSIONS.c.kernel_id == _KERNEL, _KEEPS_KERNEL_ALIVE),
)


@lru_cache(maxsize=16)
def _build_update(
    names: tuple[str, ...],
    where: ColumnElement[bool],
    *,
    returning: bool,
    writes_others: bool = False,
) -> Update:
    """Return an update of this session that changes nothing of the others it touches.

    Where it is to write the others too, it sets when they were written last, and no more.

    MySQL may not read the table that it updates, and returns no rows: matched
    rows are counted, and LAST_INSERT_ID(expr) comes back with the count, with the
    new version of this session if that was among them.
    """
    version = SESSIONS.c.version
    counted: ColumnElement[Any] = CHANGED["version"]
    if not returning:
        # Never 0, whatever a hand has written.
        counted = func.last_insert_id(func.greatest(version, 0) + 1)
    values: list[tuple[Any, Any]] = [(version, case((THIS, counted), else_=version))]
    for name in names:
        column = SESSIONS.c[name]
        new: ColumnElement[Any] = bindparam(f"new_{name}", type_=column.type)
        of_all = writes_others and column is SESSIONS.c.updated_at
        values.append((column, new if of_all else case((THIS, new), else_=column)))
    # In this order: MySQL's expressions see what those before them have assigned.
    statement = update(SESSIONS).where(IN_SCOPE, where).ordered_values(*values)
    return statement.returning(*COLUMNS, _KERNEL_OF_THIS) if returning else statement


def _build_leaving(connection: Connection, values: Mapping[str, Any]) -> Update:
    return _build_update(
        _names(values),
        _LEAVING_OR_BESIDE,
        returning=False,
        writes_others=is_on_cluster_node(connection),
    )


def _names(values: Mapping[str, Any]) -> tuple[str, ...]:
    # The id says which session is meant, and so is assigned last.
    return tuple(sorted(values, key=lambda name: (name == "session_id", name)))


def _parameters(scope: Scope, session_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    new = {f"new_{name}": value for name, value in values.items()}
    return scoped(scope, this_id=session_id, **new)


def _run_returning(
    connection: Connection, statement: Update, parameters: Mapping[str, Any], session_id: str
) -> tuple[SessionRecord, bool, str | None] | None:
    """Return the session as it is now, whether it was touched alone, and its kernel before."""
    rows = connection.execute(statement, parameters).all()
    found = [(to_record(row[:-1]), row[-1]) for row in rows]
    this = [both for both in found if both[0].session_id == session_id]
    return (this[0][0], len(found) == 1, this[0][1]) if this else None


def begin_close(
    connection: Connection, scope: Scope, session_id: str, values: Mapping[str, Any]
) -> Closing | None:
    """Mark a session as closing and count the others on its kernel."""
    parameters = _parameters(scope, session_id, values)
    if connection.dialect.update_returning:
        statement = _build_update(_names(values), _CLOSING_OR_BESIDE, returning=True)
        while (found := _run_returning(connection, statement, parameters, session_id)) is not None:
            record, last, counted = found
            # PostgreSQL counts on the kernel that the session was on when the statement began,
            # and marks what a move has made of it meanwhile: once more, on the new one.
            if counted == record.kernel_id:
                return Closing(record, last)
        return None
    if backend_of(connection).begin_excludes_writers:
        left = _leave_in_transaction(connection, scope, session_id, values)
        return None if left is None else Closing(*left)
    statement = _build_leaving(connection, values)
    while True:
        records = find(connection, scope, {"session_id": session_id})
        if not records:
            return None
        (record,) = records
        result = connection.execute(statement, {**parameters, "is_kernel_id": record.kernel_id})
        if result.lastrowid:
            changed = record.replace(**values, version=result.lastrowid)
            return Closing(changed, last=result.rowcount == 1)


def move(
    connection: Connection,
    scope: Scope,
    session_id: str,
    kernel_id: str,
    values: Mapping[str, Any],
) -> Move | None:
    """Move a session away from a kernel and count the others on that."""
    return claim_if_free(partial(_move, connection, scope, session_id, kernel_id), values)


def _move(
    connection: Connection,
    scope: Scope,
    session_id: str,
    kernel_id: str,
    values: Mapping[str, Any],
) -> Move | None:
    parameters = _parameters(scope, session_id, values) | {"is_kernel_id": kernel_id}
    if connection.dialect.update_returning:
        statement = _build_update(_names(values), _MOVING_OR_BESIDE, returning=True)
        returned = _run_returning(connection, statement, parameters, session_id)
        moved = None if returned is None else returned[:2]
    elif backend_of(connection).begin_excludes_writers:
        moved = _leave_in_transaction(connection, scope, session_id, values, kernel_id)
    else:
        result = connection.execute(_build_leaving(connection, values), parameters)
        records = find(connection, scope, {"session_id": session_id})
        done = result.lastrowid and records
        moved = (records[0], result.rowcount == 1) if done else None
    return None if moved is None else Move(*moved)


def _leave_in_transaction(
    connection: Connection,
    scope: Scope,
    session_id: str,
    values: Mapping[str, Any],
    kernel_id: str | None = None,
) -> tuple[SessionRecord, bool] | None:
    """Do it in a transaction, in SQLite before 3.35; nothing if it is not on `kernel_id`."""
    with transaction(connection):
        records = find(connection, scope, {"session_id": session_id})
        if not records or kernel_id not in (None, records[0].kernel_id):
            return None
        left = records[0].kernel_id
        record = change(connection, scope, session_id, values)
        on_kernel = [] if left is None else find(connection, scope, {"kernel_id": left})
    assert record is not None
    others = [r for r in on_kernel if r.keeps_kernel_alive and r.session_id != session_id]
    return record, not others
