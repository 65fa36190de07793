"""The proxy of the round-trip tests and the fault tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import closing, suppress

import pytest

from .databases import DRIVER_ERRORS, Database
from .wire import WireTap

pytestmark = pytest.mark.only("postgresql", "mysql", reason="SQLite has no wire")


@pytest.fixture
def tap(database: Database) -> Iterator[WireTap]:
    with WireTap.to(database) as tap:
        yield tap


@pytest.fixture
def through(database: Database, tap: WireTap) -> Database:
    return Database(database.kind, tap.url(database))


def _select(through: Database) -> list[tuple[int]]:
    with closing(through.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")
        return list(cursor.fetchall())


def test_counts_each_statement_once(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as connection, closing(connection.cursor()) as cursor:
        tap.reset()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert tap.round_trips == 1
        assert tap.statements == ["SELECT 1"]
        cursor.execute("SELECT %s", ("é" * 100_000,))
        assert len(cursor.fetchone()[0]) == 100_000
        assert tap.round_trips == 2
        with pytest.raises(DRIVER_ERRORS):
            cursor.execute("SELECT nothing")
        assert tap.round_trips == 3
    assert tap.round_trips == 3, "the farewell has no answer"


def test_counts_what_a_transaction_costs(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as connection, closing(connection.cursor()) as cursor:
        tap.reset()
        for sql in ("BEGIN", "SELECT 1", "COMMIT"):
            cursor.execute(sql)
        assert tap.round_trips == 3
        assert tap.statements == ["BEGIN", "SELECT 1", "COMMIT"]


def test_counts_the_connections_together(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as one, closing(through.connect()) as other:
        tap.reset()
        for connection in (one, other):
            with closing(connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
        assert tap.round_trips == 2
        assert tap.logins == 0, "they had logged in before"
        through.connect().close()
        assert tap.logins == 1


def test_authentication_is_not_counted(through: Database, tap: WireTap) -> None:
    through.connect().close()
    # PyMySQL sends SET NAMES and SET AUTOCOMMIT of its own accord.
    assert all(sql.startswith("SET ") for sql in tap.statements)
    assert tap.round_trips == len(tap.statements)


def test_cut_closes_the_connections(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")
        tap.cut()
        with pytest.raises(DRIVER_ERRORS):
            cursor.execute("SELECT 1")
    assert _select(through) == [(1,)]


def test_pause_holds_a_statement_until_resume(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as connection, ThreadPoolExecutor() as pool:

        def select() -> object:
            with closing(connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
                return cursor.fetchone()

        tap.reset()
        tap.pause()
        try:
            answer = pool.submit(select)
            with pytest.raises(NotYet):
                answer.result(timeout=0.5)
            assert tap.statements == []
        finally:
            tap.resume()
        assert answer.result(timeout=30) == (1,)


def test_pause_accepts_and_holds_a_connection(through: Database, tap: WireTap) -> None:
    tap.pause()
    with ThreadPoolExecutor() as pool:
        try:
            socket.create_connection((tap.host, tap.port), timeout=30).close()
            answer = pool.submit(_select, through)
            with pytest.raises(NotYet):
                answer.result(timeout=0.5)
        finally:
            tap.resume()
        assert answer.result(timeout=30) == [(1,)]


def test_refuse_until_accept(through: Database, tap: WireTap) -> None:
    with closing(through.connect()) as connection, closing(connection.cursor()) as cursor:
        tap.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((tap.host, tap.port), timeout=30)
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,), "the open connections stay"
        tap.accept()
        assert _select(through) == [(1,)]


def test_closes_while_connections_are_open_and_held(database: Database) -> None:
    with WireTap.to(database) as tap:
        connection = Database(database.kind, tap.url(database)).connect()
        tap.pause()
        held = socket.create_connection((tap.host, tap.port), timeout=30)
    with closing(held), suppress(ConnectionResetError):
        assert held.recv(1) == b""
    with (
        closing(connection),
        closing(connection.cursor()) as cursor,
        pytest.raises(DRIVER_ERRORS),
    ):
        cursor.execute("SELECT 1")
