"""A database that goes under a running server: noticed, told once, and never made again by it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.exc import DataError

from jupyter_session_store.errors import (
    InvalidValue,
    SchemaMismatch,
    SessionStoreError,
    StoreUnavailable,
)
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases import Database
from tests.migrations.support import TABLES, engine_of, opened
from tests.unit.dummies import make_manager
from tests.unit.test_worker import assert_said_once_away_and_once_back, open_repository

GONE: Final = "jupyter session-store upgrade"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tests"]


def tables(engine: Engine) -> set[str]:
    return set(TABLES & set(inspect(engine).get_table_names()))


async def every_verb_fails(
    repository: SQLAlchemySessionRepository, kind: type[SessionStoreError]
) -> None:
    """Check that no verb works, the heartbeat's among them."""
    verbs: list[Callable[[], Awaitable[Any]]] = [
        lambda: repository.find(SCOPE),
        lambda: repository.add(record("b")),
        lambda: asyncio.to_thread(repository.renew, server("one"), [], timeout=10),
    ]
    for verb in verbs:
        with pytest.raises(kind, match=GONE):
            await verb()


@pytest.mark.parametrize("auto_upgrade", ["safe", "always"])
async def test_a_downgrade_under_a_server_is_not_undone_by_it(
    database: Database, caplog: pytest.LogCaptureFixture, auto_upgrade: str
) -> None:
    caplog.set_level(logging.INFO, "tests")
    repository = SQLAlchemySessionRepository(
        database.url, options={}, auto_upgrade=auto_upgrade, log=logging.getLogger("tests")
    )
    repository.open(SCOPE, server("one"), timeout=60)
    await repository.add(record("a"))
    repository._database.release()
    with engine_of(database.url) as engine:
        migrating.downgrade(engine, "base")
        caplog.clear()
        await every_verb_fails(repository, SchemaMismatch)
        assert tables(engine) == {"jupyter_session_store_version"}
        assert len(said(caplog)) == 1
        # An operator may make them again.
        migrating.upgrade(engine)
        assert await repository.find(SCOPE) == []
        await repository.add(record("b"))
    repository.close(timeout=10)
    assert "is back" in said(caplog)[-1]


async def test_a_first_contact_is_a_start(tmp_path: Path) -> None:
    folder = tmp_path / "mounted later"
    folder.mkdir()
    repository = SQLAlchemySessionRepository(
        str(folder / "x.db"), options={}, auto_upgrade="safe", log=logging.getLogger("tests")
    )
    folder.rmdir()
    repository.open(SCOPE, server("one"), timeout=60)
    folder.mkdir()
    assert await repository.find(SCOPE) == []
    with engine_of(str(folder / "x.db")) as engine:
        migrating.downgrade(engine, "base")
        repository._database.release()
        await every_verb_fails(repository, SchemaMismatch)
    repository.close(timeout=10)


