"""The worker's thread, and what a unit of work does when the database fails."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, make_url

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.records import Departure
from jupyter_session_store.sql import database as databases
from jupyter_session_store.sql import repository as repositories
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.queries import session_queries
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.worker import Worker
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database
from tests.wire import WireTap

log = logging.getLogger("tests")


def assert_said_once_away_and_once_back(caplog: pytest.LogCaptureFixture, times: int = 1) -> None:
    said = [r.getMessage() for r in caplog.records if r.name == "tests"]
    assert [("unavailable" in line, "is back" in line) for line in said] == times * [
        (True, False),
        (False, True),
    ]


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name == "jupyter_session_store"}


async def test_a_connection_that_cannot_be_closed_ends_no_worker() -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise OSError("it is dead already")

    worker = Worker("test", fail, idle_seconds=0.01)
    assert await worker.run(lambda: 1, 60) == 1
    assert await asyncio.to_thread(tried.wait, 60)
    assert await worker.run(lambda: 2, 60) == 2
    assert worker.stop(60)


async def test_calls_run_in_order_on_one_thread_off_the_loop() -> None:
    worker = Worker("test", lambda: None)
    seen: list[tuple[int, int]] = []

    def call(number: int) -> None:
        seen.append((number, threading.get_ident()))

    await asyncio.gather(*(worker.run(partial(call, i), 5) for i in range(50)))
    worker.stop(5)
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert threading.get_ident() not in {thread for _, thread in seen}


async def test_an_error_comes_back() -> None:
    worker = Worker("test", lambda: None)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run(fail, 5)
    assert await worker.run(lambda: 1, 5) == 1
    worker.stop(5)


async def test_a_call_whose_turn_does_not_come_is_not_made() -> None:
    worker = Worker("test", lambda: None)
    release = threading.Event()
    stuck = asyncio.ensure_future(worker.run(release.wait, 30))
    await asyncio.sleep(0)
    made: list[None] = []
    with pytest.raises(StoreUnavailable, match="did not answer within"):
        await worker.run(lambda: made.append(None), 0.05)
    cancelled = asyncio.ensure_future(worker.run(lambda: made.append(None), 30))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    release.set()
    await stuck
    assert await worker.run(lambda: len(made), 5) == 0
    worker.stop(5)


async def test_a_stopped_worker_takes_no_calls() -> None:
    worker = Worker("test", lambda: None)
    worker.stop(5)
    with pytest.raises(StoreUnavailable):
        await worker.run(lambda: 1, 5)


async def test_it_says_when_it_is_idle() -> None:
    idle = threading.Event()
    worker = Worker("test", idle.set, idle_seconds=0.01)
    assert not idle.wait(0.1)
    await worker.run(lambda: None, 5)
    assert await asyncio.to_thread(idle.wait, 10)
    worker.stop(5)


def test_a_stuck_call_does_not_delay_the_exit_of_the_process(tmp_path: Path) -> None:
    script = (
        "import threading\n"
        "from jupyter_session_store.sql.worker import Worker\n"
        "worker = Worker('test', lambda: None)\n"
        "worker.submit(threading.Event().wait)\n"
        "worker.stop(0.1)\n"
        "print('out')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "out\n"


def open_repository(url: str, **settings: float) -> SQLAlchemySessionRepository:
    repository = SQLAlchemySessionRepository(url, options={}, auto_upgrade="safe", log=log)
    for name, value in settings.items():
        setattr(repository, name, value)
    repository.open(SCOPE, server("one"), timeout=60)
    return repository


async def test_a_dropped_repository_leaves_neither_thread_nor_connection(
    database: Database,
) -> None:
    before = threads()
    repository: SQLAlchemySessionRepository | None = open_repository(database.url)
    assert repository is not None
    await repository.find(SCOPE)
    (mine,) = threads() - before
    del repository
    for _ in range(1500):
        gc.collect()
        if not mine.is_alive():
            break
        await asyncio.sleep(0.02)
    assert not mine.is_alive()


async def test_an_idle_connection_is_dropped_and_made_again(database: Database) -> None:
    repository = open_repository(database.url, connection_idle_seconds=0.02)
    await repository.add(record("a"))
    for _ in range(500):
        if repository._database._connection is None:
            break
        await asyncio.sleep(0.02)
    assert repository._database._connection is None
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)


@pytest.mark.only("postgresql", "mysql", reason="a file's connection is not cut")
async def test_a_dead_connection_is_replaced_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with WireTap.to(database) as tap:
        repository = open_repository(tap.url(database))
        await repository.add(record("a", kernel_id="k"))
        for verb in (
            lambda: repository.find(SCOPE),
            lambda: repository.update(SCOPE, "a", {"name": "n"}),
            lambda: repository.add(record("b", kernel_id="k")),
            lambda: repository.begin_close(SCOPE, "b", "one"),
            lambda: repository.remove(SCOPE, [record("b", kernel_id="k")]),
        ):
            tap.cut()
            assert await verb() != []
        assert [r.session_id for r in await repository.find(SCOPE)] == ["a"]
        repository.close(timeout=10)
    assert "unavailable" not in caplog.text


#: What makes a server that only reads of the one that a connection leads to.
DEMOTED = {
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}
#: What makes a connection useless that is not dead.
SPOILT = {
    "sqlite": "PRAGMA query_only = 1",
    "postgresql": "SET search_path = pg_catalog",
    "mysql": "USE information_schema",
}


def execute(repository: SQLAlchemySessionRepository, sql: str) -> None:
    """Execute a statement on the repository's own connection."""
    repository._database.run(lambda connection: connection.exec_driver_sql(sql).close())


