"""What the package's tables look like, as the database itself describes them."""

from __future__ import annotations

from typing import Final

from jupyter_session_store.sql.tables import METADATA

from ..databases import Database

#: Alembic's own table is left out: it stays after a downgrade, and the model has none.
_OURS: Final = tuple(sorted(METADATA.tables))

_SQLITE: Final = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name IN ({names}) ORDER BY 2"
_POSTGRESQL: Final = (
    """
    SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
        (SELECT collname FROM pg_collation WHERE oid = attcollation), attnotnull, atthasdef
    FROM pg_attribute
    WHERE attrelid::regclass::text IN ({names}) AND attnum > 0 AND NOT attisdropped
    ORDER BY 1, attnum
    """,
    "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ({names}) ORDER BY 1",
    """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid::regclass::text IN ({names}) ORDER BY 1
    """,
)
_MYSQL: Final = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = database() AND table_name IN ({names}) ORDER BY 1
    """


def shape(database: Database, *tables: str) -> list[tuple[object, ...]]:
    """Return the definition of every table, column, index and constraint, or of some tables'."""
    names = ", ".join(f"'{name}'" for name in tables or _OURS)
    if database.kind == "sqlite":
        # The text of the statement is kept, its layout included; an index of a key has none.
        return [
            (*rest, " ".join((sql or "").split()))
            for *rest, sql in database.rows(_SQLITE.format(names=names))
        ]
    if database.kind == "postgresql":
        return [row for query in _POSTGRESQL for row in database.rows(query.format(names=names))]
    present = [str(name) for (name,) in database.rows(_MYSQL.format(names=names))]
    found: list[tuple[object, ...]] = []
    for name in present:
        [(_, text)] = database.rows(f"SHOW CREATE TABLE {name}")
        lines = [line.strip(" ,") for line in str(text).splitlines()]
        # In the order in which they were made, which means nothing.
        keys = sorted(line for line in lines if line.startswith("KEY"))
        found.append((*(line for line in lines if line not in keys), *keys))
    return found


def is_mariadb(database: Database) -> bool:
    """Return whether a database of the kind ``mysql`` is MariaDB's."""
    if database.kind != "mysql":
        return False
    return "MariaDB" in str(database.rows("SELECT version()")[0][0])


def model_url(database: Database) -> str:
    """Return the URL by which the model tells MariaDB from MySQL.

    The migration asks the server; the model's DDL knows only the dialect's name.
    """
    if is_mariadb(database):
        return database.url.replace("mysql://", "mariadb://", 1)
    return database.url
