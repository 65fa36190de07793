"""Between a record and a row: one place that knows the columns' order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ...records import Scope, SessionRecord, digest
from ..models import Session, moment

FIELDS: Final = SessionRecord._fields

_TABLE: Final = Session.__table__


class ReadableDate(FunctionElement[Any]):
    """A date as its driver gives it, and never one at which the driver fails.

    psycopg has no value for PostgreSQL's ``infinity`` and years beyond 9999,
    and one row edited by hand would fail a whole list.
    """

    inherit_cache = True


@compiles(ReadableDate)
def _plain(element: ReadableDate, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(ReadableDate, "postgresql")
def _bounded(element: ReadableDate, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"least(greatest({column}, timestamptz '0001-01-03Z'), timestamptz '9999-12-29Z')"


#: The columns of a record, in the order of its fields, which end with the two
#: dates. Those are taken as the driver gives them: the type's own way to turn
#: them costs more than all else in a long list.
COLUMNS: Final = tuple(
    ReadableDate(_TABLE.c[name]).label(name) if name.endswith("_at") else _TABLE.c[name]
    for name in FIELDS
)


#: The same without the two that a scope says.
SCOPED_COLUMNS: Final = COLUMNS[2:]


def to_record(row: Sequence[Any]) -> SessionRecord:
    """Turn a row of :data:`COLUMNS` into a record."""
    return SessionRecord._make((*row[:-2], moment(row[-2]), moment(row[-1])))


def to_records(scope: Scope, rows: Iterable[Sequence[Any]]) -> list[SessionRecord]:
    """Turn rows of :data:`SCOPED_COLUMNS` into records."""
    namespace, authority = scope.namespace, scope.authority
    make = SessionRecord._make
    return [
        make((namespace, authority, *row[:-2], moment(row[-2]), moment(row[-1]))) for row in rows
    ]


def to_row(record: SessionRecord) -> dict[str, Any]:
    """Turn a record into the values of a whole row."""
    values = {name: getattr(record, name) for name in FIELDS}
    values["path_digest"] = path_digest(record.path)
    return values


def path_digest(path: str | None) -> str | None:
    """Return the digest under which a path is looked up, or ``None`` for no path."""
    return None if path is None else digest(path)
