"""The page for database administrators names the migration lock as the package takes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema.locks import migration_lock
from jupyter_session_store.sql.schema.migrating import migration_connection

from ..databases import Database
from .blocks import blocks

PAGE = "docs/how-to/database-administrator.md"


def statement(part: str) -> str:
    (text,) = (
        block.text for block in blocks(PAGE) if block.language == "sql" and part in block.text
    )
    return text


def check(database: Database, sql: str, identity: str, nobody: list[tuple[object, ...]]) -> None:
    engine = engines.create(database.url)
    with migration_connection(engine) as connection:
        with migration_lock(connection):
            holder = connection.exec_driver_sql(identity).scalar_one()
            connection.rollback()
            assert [row[0] for row in database.rows(sql)] == [holder]
        assert database.rows(sql) == nobody
    engine.dispose()


@pytest.mark.only("postgresql", reason="each database has a lock of its own")
def test_the_holder_in_postgresql(named_database: Callable[[str], Database]) -> None:
    check(named_database("postgresql"), statement("pg_locks"), "SELECT pg_backend_pid()", [])


@pytest.mark.only("mysql", reason="each database has a lock of its own")
def test_the_holder_in_mysql(named_database: Callable[[str], Database]) -> None:
    check(named_database("mysql"), statement("IS_USED_LOCK"), "SELECT CONNECTION_ID()", [(None,)])
