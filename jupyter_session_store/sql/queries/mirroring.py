"""The unit of work that makes the rows of a scope equal to what its one server has in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timezone
from typing import Any, Final

from sqlalchemy import Connection, case, insert, literal, update
from sqlalchemy.exc import DataError, IntegrityError

from ...errors import InvalidValue, SessionConflict, SessionStoreError
from ...records import Mirrored, Scope, SessionRecord
from ..engine.transactions import transaction
from ..engine.url import reason_of
from ..models import SESSIONS
from . import session_queries
from .rows import to_row

#: Sessions that one statement names.
_BATCH: Final = 100
#: What the state of a kernel changes, and nothing else does.
_OF_KERNEL: Final = ("kernel_name", "kernel_model")


def mirror(
    connection: Connection, scope: Scope, wanted: Callable[[], Collection[SessionRecord]]
) -> Mirrored:
    """Add, change and remove what differs, in one transaction.

    If the database refuses any of it, once more in one for each session, so that one
    which cannot be stored is left out alone.
    """
    records = {one.session_id: one for one in wanted()}
    try:
        with transaction(connection):
            stored = _make_equal(connection, scope, records)
    except (DataError, IntegrityError):
        return _mirror_one_by_one(connection, scope, records)
    return Mirrored(stored)


def _mirror_one_by_one(
    connection: Connection, scope: Scope, records: dict[str, SessionRecord]
) -> Mirrored:
    found = {one.session_id: one for one in session_queries.find(connection, scope, {})}
    stored = {name: one for name, one in found.items() if name in records}
    refused: dict[str, SessionStoreError] = {}
    with transaction(connection):
        _remove_others(connection, scope, found, records)
    for session_id, record in records.items():
        only = {name: one for name, one in stored.items() if name != session_id}
        try:
            with transaction(connection):
                stored = _make_equal(connection, scope, {**only, session_id: record})
        except DataError as error:
            reason = reason_of(error, connection.engine.url)
            refused[session_id] = InvalidValue(
                "value", f"was refused by the database ({reason})", "storable text"
            )
        except IntegrityError:
            refused[session_id] = SessionConflict(session_id)
    return Mirrored(stored, refused)


def _remove_others(
    connection: Connection,
    scope: Scope,
    found: dict[str, SessionRecord],
    records: dict[str, SessionRecord],
) -> None:
    others = [one for one in found.values() if one.session_id not in records]
    session_queries.remove(connection, scope, others)


def _make_equal(
    connection: Connection, scope: Scope, records: dict[str, SessionRecord]
) -> dict[str, SessionRecord]:
    """Return the sessions as they are stored then."""
    found = {one.session_id: one for one in session_queries.find(connection, scope, {})}
    _remove_others(connection, scope, found, records)
    now = datetime.now(timezone.utc)
    stored: dict[str, SessionRecord] = {}
    of_kernel: list[SessionRecord] = []
    changed: list[SessionRecord] = []
    for session_id, record in records.items():
        before = found.get(session_id)
        if before is None:
            stored[session_id] = record
        elif record.says_the_same(before):
            stored[session_id] = before
        else:
            version = max(before.version + 1, record.version)
            new = stored[session_id] = record.replace(version=version, updated_at=now)
            same = before.replace(**{name: getattr(new, name) for name in _OF_KERNEL})
            (of_kernel if new.says_the_same(same) else changed).append(new)
    for start in range(0, len(of_kernel), _BATCH):
        _change_kernels(connection, scope, of_kernel[start : start + _BATCH])
    if any(one.claim != found[one.session_id].claim for one in changed):
        # One session may take what another gives up.
        for one in changed:
            session_queries.change(connection, scope, one.session_id, {"claim": None})
    for one in changed:
        session_queries.change(connection, scope, one.session_id, to_row(one))
    if added := [to_row(one) for one in stored.values() if one.session_id not in found]:
        connection.execute(insert(SESSIONS), added)
    return stored


def _change_kernels(connection: Connection, scope: Scope, records: list[SessionRecord]) -> None:
    """Change what is stored of kernels, in one statement."""
    columns = SESSIONS.c
    values: dict[str, Any] = {
        name: case(
            {one.session_id: literal(getattr(one, name), columns[name].type) for one in records},
            value=columns.session_id,
        )
        for name in (*_OF_KERNEL, "version")
    }
    ids = [one.session_id for one in records]
    statement = (
        update(SESSIONS)
        .where(session_queries.IN_SCOPE, columns.session_id.in_(ids))
        .values(**values, updated_at=records[0].updated_at)
    )
    connection.execute(statement, session_queries.scoped(scope))
