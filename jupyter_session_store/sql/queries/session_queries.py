"""The units of work: each takes a connection that commits by itself, and blocks.

Each is one statement wherever it can be. The exceptions: an insert that is
refused asks why; an update to a claimed path is made again without the claim;
where a database has no ``UPDATE ... RETURNING`` (MySQL, MariaDB, SQLite before
3.35), the row is read by a statement of its own.

Each may be repeated: every write carries its session's id and finds the row
either as it was or as it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone
from enum import Enum, auto
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, TypeVar
from uuid import uuid4

from sqlalchemy import (
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    tuple_,
)
from sqlalchemy import update as update_statement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from ...errors import SessionConflict
from ...paths import path_digest
from ...records import STARTING, Scope, SessionRecord
from ..engine.backend import backend_of
from ..engine.transactions import transaction
from ..tables import SESSIONS
from .compiled import CompiledStatement
from .rows import COLUMNS, SCOPED_COLUMNS, to_record, to_records, to_row

T = TypeVar("T")

_BATCH: Final = 500
#: Characters.
_TEST_SIZE: Final = 16_384
_ANYTHING: Final[Mapping[str, str | int]] = MappingProxyType({})

#: Parameters of a WHERE clause have a prefix: in an UPDATE the plain names are the new values.
IN_SCOPE: Final = and_(
    SESSIONS.c.namespace == bindparam("in_namespace"),
    SESSIONS.c.authority == bindparam("in_authority"),
)
#: What every change of a row sets beside what it changes.
CHANGED: Final[Mapping[str, ColumnElement[Any]]] = MappingProxyType(
    {"version": SESSIONS.c.version + 1}
)
#: The session that a statement is about, within a scope.
THIS: Final = SESSIONS.c.session_id == bindparam("this_id")


class Added(Enum):
    """What became of an insert."""

    DONE = auto()
    ID_TAKEN = auto()
    PATH_CLAIMED = auto()


def scoped(scope: Scope, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of :data:`IN_SCOPE`, and more."""
    return {"in_namespace": scope.namespace, "in_authority": scope.authority, **parameters}


@lru_cache(maxsize=64)
def _find(names: tuple[str, ...]) -> Select[Any]:
    conditions: list[ColumnElement[bool]] = [IN_SCOPE]
    for name in names:
        column = "path_digest" if name == "path" else name
        conditions.append(SESSIONS.c[column] == bindparam(f"is_{name}"))
    return (
        select(*SCOPED_COLUMNS)
        .where(*conditions)
        .order_by(SESSIONS.c.created_at, SESSIONS.c.session_id)
    )


def find(
    connection: Connection, scope: Scope, criteria: Mapping[str, str | None]
) -> list[SessionRecord]:
    """Read sessions; a path is compared by its digest, which is exact everywhere."""
    parameters = {
        f"is_{name}": path_digest(value) if name == "path" else value
        for name, value in criteria.items()
    }
    rows = connection.execute(_find(tuple(criteria)), scoped(scope, **parameters))
    return to_records(scope, rows.all())


_INSERT: Final = CompiledStatement(insert(SESSIONS))
_RIVALS: Final = select(*COLUMNS).where(
    SESSIONS.c.namespace == bindparam("in_namespace"),
    or_(THIS, SESSIONS.c.claim == bindparam("is_claim")),
)


def try_write(connection: Connection, scope: Scope, server_id: str) -> None:
    """Write and remove a row in one transaction, to see whether sessions can be written.

    It has no path and no kernel, and is as large as the largest rows of sessions.
    """
    now = datetime.now(timezone.utc)
    record = SessionRecord(
        namespace=scope.namespace,
        authority=scope.authority,
        session_id=f"write-test-{uuid4()}",
        path=None,
        name=None,
        type=None,
        kernel_id=None,
        kernel_name=None,
        kernel_model="x" * _TEST_SIZE,
        server_id=server_id,
        state=STARTING,
        claim=None,
        created_at=now,
        updated_at=now,
    )
    with transaction(connection):
        if limit := backend_of(connection).lock_wait_limit:
            connection.exec_driver_sql(limit)
        _INSERT.execute(connection, to_row(record))
        connection.execute(
            delete(SESSIONS).where(IN_SCOPE, THIS), scoped(scope, this_id=record.session_id)
        )