@pytest.mark.only("postgresql", "mysql", reason="a file has no server to be demoted")
async def test_a_server_that_only_reads_is_left(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    repository = open_repository(database.url)
    await repository.add(record("a", kernel_id="k"))
    for verb in (
        lambda: repository.update(SCOPE, "a", {"name": "n"}),
        lambda: repository.add(record("b", kernel_id="k")),
        lambda: repository.begin_close(SCOPE, "b", "one"),
        lambda: repository.remove(SCOPE, [record("b", kernel_id="k")]),
    ):
        execute(repository, DEMOTED[database.kind])
        assert len(await repository.find(SCOPE)) > 0
        await verb()
    assert [r.session_id for r in await repository.find(SCOPE)] == ["a"]
    repository.close(timeout=10)
    assert "unavailable" not in caplog.text


@pytest.mark.only("postgresql", "mysql", reason="a file has no server to be demoted")
async def test_a_server_that_only_reads_is_not_back(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tests")
    repository = open_repository(database.url)
    await repository.add(record("a"))

    def write(connection: Connection) -> session_queries.Added:
        connection.exec_driver_sql(DEMOTED[database.kind]).close()
        return session_queries.add(connection, record("b"))

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await repository._run(write)
        assert await repository.find(SCOPE) == [record("a")]
    await repository.add(record("b"))
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


async def test_a_connection_that_fails_is_not_used_again(database: Database) -> None:
    repository = open_repository(database.url)
    await repository.add(record("a"))
    execute(repository, SPOILT[database.kind])
    # Where it looks as if the schema had changed, it is made again at once.
    with nullcontext() if database.kind == "postgresql" else pytest.raises(StoreUnavailable):
        await repository.add(record("b"))
    await repository.add(record("b"))
    assert [r.session_id for r in await repository.find(SCOPE)] == ["a", "b"]
    repository.close(timeout=10)


@pytest.mark.parametrize("url", [":memory:", "sqlite:///file::memory:?uri=true"])
async def test_memory_outlives_an_error_and_idleness(url: str) -> None:
    repository = open_repository(url)
    await repository.add(record("a"))
    with pytest.raises(StoreUnavailable):
        execute(repository, "SELECT * FROM nothing")
    repository._database.release()
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)


def test_errors_are_told_by_their_codes() -> None:
    from sqlalchemy.exc import OperationalError

    backend = backend_of(make_url("mariadb+pymysql://db/x"))

    def is_read_only(*args: object) -> bool:
        return backend.is_read_only(OperationalError("", None, Exception(*args)))

    # The second is a node of Galera's without a quorum.
    for number in (1290, 1047, 1792, 1836):
        assert is_read_only(number, "read only")
    # Some drivers have a dict there.
    assert not is_read_only({"C": "25006"})
    assert not is_read_only()


@pytest.mark.only("postgresql", "mysql", reason="a file has no server to lose")
async def test_one_line_when_it_goes_and_one_when_it_is_back(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tests")
    with WireTap.to(database) as tap:
        repository = open_repository(tap.url(database))
        await repository.add(record("a"))
        tap.refuse()
        tap.cut()
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await repository.find(SCOPE)
        with pytest.raises(StoreUnavailable):
            await repository.add(record("b"))
        tap.accept()
        for _ in range(5):
            assert await repository.find(SCOPE) == [record("a")]
        repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


def opened_too_early(folder: Path) -> SQLAlchemySessionRepository:
    """Return a repository in a folder that is not there yet."""
    folder.mkdir()
    repository = SQLAlchemySessionRepository(
        str(folder / "x.db"), options={}, auto_upgrade="safe", log=log
    )
    folder.rmdir()
    repository.open(SCOPE, server("one"), timeout=10)
    return repository


async def test_a_fault_that_is_over_is_not_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop hears of a fault later than the worker, which may have gone on since."""
    caplog.set_level(logging.INFO, "tests")
    folder = tmp_path / "mounted later"
    repository = opened_too_early(folder)
    asking = asyncio.ensure_future(repository.find(SCOPE))
    await asyncio.sleep(0)
    assert repository._worker is not None
    repository._worker.submit(folder.mkdir)
    # The loop stands still until this has succeeded.
    assert len(repository.renew(server("one"), [], timeout=10)) == 1
    with pytest.raises(StoreUnavailable):
        await asking
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


@pytest.mark.parametrize("held", [False, True])
async def test_what_waited_through_a_fault_does_not_report_another(
    held: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes too late for its turn, or its time runs out in the queue."""
    caplog.set_level(logging.INFO, "tests")
    folder = tmp_path / "mounted later"
    repository = opened_too_early(folder)
    worker = repository._worker
    assert worker is not None
    away, behind = threading.Event(), threading.Event()
    worker.submit(away.wait)
    worker.submit(folder.mkdir)
    back = worker.submit(lambda: repository._database.run(lambda _connection: None))
    worker.submit(behind.wait)
    with monkeypatch.context() as brief:
        brief.setattr(repositories, "REQUEST_TIMEOUT", 0.05)
        asking = asyncio.ensure_future(repository.find(SCOPE))
        await asyncio.sleep(0)
    away.set()
    # The loop stands still until then.
    back.result(30)
    if not held:
        behind.set()
        worker.submit(lambda: None).result(30)
    with pytest.raises(StoreUnavailable, match="did not answer" if held else "no turn in time"):
        await asking
    behind.set()
    assert await repository.find(SCOPE) == []
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


async def test_what_is_asked_after_a_fault_reports_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "tests")
    folder = tmp_path / "mounted later"
    repository = opened_too_early(folder)
    folder.mkdir()
    assert await repository.find(SCOPE) == []
    behind = threading.Event()
    assert repository._worker is not None
    repository._worker.submit(behind.wait)
    with monkeypatch.context() as brief:
        brief.setattr(repositories, "REQUEST_TIMEOUT", 0.05)
        brief.setattr(timeouts, "STATEMENT_TIMEOUT", 0.0)
        with pytest.raises(StoreUnavailable):
            await repository.find(SCOPE)
    behind.set()
    assert await repository.find(SCOPE) == []
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog, times=2)