@pytest.mark.parametrize("table", sorted(TABLES))
async def test_a_table_that_went_away(
    database: Database, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    repository = open_repository(database.url)
    await repository.add(record("a"))
    repository._database.release()
    database.execute(f"DROP TABLE {table}")
    # Those of the schema are not looked at while all is well.
    repository._database._checked = False
    with pytest.raises((SchemaMismatch, StoreUnavailable), match=table):
        await repository.find(SCOPE)
    with engine_of(database.url) as engine:
        assert tables(engine) == TABLES - {table}
    repository.close(timeout=10)


# ------------------------------------------------------------- a SQLite file


def remove(path: Path) -> None:
    for name in (path, *path.parent.glob(f"{path.name}-*")):
        name.unlink()


def path_of(database: Database) -> Path:
    return Path(database.url.removeprefix("sqlite:///"))


@pytest.mark.only("sqlite", reason="only SQLite is a file")
@pytest.mark.parametrize("idle", [False, True])
async def test_a_file_that_was_deleted(
    database: Database, caplog: pytest.LogCaptureFixture, idle: bool
) -> None:
    caplog.set_level(logging.INFO, "tests")
    repository = open_repository(database.url)
    await repository.add(record("a"))
    if idle:
        repository._database.release()
    path = path_of(database)
    remove(path)
    caplog.clear()
    await every_verb_fails(repository, StoreUnavailable)
    assert not path.exists()
    [line] = said(caplog)
    assert f"the file (sqlite {path}) is not there any more" in line
    # What the text says to run.
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    assert await repository.find(SCOPE) == []
    assert repository.renew(server("one"), [record("a")], timeout=10)
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


async def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extension that changed the working directory was a fault of the store for ever."""
    monkeypatch.chdir(tmp_path)
    repository = open_repository("sessions.db")
    await repository.add(record("a"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert await repository.find(SCOPE) == [record("a")]
    repository._database.release()
    assert await repository.find(SCOPE) == [record("a")]
    repository.close()


@pytest.mark.only("sqlite", reason="only SQLite is a file")
async def test_a_file_that_was_moved_away_and_back(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    repository = open_repository(database.url)
    await repository.add(record("a"))
    repository._database.release()
    path = path_of(database)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable, match="not there any more"):
        await repository.find(SCOPE)
    path.with_name("elsewhere").rename(path)
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)


@pytest.mark.only("sqlite", reason="only SQLite is a file")
async def test_a_file_that_was_replaced(
    database: Database, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "tests")
    restored, empty = tmp_path / "restored.db", tmp_path / "empty.db"
    with opened(str(restored)) as other:
        await other.add(record("restored"))
    empty.touch()
    repository = open_repository(database.url)
    await repository.add(record("a"))
    path = path_of(database)
    caplog.clear()
    remove(path)
    os.replace(shutil.copy(restored, path.with_name("copy.db")), path)
    with pytest.raises(StoreUnavailable, match="is another than this server"):
        await repository.find(SCOPE)
    # One with the tables is used.
    assert await repository.find(SCOPE) == [record("restored")]
    assert_said_once_away_and_once_back(caplog)
    caplog.clear()
    remove(path)
    os.replace(empty, path)
    with pytest.raises(StoreUnavailable, match="is another than this server"):
        await repository.find(SCOPE)
    # Nothing is made in one that has none.
    await every_verb_fails(repository, SchemaMismatch)
    assert path.stat().st_size == 0
    repository.close(timeout=10)


# ------------------------------------------------------------- a disk that is full

#: How a database refuses what needs more room, as it does on a full disk.
_FULL: Final = {
    "postgresql": (
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$; "
        "CREATE TRIGGER full_disk BEFORE INSERT ON jupyter_sessions "
        "FOR EACH ROW EXECUTE FUNCTION full_disk()"
    ),
    "mysql": (
        "CREATE TRIGGER full_disk BEFORE INSERT ON jupyter_sessions FOR EACH ROW "
        "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, "
        "MESSAGE_TEXT = 'The table is full'"
    ),
}
_ROOM: Final = {
    "postgresql": "DROP FUNCTION full_disk CASCADE",
    "mysql": "DROP TRIGGER full_disk",
}


class Disk:
    """The disk of a database, which can be full; what needs no more room can be written."""

    def __init__(self, database: Database, repository: SQLAlchemySessionRepository) -> None:
        self._database = database
        self._full = False
        if database.kind == "sqlite":
            event.listen(repository._database.engine, "connect", self._limit)
            repository._database.release()

    def _limit(self, connection: Any, _record: object) -> None:
        if self._full:
            connection.execute("PRAGMA max_page_count = 1")

    def fill(self, repository: SQLAlchemySessionRepository) -> None:
        self._full = True
        if self._database.kind != "sqlite":
            self._database.execute(_FULL[self._database.kind])
        repository._database.release()

    def empty(self, repository: SQLAlchemySessionRepository) -> None:
        self._full = False
        if self._database.kind != "sqlite":
            self._database.execute(_ROOM[self._database.kind])
        repository._database.release()


async def test_a_value_that_is_refused_is_no_fault_of_the_store(database: Database) -> None:
    """Of one client's text that its encoding lacks, health was unwell until the next outage."""
    repository = open_repository(database.url)

    def refuse(_connection: Connection) -> None:
        raise DataError("INSERT", None, Exception("it has no equivalent in this encoding"))

    with pytest.raises(InvalidValue):
        repository._database.run(refuse, writes=True)
    assert not repository.describe().fails_writes
    await repository.add(record("a"))
    repository.close()


async def test_health_is_unwell_while_writes_fail(database: Database) -> None:
    manager = make_manager(database.url)
    repository: Any = manager.store
    await manager.ask_store()
    disk = Disk(database, repository._measured)
    disk.fill(repository._measured)
    with pytest.raises(StoreUnavailable):
        await repository.add(record("b", kernel_model="x" * 100_000))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await manager.ask_store()
    disk.empty(repository._measured)
    await manager.ask_store()
    manager.close()


async def test_a_full_disk(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """What is small may still be written, and does not make it well."""
    caplog.set_level(logging.INFO, "tests")
    repository = open_repository(database.url)
    await repository.add(record("a"))
    disk = Disk(database, repository)
    disk.fill(repository)
    large = record("b", kernel_model="x" * 100_000)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="Make room on the disk"):
            await repository.add(large)
        assert await repository.find(SCOPE) == [record("a")]
        assert repository.renew(server("one"), [], timeout=10)
        assert repository.describe().fails_writes
    disk.empty(repository)
    assert repository.renew(server("one"), [], timeout=10)
    assert not repository.describe().fails_writes
    before = repository.describe().statements
    await repository.add(large)
    assert repository.describe().statements == before + 1
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


#: SQLite adds no column that has to be given to a table that exists.
FOREIGN: Final = {
    "a check": "VARCHAR(10) CHECK (tenant IS NOT NULL)",
    "a value that has to be given": "VARCHAR(10) NOT NULL",
}


@pytest.mark.parametrize("rule", FOREIGN)
async def test_a_rule_of_somebody_elses_is_no_claimed_path(database: Database, rule: str) -> None:
    """A column that an operator has added refuses every row: that is no conflict of sessions."""
    definition = FOREIGN["a check" if database.kind == "sqlite" else rule]
    with opened(database.url) as repository:
        await repository.add(record("a"))
        await repository.remove(SCOPE, [record("a")])
        with engine_of(database.url) as engine, engine.begin() as connection:
            connection.exec_driver_sql(
                f"ALTER TABLE jupyter_sessions ADD COLUMN tenant {definition}"
            )
        with pytest.raises(StoreUnavailable, match="tenant") as told:
            await repository.add(record("b", path="hidden.ipynb"))
        assert "hidden" not in str(told.value)
        with pytest.raises(StoreUnavailable, match="tenant"):
            await repository.mirror(SCOPE, lambda: [record("c")])
