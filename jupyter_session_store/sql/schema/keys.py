"""The keys and indexes that a database lacks although its tables and columns are there.

A copy that was made by hand (``CREATE TABLE ... AS SELECT``) has none, and works until two
sessions take one path. No start looks for them: it takes some statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, PrimaryKeyConstraint, Table, UniqueConstraint, inspect
from sqlalchemy.engine import Inspector
from sqlalchemy.schema import AddConstraint, CreateIndex, ExecutableDDLElement

from ..engine.backend import backend_of
from ..tables import METADATA


@dataclass(frozen=True)
class Lack:
    """A key or an index that is not there, and the statement that makes it."""

    text: str
    cure: str
    #: Whether it is needed for more than speed.
    is_key: bool


def lacking(connection: Connection) -> list[Lack]:
    """Return what a database at this code's revision lacks; names do not matter."""
    inspector = inspect(connection)
    return [
        lack for table in METADATA.sorted_tables for lack in _lacking(table, inspector, connection)
    ]


def _lacking(table: Table, inspector: Inspector, connection: Connection) -> Iterator[Lack]:
    indexes: list[Any] = [one for one in inspector.get_indexes(table.name) if not _is_partial(one)]
    unique: list[list[str]] = [
        inspector.get_pk_constraint(table.name)["constrained_columns"],
        *(one["column_names"] for one in inspector.get_unique_constraints(table.name)),
        *(one["column_names"] for one in indexes if one["unique"]),
    ]
    present = [*unique, *(one["column_names"] for one in indexes)]
    for key in sorted(table.constraints, key=lambda one: str(one.name)):
        if not isinstance(key, (PrimaryKeyConstraint, UniqueConstraint)):
            continue
        names = key.columns.keys()
        if not any(set(names) == set(found) for found in unique):
            kind = "primary key" if isinstance(key, PrimaryKeyConstraint) else "unique key"
            yield Lack(_describe(kind, table, names), _addition(key, connection), is_key=True)
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        names = index.columns.keys()
        if not any(names == found[: len(names)] for found in present):
            made = _compiled(CreateIndex(index), connection)
            yield Lack(_describe("index", table, names), made, is_key=False)


def _is_partial(index: Any) -> bool:
    """Return whether an index has not all rows, as PostgreSQL and SQLite can make one."""
    return any(name.endswith("_where") for name in index.get("dialect_options", {}))


def _describe(kind: str, table: Table, columns: list[str]) -> str:
    return f"the {kind} of {table.name} ({', '.join(columns)})"


def _addition(key: PrimaryKeyConstraint | UniqueConstraint, connection: Connection) -> str:
    if backend_of(connection).is_embedded:
        # SQLite adds no constraint to a table that is there.
        columns = ", ".join(key.columns.keys())
        return f"CREATE UNIQUE INDEX {key.name} ON {key.table.name} ({columns});"
    # Else no table would be made with it any more.
    return _compiled(AddConstraint(key, isolate_from_table=False), connection)


def _compiled(statement: ExecutableDDLElement, connection: Connection) -> str:
    return " ".join(str(statement.compile(dialect=connection.dialect)).split()) + ";"