def add(connection: Connection, record: SessionRecord) -> Added:
    """Insert a session; one that is there already, with the same kernel, is a success."""
    try:
        _INSERT.execute(connection, to_row(record))
    except IntegrityError:
        parameters = {
            "in_namespace": record.namespace,
            "this_id": record.session_id,
            "is_claim": record.claim,
        }
        rivals = [to_record(row) for row in connection.execute(_RIVALS, parameters).all()]
        for rival in rivals:
            if rival.session_id == record.session_id:
                return Added.DONE if rival.is_repeated_by(record) else Added.ID_TAKEN
        return Added.PATH_CLAIMED
    return Added.DONE


@lru_cache(maxsize=64)
def _update(names: tuple[str, ...], expected: tuple[str, ...], returning: bool) -> Update:
    statement = (
        update_statement(SESSIONS)
        .where(IN_SCOPE, THIS, *(SESSIONS.c[name] == bindparam(f"was_{name}") for name in expected))
        .values({**CHANGED, **{name: bindparam(f"new_{name}") for name in names}})
    )
    return statement.returning(*COLUMNS) if returning else statement


def update(
    connection: Connection,
    scope: Scope,
    session_id: str,
    values: Mapping[str, Any],
    expected: Mapping[str, str | int] = _ANYTHING,
) -> SessionRecord | None:
    """Update a session; without the claim to its new path if another holds that."""
    try:
        return claim_if_free(
            lambda new: change(connection, scope, session_id, new, expected), values
        )
    except IntegrityError:
        raise SessionConflict(str(values.get("session_id"))) from None


def claim_if_free(unit: Callable[[Mapping[str, Any]], T], values: Mapping[str, Any]) -> T:
    """Store values by a unit of work; without the claim if another session holds that."""
    try:
        return unit(values)
    except IntegrityError:
        if values.get("claim") is None:
            raise
    return unit({**values, "claim": None})


def change(
    connection: Connection,
    scope: Scope,
    session_id: str,
    values: Mapping[str, Any],
    expected: Mapping[str, str | int] = _ANYTHING,
) -> SessionRecord | None:
    """Update a session as `values` say, its version too if they name it, if it is as `expected`."""
    returning = connection.dialect.update_returning
    parameters = {f"new_{name}": value for name, value in values.items()}
    parameters |= {f"was_{name}": value for name, value in expected.items()}
    result = connection.execute(
        _update(tuple(values), tuple(expected), returning),
        scoped(scope, this_id=session_id, **parameters),
    )
    if returning:
        row = result.first()
        return None if row is None else to_record(row)
    if not result.rowcount:
        return None
    found = find(connection, scope, {"session_id": values.get("session_id", session_id)})
    return found[0] if found else None


_REMOVE: Final = CompiledStatement(
    delete(SESSIONS).where(IN_SCOPE, THIS, SESSIONS.c.kernel_id == bindparam("is_kernel_id"))
)
_REMOVE_WITHOUT_KERNEL: Final = CompiledStatement(
    delete(SESSIONS).where(IN_SCOPE, THIS, SESSIONS.c.kernel_id.is_(None))
)

_REMOVE_MANY: Final = delete(SESSIONS).where(
    IN_SCOPE,
    tuple_(SESSIONS.c.session_id, SESSIONS.c.kernel_id).in_(bindparam("pairs", expanding=True)),
)


def remove(connection: Connection, scope: Scope, records: Collection[SessionRecord]) -> int:
    """Delete sessions that still have the kernel that their record names."""
    single = [record for record in records if record.kernel_id is None or len(records) == 1]
    pairs = [(r.session_id, r.kernel_id) for r in records if r not in single]
    count = 0
    for record in single:
        this = scoped(scope, this_id=record.session_id)
        if record.kernel_id is None:
            count += _REMOVE_WITHOUT_KERNEL.execute(connection, this)
        else:
            count += _REMOVE.execute(connection, {**this, "is_kernel_id": record.kernel_id})
    rest = iter(pairs)
    while batch := list(islice(rest, _BATCH)):
        count += connection.execute(_REMOVE_MANY, scoped(scope, pairs=batch)).rowcount
    return count