@pytest.mark.only("sqlite", reason="it is the file that is locked")
async def test_a_file_that_can_only_be_read_is_not_back(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Else each write would log that it went, and each read that it is back."""
    caplog.set_level(logging.INFO, "tests")
    repository = open_repository(f"{database.url}?timeout=0.1")
    await repository.add(record("a"))
    with closing(database.connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        for name in ("b", "c"):
            with pytest.raises(StoreUnavailable):
                await repository.add(record(name))
            assert await repository.find(SCOPE) == [record("a")]
        other.rollback()
    await repository.add(record("b"))
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)


@pytest.mark.only("postgresql", "mysql", reason="a file answers, or is locked")
async def test_a_silent_database_holds_nobody_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WireTap.to(database) as tap:
        repository = open_repository(tap.url(database))
        await repository.find(SCOPE)
        tap.pause()
        # Only meanwhile: a busy machine may need longer than that for an answer that comes.
        with monkeypatch.context() as brief:
            brief.setattr(repositories, "REQUEST_TIMEOUT", 0.5)
            brief.setattr(timeouts, "STATEMENT_TIMEOUT", 0.1)
            asking = [asyncio.ensure_future(repository.find(SCOPE)) for _ in range(5)]
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes), outcomes
        tap.resume()
        monkeypatch.setattr(repositories, "REQUEST_TIMEOUT", 30)
        assert await repository.find(SCOPE) == []
        repository.close(timeout=10)


async def test_a_store_that_is_not_there_yet_is_used_when_it_comes(tmp_path: Path) -> None:
    folder = tmp_path / "mounted later"
    repository = opened_too_early(folder)
    with pytest.raises(StoreUnavailable):
        await repository.find(SCOPE)
    folder.mkdir()
    assert await repository.find(SCOPE) == []
    repository.close(timeout=10)


@pytest.mark.only("sqlite", reason="it is the file that is locked")
async def test_a_locked_file_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = open_repository(database.url)
    with closing(database.connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        adding = asyncio.ensure_future(repository.add(record("a")))
        reading = await asyncio.wait_for(asyncio.sleep(0.1, "the loop runs"), 5)
        assert reading == "the loop runs"
        assert not adding.done()
        other.execute("COMMIT")
        await adding
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)


@pytest.mark.only("sqlite", reason="it is the file that is locked")
async def test_a_file_that_stays_locked_is_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "STATEMENT_TIMEOUT", 0.2)
    monkeypatch.setattr(databases, "ATTEMPTS", 2)
    engine_args = {"connect_args": {"timeout": 0.05}}
    repository = SQLAlchemySessionRepository(
        database.url, options=engine_args, auto_upgrade="safe", log=log
    )
    repository.open(SCOPE, server("one"), timeout=60)
    with closing(database.connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await repository.add(record("a"))
        other.execute("ROLLBACK")
    await repository.add(record("a"))
    repository.close(timeout=10)


async def test_tables_that_went_away_are_unavailable(database: Database) -> None:
    repository = open_repository(database.url)
    await repository.add(record("a"))
    database.execute("DROP TABLE jupyter_sessions")
    with pytest.raises(StoreUnavailable, match="damaged: it lacks jupyter_sessions"):
        await repository.find(SCOPE)
    repository.close(timeout=10)


def test_rolled_back_units_are_told_by_their_codes() -> None:
    from sqlalchemy.exc import DBAPIError, OperationalError

    class Failed(Exception):
        sqlstate: str | None = None
        pgcode: str | None = None

    deadlock = Failed("deadlock detected")
    deadlock.sqlstate = "40P01"
    postgresql, mysql, sqlite = (
        backend_of(make_url(f"{name}://")) for name in ("postgresql", "mysql", "sqlite")
    )
    assert postgresql.is_rolled_back(OperationalError("", None, deadlock))
    # As psycopg2 says it, by which the dialect of CockroachDB speaks to it.
    restart = Failed("restart transaction")
    restart.pgcode = "40001"
    assert backend_of(make_url("cockroachdb://")).is_rolled_back(
        OperationalError("", None, restart)
    )
    assert mysql.is_rolled_back(OperationalError("", None, Failed(1213, "Deadlock")))
    assert mysql.is_rolled_back(OperationalError("", None, Failed(1205, "Lock wait")))
    assert mysql.is_rolled_back(OperationalError("", None, Failed(1020, "Record has changed")))
    assert not mysql.is_rolled_back(OperationalError("", None, Failed(2003, "no")))
    with closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(sqlite3.Error) as error:
            connection.execute("SELECT * FROM nothing")
        assert not sqlite.is_rolled_back(DBAPIError("", None, error.value))


@pytest.mark.only("sqlite", reason="it is the file that is locked")
async def test_a_departure_does_not_begin_after_the_end(
    database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the log said to stay does not go a while later."""
    # It is the time alone that ends the attempts.
    monkeypatch.setattr(databases, "ATTEMPTS", 500)
    repository = open_repository(f"{database.url}?timeout=0.05")
    await repository.add(record("a"))
    with closing(database.connect()) as other:
        other.execute("BEGIN IMMEDIATE")
        repository.close(Departure(SCOPE, "one", frozenset()), timeout=0.3)
        assert "The sessions of this server stay in the store" in caplog.text
        # The attempt that had begun by then ends without the file, however long it takes; one
        # that began later would be followed by others, until the file is free.
        for thread in threads():
            thread.join(30)
        other.rollback()
    for thread in threads():
        thread.join(30)
    repository = open_repository(database.url)
    assert await repository.find(SCOPE) == [record("a")]
    repository.close(timeout=10)
