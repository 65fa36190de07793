"""Revision 0002, which adds the version of a row and the index for lists, to tables in use."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine, event

from jupyter_session_store.records import Scope
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.schema import migrating

from ..cli.conftest import home
from ..cli.support import running
from ..databases import Database
from ..system.waiting import until
from .shape import shape
from .support import SCOPE, opened, record, status

__all__ = ["home"]

INDEX: Final = "ix_jupyter_sessions_namespace_authority_created_at"
#: What the release before writes of a session.
OLD_COLUMNS: Final = "namespace, session_id, authority, state, created_at, updated_at"
NOW: Final = "2026-11-28 12:00:00"


def add_as_before(database: Database, session_id: str) -> None:
    """Add a session as the release before does, whose statements name their columns."""
    values = ", ".join(
        f"'{one}'" for one in (SCOPE.namespace, session_id, SCOPE.authority, "ready", NOW, NOW)
    )
    database.execute(f"INSERT INTO jupyter_sessions ({OLD_COLUMNS}) VALUES ({values})")


def versions_in(database: Database) -> dict[str, int]:
    rows = database.rows("SELECT session_id, version FROM jupyter_sessions")
    return {str(session_id): int(version) for session_id, version in rows}


@pytest.fixture
def at_first(engine: Engine) -> Engine:
    """The engine of a database at the first revision."""
    migrating.upgrade(engine, "0001")
    return engine


def test_the_release_before_goes_on(database: Database, at_first: Engine) -> None:
    add_as_before(database, "before")
    migrating.upgrade(at_first, "0002")
    add_as_before(database, "after")
    assert versions_in(database) == {"before": 1, "after": 1}
    database.execute("UPDATE jupyter_sessions SET name = 'renamed' WHERE session_id = 'before'")
    with opened(database.url) as repository:
        changed = asyncio.run(repository.update(SCOPE, "before", {"name": "again"}))
    assert changed is not None
    # What the old code has changed was not counted.
    assert changed.version == 2
    assert versions_in(database) == {"before": 2, "after": 1}


def test_sessions_stay_when_it_is_undone(database: Database, at_first: Engine) -> None:
    before = shape(database)
    migrating.upgrade(at_first, "0002")
    add_as_before(database, "kept")
    migrating.downgrade(at_first, "0001")
    assert shape(database) == before
    assert database.rows("SELECT session_id FROM jupyter_sessions") == [("kept",)]


@pytest.mark.only("sqlite", reason="the others have always dropped columns")
def test_an_old_sqlite_drops_the_column_too(
    database: Database, at_first: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrating.upgrade(at_first, "0002")
    add_as_before(database, "kept")
    monkeypatch.setattr(at_first.dialect, "server_version_info", (3, 34, 1))
    seen: list[str] = []
    event.listen(at_first, "before_cursor_execute", lambda *given: seen.append(given[2]))
    migrating.downgrade(at_first, "0001")
    assert not [one for one in seen if "DROP COLUMN" in one]
    assert database.rows("SELECT session_id FROM jupyter_sessions") == [("kept",)]
    migrating.upgrade(at_first, "0002")
    assert versions_in(database) == {"kept": 1}


def any_text(seed: int) -> str:
    """Return as much text as an id may have, of four bytes a character, that nothing compresses."""
    choice = random.Random(seed)
    return "".join(chr(choice.randrange(0x20000, 0x2A6D0)) for _ in range(255))


def test_the_longest_texts_fit_into_the_index(database: Database) -> None:
    """With the session's id in it, PostgreSQL refused such a row: over 2,704 bytes."""
    scope = Scope(any_text(1), any_text(2))
    longest = record(any_text(3), "p", **scope.__dict__, kernel_id="k", claim=None)
    with opened(database.url, scope) as repository:
        asyncio.run(repository.add(longest))
        assert asyncio.run(repository.find(scope)) == [longest]


# ------------------------------------------------------------------- PostgreSQL


def index_is_valid(database: Database) -> bool:
    ((valid,),) = database.rows(
        f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
    )
    return bool(valid)


@pytest.mark.only("postgresql", reason="the others leave no half of an index behind")
def test_an_index_that_was_left_half_made_is_made_anew(
    database: Database, at_first: Engine, new_database: Callable[[], Database]
) -> None:
    add_as_before(database, "a")
    add_as_before(database, "b")
    left = f"CREATE UNIQUE INDEX CONCURRENTLY {INDEX} ON jupyter_sessions (namespace)"
    with pytest.raises(Exception, match="could not create unique index"):
        database.execute(left)
    assert not index_is_valid(database)
    migrating.upgrade(at_first, "0002")
    assert index_is_valid(database)
    assert not [row for row in shape(database) if INDEX in row and "UNIQUE" in str(row)]


@contextmanager
def older_transaction(database: Database) -> Iterator[None]:
    """Keep a transaction open that reads, though not our tables: a dump of another program's."""
    database.execute("CREATE TABLE others (id INTEGER)")
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT COUNT(*) FROM others")
        cursor.fetchall()
        yield
        cursor.execute("ROLLBACK")


def waits_for_index(database: Database, seconds: float) -> bool:
    """Return whether the index has waited for another transaction for so long."""
    return bool(
        database.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
            f" AND clock_timestamp() - query_start > interval '{seconds} s'"
        )
    )


@pytest.mark.only("postgresql", reason="only there an index waits for other tables' transactions")
async def test_the_index_waits_for_older_transactions_and_no_server_for_the_index(
    database: Database, at_first: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "BUSY_TIMEOUT", 0.5)
    limits: list[Any] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SET lock_timeout"):
            limits.append(statement)

    event.listen(at_first, "before_cursor_execute", note)
    with ThreadPoolExecutor(1) as operator:
        with older_transaction(database):
            upgrade = operator.submit(migrating.upgrade, at_first, "0002")
            until(
                lambda: waits_for_index(database, 1.0) or upgrade.done(),
                why="the index waits for longer than a lock is waited for",
            )
            assert not upgrade.done()
            add_as_before(database, "meanwhile")
            assert versions_in(database) == {"meanwhile": 1}
        upgrade.result(60)
    assert index_is_valid(database)
    assert limits == ["SET lock_timeout = 0", "SET lock_timeout = '500ms'"]
    assert status(at_first).revision == "0002"


@pytest.mark.only("postgresql", reason="only there an index is made outside a transaction")
def test_an_index_that_is_interrupted_is_made_by_the_next_upgrade(
    database: Database, at_first: Engine, home: Path
) -> None:
    with (
        older_transaction(database),
        running("upgrade", home=home, url=database.url) as upgrade,
    ):
        until(
            lambda: waits_for_index(database, 0) or upgrade.poll() is not None,
            why="the index waits",
        )
        upgrade.send_signal(signal.SIGINT)
        _, errors = upgrade.communicate(timeout=60)
    assert (upgrade.returncode, "Interrupted" in errors) == (130, True), errors
    assert "Traceback" not in errors
    assert not index_is_valid(database)
    assert status(at_first).revision == "0001"
    migrating.upgrade(at_first)
    assert index_is_valid(database)
