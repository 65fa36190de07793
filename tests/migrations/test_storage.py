"""What a server of MySQL or MariaDB has for defaults changes nothing about the tables."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine, event, inspect

from jupyter_session_store.records import Scope, SessionRecord
from jupyter_session_store.sql.engine.transactions import transaction
from jupyter_session_store.sql.queries import leases, session_queries
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.tables import METADATA
from jupyter_session_store.testing.samples import record, server

pytestmark = pytest.mark.only("mysql", reason="its servers have such defaults")


def set_at_connect(engine: Engine, setting: str) -> None:
    @event.listens_for(engine, "connect")
    def _set(connection: object, _record: object) -> None:
        with connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(f"SET SESSION {setting}")


def test_tables_are_innodb_with_long_keys(engine: Engine) -> None:
    set_at_connect(engine, "default_storage_engine = 'MyISAM'")
    migrating.upgrade(engine)
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        assert tables > set(METADATA.tables)
        for table in tables:
            [(_, ddl)] = connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").all()
            assert "ENGINE=InnoDB" in ddl, ddl
            if table in METADATA.tables:
                assert re.search("ROW_FORMAT=DYNAMIC", ddl, re.I), ddl


def test_transactions_begin_with_the_mode_of_oracle(at_head: Engine) -> None:
    """There ``BEGIN`` begins a block of statements: no server was evicted."""
    set_at_connect(at_head, "sql_mode = 'ORACLE'")
    at_head.dispose()
    scope = Scope("tenant", "server:two")
    dead, kept = server("one", scope.namespace), server("two", scope.namespace)
    with at_head.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@sql_mode").scalar_one().find("ORACLE") >= 0
        with transaction(connection):
            pass
        leases.register(connection, dead)
        leases.register(connection, kept)
        left: SessionRecord = record("s", Scope(scope.namespace, "server:one"), server_id="one")
        session_queries.add(connection, left)
        count, unfinished = leases.evict(connection, scope, [dead], "two")
        assert (count, unfinished) == (1, [])
        assert session_queries.find(connection, left.scope, {}) == []
