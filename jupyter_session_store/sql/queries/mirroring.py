"""The unit of work that makes the rows of a scope equal to what its one server has in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, insert, literal, update
from sqlalchemy.exc import DataError, IntegrityError

from ...errors import InvalidValue, SessionConflict, SessionStoreError
from ...records import Mirrored, Scope, SessionRecord
from ..engine.transactions import transaction
from ..engine.url import reason_of
from ..tables import SESSIONS
from . import session_queries
from .compiled import CompiledStatement
from .rows import to_row

#: Sessions that one statement names, two parameters for each of their columns: SQLite before
#: 3.32 takes 999.
_BATCH: Final = 30
_SCOPE: Final = frozenset({"namespace", "authority"})
_KEY: Final = _SCOPE | {"session_id"}
_NO_CLAIM: Final = MappingProxyType({"claim": None})
#: The whole row, so that nothing stays of what somebody has changed by hand.
_OVERWRITE: Final = CompiledStatement(
    update(SESSIONS)
    .where(
        session_queries.IN_SCOPE,
        session_queries.THIS,
        SESSIONS.c.version == bindparam("was_version"),
    )
    .values(
        {key: bindparam(f"new_{key}") for key, _ in SESSIONS.columns.items() if key not in _SCOPE}
    )
)


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
        for name, one in stored.items():
            if one.claim not in (None, records[name].claim):
                # Another session may take it.
                stored[name] = session_queries.change(connection, scope, name, _NO_CLAIM) or one
    for record in records.values():
        try:
            stored = _mirror_one(connection, scope, stored, record)
        except DataError as error:
            reason = reason_of(error, connection.engine.url)
            refused[record.session_id] = InvalidValue(
                "value", f"was refused by the database ({reason})", "storable text"
            )
        except IntegrityError:
            refused[record.session_id] = SessionConflict(record.session_id)
    return Mirrored(stored, refused)


def _mirror_one(
    connection: Connection, scope: Scope, stored: dict[str, SessionRecord], record: SessionRecord
) -> dict[str, SessionRecord]:
    """Make one session equal, without the claim to its path if that is not to be had."""

    def unit(values: Mapping[str, Any]) -> dict[str, SessionRecord]:
        wanted = record.replace(**values)
        with transaction(connection):
            return _make_equal(connection, scope, {**stored, record.session_id: wanted})

    return session_queries.claim_if_free(unit, {"claim": record.claim})


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
    stored: dict[str, SessionRecord] = {}
    changed: list[SessionRecord] = []
    for session_id, record in records.items():
        before = found.get(session_id)
        if before is None:
            stored[session_id] = record
        elif record.says_the_same(before):
            stored[session_id] = before
        else:
            stored[session_id] = newer_than(before.version, record)
            changed.append(stored[session_id])
    if any(one.claim != found[one.session_id].claim for one in changed):
        # One session may take what another gives up.
        for one in changed:
            session_queries.change(connection, scope, one.session_id, _NO_CLAIM)
    change(connection, scope, changed)
    if added := [to_row(one) for one in stored.values() if one.session_id not in found]:
        connection.execute(insert(SESSIONS), added)
    return stored


def try_overwrite(connection: Connection, before: SessionRecord, after: SessionRecord) -> bool:
    """Write a whole row in one statement, if it has the version of `before`; return whether."""
    parameters = {f"new_{name}": value for name, value in to_row(after).items()}
    for name in _SCOPE:
        del parameters[f"new_{name}"]
    parameters["was_version"] = before.version
    this = session_queries.scoped(before.scope, this_id=before.session_id, **parameters)
    try:
        return _OVERWRITE.execute(connection, this) == 1
    except IntegrityError:
        return False


def newer_than(version: int, record: SessionRecord) -> SessionRecord:
    """Return a record with a version that is above the store's."""
    return record.replace(version=max(version + 1, record.version))


def change(connection: Connection, scope: Scope, records: Sequence[SessionRecord]) -> int:
    """Write whole rows that are there, in one statement for many; return how many were."""
    count = 0
    for start in range(0, len(records), _BATCH):
        rows = [to_row(one) for one in records[start : start + _BATCH]]
        values: dict[str, Any] = {
            key: case(
                {row["session_id"]: literal(row[key], column.type) for row in rows},
                value=SESSIONS.c.session_id,
            )
            for key, column in SESSIONS.columns.items()
            if key not in _KEY
        }
        ids = [row["session_id"] for row in rows]
        statement = (
            update(SESSIONS)
            .where(session_queries.IN_SCOPE, SESSIONS.c.session_id.in_(ids))
            .values(values)
        )
        count += connection.execute(statement, session_queries.scoped(scope)).rowcount
    return count


def try_change(connection: Connection, scope: Scope, records: Sequence[SessionRecord]) -> bool:
    """Write whole rows that are there, in one statement; return whether that was all."""
    if len(records) > _BATCH:
        return False
    try:
        return change(connection, scope, records) == len(records)
    except (DataError, IntegrityError):
        return False
