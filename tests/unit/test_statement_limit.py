"""The database itself gives up a statement that takes too long: it does not happen later."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine import mysql, timeouts
from jupyter_session_store.sql.schema.migrating import migration_connection
from jupyter_session_store.testing import SCOPE, record, run
from tests.databases import Database
from tests.migrations.support import opened

pytestmark = pytest.mark.only("postgresql", "mysql", reason="a file's statements are this process")

#: Has each new session take 3 s in the database.
_SLOW_INSERTS: Final = {
    "postgresql": (
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$",
        "CREATE TRIGGER waits BEFORE INSERT ON jupyter_sessions "
        "FOR EACH ROW EXECUTE FUNCTION wait()",
    ),
    "mysql": (
        "CREATE TRIGGER waits BEFORE INSERT ON jupyter_sessions FOR EACH ROW "
        "SET @waited = SLEEP(3)",
    ),
}


@pytest.fixture
def has_limit(database: Database) -> bool:
    """Whether the database can give up every statement: MySQL does so with reads alone."""
    if database.kind == "postgresql":
        return True
    return bool(database.rows("SHOW VARIABLES LIKE 'max_statement_time'"))


def shorten(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Have MariaDB give up after one second."""
    usual = mysql.PyMySQL.limiting_args["init_command"]
    brief = usual.replace(f"{setting}=5", f"{setting}=1")
    assert brief != usual
    monkeypatch.setattr(mysql.PyMySQL, "limiting_args", {"init_command": brief})


async def test_a_slow_write_that_was_refused_does_not_happen_later(
    database: Database, has_limit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_limit:
        # What the documentation says of MySQL.
        return
    shorten(monkeypatch, "max_statement_time")
    monkeypatch.setattr(timeouts, "STATEMENT_TIMEOUT", 1)
    # However late its answer comes.
    monkeypatch.setattr(timeouts, "ANSWER_MARGIN", 10)
    with opened(database.url) as repository:
        for statement in _SLOW_INSERTS[database.kind]:
            database.execute(statement)
        with pytest.raises(StoreUnavailable, match="If it was too slow: look for") as refused:
            await repository.add(record("a"))
        assert "statement" in str(refused.value)
        _wait_for_statements(database)
        assert await repository.find(SCOPE) == []


def test_a_connection_that_hangs_in_a_transaction_holds_no_lock_for_ever(
    database: Database, has_limit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose client stopped, or whose packets nobody carries any more."""
    if not has_limit:
        return
    shorten(monkeypatch, "idle_transaction_timeout")
    with opened(database.url) as repository, monkeypatch.context() as limits:
        run(repository.add(record("a")))
        limits.setattr(timeouts, "STATEMENT_TIMEOUT", 1)
        hanging = engines.create(database.url)
        with hanging.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("UPDATE jupyter_sessions SET name = 'held'")
            limits.undo()
            # It waits for the lock, for less than a statement may take.
            changed = run(repository.update(SCOPE, "a", {"name": "n"}))
            assert changed is not None
            connection.invalidate()
        hanging.dispose()
        assert [one.name for one in run(repository.find(SCOPE))] == ["n"]


def test_migrations_and_operators_have_no_limit(database: Database, has_limit: bool) -> None:
    of_server = {"postgresql": "5s", "mysql": 5.0 if has_limit else None}[database.kind]
    none = {"postgresql": "0", "mysql": 0.0 if has_limit else None}[database.kind]

    def limit(connection: Connection) -> Any:
        if database.kind == "postgresql":
            return connection.exec_driver_sql("SHOW statement_timeout").scalar_one()
        found = connection.exec_driver_sql("SHOW VARIABLES LIKE 'max_statement_time'").fetchall()
        return float(found[0][1]) if found else None

    def limit_of(engine: Engine) -> Any:
        with engine.connect() as connection:
            return limit(connection)

    server = engines.create(database.url)
    operator = engines.create(database.url, statement_timeout=False)
    assert limit_of(server) == of_server
    assert limit_of(operator) == none
    with migration_connection(server) as connection:
        assert limit(connection) == none
    assert limit_of(server) == of_server
    server.dispose()
    operator.dispose()


def _wait_for_statements(database: Database) -> None:
    """Wait until the database carries out no insert any more."""
    running = {
        "postgresql": "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT%' "
        "AND state = 'active' AND datname = current_database()",
        "mysql": "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'INSERT%' "
        "AND db = database()",
    }[database.kind]
    while database.rows(running):
        time.sleep(0.05)
