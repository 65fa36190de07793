"""The migration lock that is a row: here on single servers, which take it as well as a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from sqlalchemy import Connection, Engine, event, inspect

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.schema import locks, migrating, row_lock

from ..databases import Database
from ..system.waiting import until
from .support import LATER, engine_of, release, status

pytestmark = pytest.mark.only("postgresql", "mysql", reason="a file is locked by its transaction")

ROWS: Final = f"SELECT owner, renewals FROM {row_lock.LOCK_TABLE}"
_PATIENCE: Final = 120.0


@pytest.fixture(autouse=True)
def _brief_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_lock, "LOCK_LEASE_SECONDS", 1.5)
    monkeypatch.setattr(row_lock, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(row_lock, "_RETRY_SECONDS", 0.1)


@contextmanager
def held(url: str, attempts: Iterator[None] | None = None) -> Iterator[Connection]:
    """Hold the lock, waiting for it without end where it is not said how often to try."""
    with (
        engine_of(url) as engine,
        migrating.migration_connection(engine) as connection,
        row_lock.row_lock(connection, pauses() if attempts is None else attempts),
    ):
        yield connection


def pauses() -> Iterator[None]:
    for _ in repeat(None):
        threading.Event().wait(0.02)
        yield


class Gone(Exception):
    pass


def once() -> Iterator[None]:
    yield
    raise Gone


def test_it_is_held_by_one_and_given_up(database: Database) -> None:
    with held(database.url):
        ((owner, _),) = database.rows(ROWS)
        assert owner.startswith(f"{os.getpid()}@")
        with pytest.raises(Gone), held(database.url, once()):
            raise AssertionError("two held it")
    assert database.rows(ROWS) == []
    with held(database.url):
        assert len(database.rows(ROWS)) == 1


def test_a_failure_gives_it_up(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), held(database.url):
        raise ZeroDivisionError
    assert database.rows(ROWS) == []


def test_of_many_one_at_a_time_holds_it(database: Database) -> None:
    inside: list[int] = []
    most: list[int] = []

    def take(place: int) -> None:
        with held(database.url):
            inside.append(place)
            most.append(len(inside))
            threading.Event().wait(0.05)
            inside.remove(place)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(take, range(6)))
    assert most == [1] * 6


def test_one_that_lives_keeps_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than its count may stand still."""
    monkeypatch.setattr(row_lock, "LOCK_LEASE_SECONDS", 8)
    tries: list[bool] = []

    def count() -> Iterator[None]:
        for _ in range(200):
            tries.append(threading.Event().wait(0.05))
            yield
        raise Gone

    with held(database.url), pytest.raises(Gone), held(database.url, count()):
        raise AssertionError("two held it")
    assert len(tries) == 200


def test_one_that_is_dead_loses_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears of it at the end, if it was not dead after all."""
    goes_on = threading.Event()
    renew = row_lock._Holder._renew

    def renew_late(holder: row_lock._Holder) -> None:
        goes_on.wait(_PATIENCE)
        renew(holder)

    def lose() -> None:
        # Its thread is suspended, and goes on later.
        monkeypatch.setattr(row_lock._Holder, "_renew", renew_late)
        with held(database.url):
            ((first, _),) = database.rows(ROWS)
            monkeypatch.setattr(row_lock._Holder, "_renew", renew)
            with held(database.url):
                assert database.rows(ROWS)[0][0] != first
                goes_on.set()
                until(lambda: number_of_renewers() == 1, why="the first has noticed")

    with pytest.raises(StoreUnavailable, match="was taken over by another process"):
        lose()


def test_a_renewal_that_hangs_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    connect = Engine.connect

    def hang(engine: Engine) -> Connection:
        if threading.current_thread().name == "jupyter_session_store migration lock":
            hangs.set()
            goes_on.wait(_PATIENCE)
        return connect(engine)

    monkeypatch.setattr(row_lock, "_JOIN_SECONDS", 0.1)
    monkeypatch.setattr(Engine, "connect", hang)
    with held(database.url):
        assert hangs.wait(_PATIENCE)
    # Until its count has stood still, the lock is still its own.
    assert number_of_renewers() == 1
    goes_on.set()
    until(lambda: number_of_renewers() == 0, why="the thread has ended")
    with held(database.url):
        pass


def number_of_renewers() -> int:
    names = [thread.name for thread in threading.enumerate()]
    return names.count("jupyter_session_store migration lock")


def test_a_stall_of_the_database_is_not_held_against_the_owner(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a statement changes a table of a cluster: who waits cannot write either."""
    with held(database.url):
        late = [0.0]
        write = row_lock._Waiter._write

        def stalled(waiter: row_lock._Waiter, statement: object, **values: str | int) -> bool:
            if statement is row_lock._LOOK and not late[0]:
                late[0] = 100.0
            return write(waiter, statement, **values)

        monkeypatch.setattr(row_lock._Waiter, "_write", stalled)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
        monkeypatch.setattr(row_lock, "time", clock)
        with (
            engine_of(database.url) as engine,
            migrating.migration_connection(engine) as connection,
        ):
            waiter = row_lock._Waiter(connection, "another")
            assert not waiter.take()
            until(lambda: waiter.take() or late[0] > 0, why="it has written once")
            assert not waiter.take()
    assert late == [100.0]


def test_who_would_be_refused_waits_for_it(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "ask_cluster_node", lambda _connection: True)
    monkeypatch.setattr(row_lock, "LOCK_LEASE_SECONDS", 30)
    with engine.connect() as looking:
        # There is no table yet.
        locks.wait_for_migration(looking, timeout=0)
        with held(database.url), pytest.raises(StoreUnavailable, match=r"lock for 0\.3 s"):
            locks.wait_for_migration(looking, timeout=0.3)
        locks.wait_for_migration(looking, timeout=0)
        # A holder that was killed leaves its row.
        monkeypatch.setattr(row_lock, "LOCK_LEASE_SECONDS", 1.5)
        database.execute(f"INSERT INTO {row_lock.LOCK_TABLE} VALUES ('migration', 'dead', 0, 0)")
        locks.wait_for_migration(looking, timeout=_PATIENCE)


def test_a_schema_changes_under_it_where_it_is_needed(
    database: Database, new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    single = new_database()
    with engine_of(single.url) as engine:
        migrating.upgrade(engine)
        assert row_lock.LOCK_TABLE not in tables(engine)
    monkeypatch.setattr(locks, "ask_cluster_node", lambda _connection: True)
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        assert row_lock.LOCK_TABLE in tables(engine)
        migrating.downgrade(engine, "base")
        migrating.upgrade(engine)
    assert database.rows(ROWS) == []


def test_who_has_lost_it_runs_no_further_revision(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that slept half way, and does not know it yet."""

    def take_away(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("ALTER TABLE"):
            database.execute(f"UPDATE {row_lock.LOCK_TABLE} SET owner = 'another'")

    monkeypatch.setattr(row_lock, "LOCK_LEASE_SECONDS", 30)
    monkeypatch.setattr(locks, "ask_cluster_node", lambda _connection: True)
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        two_more = release(tmp_path / "later", 1, 1)
        monkeypatch.setattr(migrating, "migrations_folder", lambda: two_more)
        event.listen(engine, "before_cursor_execute", take_away)
        with pytest.raises(StoreUnavailable, match="was taken over by another process"):
            migrating.upgrade(engine)
        assert status(engine).revision == LATER
    assert database.rows(f"SELECT owner FROM {row_lock.LOCK_TABLE}") == [("another",)]


def tables(engine: Engine) -> list[str]:
    return inspect(engine).get_table_names()
