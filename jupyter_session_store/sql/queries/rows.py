"""Between a record and a row: fields and columns are matched by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields as dataclass_fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ...paths import path_digest
from ...records import Scope, SessionRecord
from ..engine.backend import backend_of
from ..tables import SESSIONS, UTCDateTime, to_utc

FIELDS: Final = SessionRecord._fields


class ReadableDate(FunctionElement[Any]):
    """A date as its driver gives it, and never one at which the driver fails.

    One row edited by hand would fail a whole list.
    """

    inherit_cache = True


@compiles(ReadableDate)
def _readable(element: ReadableDate, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return backend_of(compiler.dialect).readable_date(column)


def readable(table: Table) -> tuple[ColumnElement[Any], ...]:
    """Return the columns of a table, with dates that can be read."""
    return tuple(
        ReadableDate(column).label(column.name) if isinstance(column.type, UTCDateTime) else column
        for column in table.columns
    )


def dates_in(names: Sequence[str]) -> tuple[int, ...]:
    """Return which of some columns of the sessions' table hold dates."""
    columns = SESSIONS.c
    return tuple(i for i, name in enumerate(names) if isinstance(columns[name].type, UTCDateTime))


def check_columns(record: type, fields: Sequence[str], table: Table, derived: set[str]) -> None:
    """Check, at import, that a record and its table speak of the same.

    The `derived` columns have no field, since they are computed from one.
    """
    if differing := set(fields) ^ (set(table.columns.keys()) - derived):
        raise TypeError(
            f"{record.__name__} and the table {table.name} differ in: "
            f"{', '.join(sorted(differing))}; expected a column of each field, and a field of "
            "each column."
        )


check_columns(SessionRecord, FIELDS, SESSIONS, {"path_digest"})

_BY_NAME: Final = dict(zip(SESSIONS.columns.keys(), readable(SESSIONS), strict=True))
#: The columns of a record, in the order of its fields. Dates are read as the driver gives
#: them: the type's own way to turn them costs more than all else in a long list.
COLUMNS: Final = tuple(_BY_NAME[name] for name in FIELDS)
_DATES: Final = dates_in(FIELDS)
#: The two fields that a scope says, which a record begins with.
_SCOPE: Final = tuple(field.name for field in dataclass_fields(Scope))
assert FIELDS[: len(_SCOPE)] == _SCOPE
#: The same columns without those two.
SCOPED_COLUMNS: Final = COLUMNS[len(_SCOPE) :]


def to_record(row: Iterable[Any]) -> SessionRecord:
    """Turn a row of :data:`COLUMNS` into a record."""
    values = list(row)
    for index in _DATES:
        values[index] = to_utc(values[index])
    return SessionRecord._make(values)


def to_records(scope: Scope, rows: Iterable[Sequence[Any]]) -> list[SessionRecord]:
    """Turn rows of :data:`SCOPED_COLUMNS` into records."""
    namespace, authority = scope.namespace, scope.authority
    records = []
    for row in rows:
        values = [namespace, authority, *row]
        for index in _DATES:
            values[index] = to_utc(values[index])
        records.append(SessionRecord._make(values))
    return records


def to_row(record: SessionRecord) -> dict[str, Any]:
    """Turn a record into the values of a whole row."""
    return {**record._asdict(), "path_digest": path_digest(record.path)}
