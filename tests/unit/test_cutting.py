"""A connection whose other end hangs: it is cut from outside, and a new one takes its place."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.records import Departure
from jupyter_session_store.sql.engine import cutting, timeouts
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.migrating import migration_connection
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database
from tests.hanging import HangingProxy
from tests.migrations.support import engine_of, status
from tests.unit.dummies import (
    NOTEBOOK,
    assert_equal_after_renewal,
    make_manager,
    shared_manager,
    stored,
)

log = logging.getLogger("tests")

needs_network = pytest.mark.only(
    "postgresql", "mysql", reason="SQLite is reached through no network"
)
#: What takes so many seconds.
SLEEP = {"postgresql": "SELECT pg_sleep({})", "mysql": "SELECT SLEEP({})"}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each statement less time than a server does: the tests wait for it."""
    monkeypatch.setattr(timeouts, "STATEMENT_TIMEOUT", 3)


@pytest.fixture
def proxy(database: Database) -> Iterator[HangingProxy]:
    with HangingProxy(database) as proxy:
        yield proxy


@pytest.fixture
def repository(proxy: HangingProxy, brief: None) -> Iterator[SQLAlchemySessionRepository]:
    options = {"connect_args": {"connect_timeout": 5}}
    repository = SQLAlchemySessionRepository(
        proxy.url, options=options, auto_upgrade="safe", log=log
    )
    repository.open(SCOPE, server("one"), timeout=60)
    yield repository
    proxy.go_on()
    repository.close(timeout=10)


def duplicates(repository: SQLAlchemySessionRepository) -> list[cutting._Duplicate]:
    return list(repository._database._watch._duplicates)


@needs_network
async def test_a_call_that_hangs_is_made_again_on_another_connection(
    proxy: HangingProxy,
    repository: SQLAlchemySessionRepository,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await repository.add(record("a", kernel_id="k"))
    for verb in (
        lambda: repository.find(SCOPE),
        lambda: repository.update(SCOPE, "a", {"name": "n"}),
        lambda: repository.add(record("b", kernel_id="k")),
        lambda: repository.remove(SCOPE, [record("b", kernel_id="k")]),
    ):
        proxy.hang()
        began = time.monotonic()
        assert await verb() != []
        print(f"answered after {time.monotonic() - began:.2f} s")
    assert [r.session_id for r in await repository.find(SCOPE)] == ["a"]
    assert "unavailable" not in caplog.text


@pytest.mark.only("postgresql", reason="no other driver takes several hosts")
async def test_a_host_that_hangs_is_tried_last(
    database: Database, proxy: HangingProxy, brief: None, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a fail-over: the first host of the URL hangs, and the second is the primary."""
    first, second = urlsplit(proxy.url), urlsplit(database.url)
    login = first.netloc.rpartition("@")[0]
    hosts = "&".join(f"host={one.hostname}:{one.port}" for one in (first, second))
    url = first._replace(netloc=f"{login}@", query=hosts).geturl()
    # Above what a request waits for in all: were the first host tried first, it would fail.
    options = {"connect_args": {"connect_timeout": 30}}
    repository = SQLAlchemySessionRepository(url, options=options, auto_upgrade="safe", log=log)
    repository.open(SCOPE, server("one"), timeout=60)
    await repository.add(record("a"))
    proxy.hang(new=True)
    assert await repository.find(SCOPE) == [record("a")]
    assert "unavailable" not in caplog.text
    proxy.go_on()
    repository.close(timeout=10)


@needs_network
async def test_all_that_wait_are_answered(
    proxy: HangingProxy, repository: SQLAlchemySessionRepository
) -> None:
    await repository.add(record("a"))
    proxy.hang()
    answers = await asyncio.gather(*(repository.find(SCOPE) for _ in range(20)))
    assert answers == [[record("a")]] * 20


@needs_network
async def test_the_heartbeat_cuts_too(
    proxy: HangingProxy, repository: SQLAlchemySessionRepository
) -> None:
    """No request may come for a long time."""
    proxy.hang()
    (one,) = await asyncio.to_thread(repository.renew, server("one"), [], timeout=10)
    assert one.server_id == "one"


@needs_network
async def test_a_first_start_whose_connection_hangs_does_not_hang(
    proxy: HangingProxy, brief: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it makes the tables: a migration of an empty database has no long statement."""
    monkeypatch.setattr(timeouts, "SILENCE_TIMEOUT", 5)
    repository = SQLAlchemySessionRepository(proxy.url, options={}, auto_upgrade="safe", log=log)
    hung = hang_at(repository, proxy, "CREATE TABLE jupyter_sessions")
    began = time.monotonic()
    # It says in the log that the database is away, and goes on.
    repository.open(SCOPE, server("one"), timeout=60)
    assert time.monotonic() - began < 50
    # Its session, which had the lock of migrations, has ended as well.
    assert await asyncio.wait_for(until_found(repository), 60) == []
    assert len(hung) == 1
    await repository.add(record("a"))
    repository.close(timeout=10)


def hang_at(
    repository: SQLAlchemySessionRepository, proxy: HangingProxy, statement: str
) -> list[str]:
    """Let the connection hang, once, when a statement is sent; return what was."""
    hung: list[str] = []

    def hang(_cursor: object, sent: str, *_: object) -> None:
        if statement in sent.replace("IF NOT EXISTS ", "") and not hung:
            hung.append(sent)
            proxy.hang()

    engine = repository._database.engine
    for name in ("do_execute", "do_execute_no_params"):
        event.listen(engine, name, hang)
    # It is no statement of a cursor.
    event.listen(engine, "commit", lambda _connection: hang(None, "COMMIT"))
    return hung


@needs_network
@pytest.mark.parametrize("statement", ["ALTER TABLE", "COMMIT"])
async def test_an_upgrade_whose_connection_hangs_does_not_keep_the_server_away(
    database: Database,
    proxy: HangingProxy,
    brief: None,
    caplog: pytest.LogCaptureFixture,
    statement: str,
) -> None:
    """Its session is ended in the database too, where it has the lock of migrations."""
    caplog.set_level(logging.INFO)
    with engine_of(database.url) as engine:
        migrating.upgrade(engine, "0001")
    repository = SQLAlchemySessionRepository(proxy.url, options={}, auto_upgrade="always", log=log)
    hung = hang_at(repository, proxy, statement)
    repository.open(SCOPE, server("one"), timeout=0.1)
    assert "starts without it" in caplog.text
    # What hangs is never let go.
    assert await asyncio.wait_for(until_found(repository), 60) == []
    assert len(hung) == 1
    await repository.add(record("a"))
    with engine_of(database.url) as engine:
        assert status(engine).state is State.CURRENT
    repository.close(timeout=10)


@needs_network
@pytest.mark.parametrize("shared", [False, True], ids=["local", "gateway"])
async def test_a_manager_goes_on(proxy: HangingProxy, brief: None, shared: bool) -> None:
    manager = shared_manager(proxy.url) if shared else make_manager(proxy.url)
    model = await manager.create_session(**NOTEBOOK)
    # A gateway's kernel may be another server's by now; whether it lives is not the question.
    for verb in (
        manager.list_sessions,
        lambda: manager.get_session(session_id=model["id"]),
        lambda: manager.create_session(path="b.ipynb", name="", type="notebook"),
        lambda: manager.change_session(model["id"], path="c.ipynb"),
        lambda: manager.delete_session(model["id"]),
    ):
        proxy.hang()
        await verb()
    assert [one["path"] for one in await manager.list_sessions()] == ["b.ipynb"]
    assert len(manager.kernel_manager.list_kernel_ids()) == 1
    if not shared:
        await assert_equal_after_renewal(manager)
    assert [row.path for row in await stored(manager)] == ["b.ipynb"]
    manager.close()


@needs_network
async def test_a_host_that_accepts_and_says_nothing_is_left(
    proxy: HangingProxy,
    repository: SQLAlchemySessionRepository,
) -> None:
    """While it is connected to, there is nothing to cut: the driver itself gives up."""
    await repository.add(record("a"))
    proxy.hang(new=True)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await repository.find(SCOPE)
    print(f"refused after {time.monotonic() - began:.2f} s")
    proxy.go_on()
    # Whatever the first call still waits for ends by itself.
    assert await asyncio.wait_for(until_found(repository), 60) == [record("a")]


async def until_found(repository: SQLAlchemySessionRepository) -> object:
    while True:
        try:
            return await repository.find(SCOPE)
        except StoreUnavailable:
            await asyncio.sleep(0.1)


@needs_network
async def test_many_statements_may_take_long_together(
    kind: str, repository: SQLAlchemySessionRepository
) -> None:
    begun: list[int] = []

    def unit(connection: Connection) -> None:
        begun.append(1)
        for _ in range(14):
            connection.exec_driver_sql(SLEEP[kind].format(0.25)).close()

    await repository._run(unit)
    assert len(begun) == 1


@needs_network
async def test_what_takes_too_long_is_told_from_what_hangs(
    kind: str, repository: SQLAlchemySessionRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL gives the statement up, and says so; MariaDB cannot."""
    if kind == "postgresql":
        # However late its answer comes.
        monkeypatch.setattr(timeouts, "ANSWER_MARGIN", 10)
    attempts: list[int] = []

    def unit(connection: Connection) -> None:
        attempts.append(1)
        connection.exec_driver_sql(SLEEP[kind].format(5)).close()

    with pytest.raises(StoreUnavailable):
        await repository._run(unit)
    assert len(attempts) == {"postgresql": 1, "mysql": 2}[kind]


@needs_network
def test_a_migration_is_not_cut(
    kind: str, database: Database, brief: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.create(database.url)
    watch = cutting.StatementWatch(engine)
    # Of the class: MariaDB has an object of its own from the first connect on.
    driver = type(backend_of(engine).driver)
    end_if_waiting, is_hanging = driver.end_if_waiting, cutting._Attendant._is_hanging
    begun, answers = list[int](), list[bool]()

    def look(attendant: Any) -> bool:
        begun.append(1)
        return is_hanging(attendant)

    def ask(*how: Any) -> bool:
        answers.append(end_if_waiting(*how))
        return answers[-1]

    monkeypatch.setattr(cutting._Attendant, "_is_hanging", look)

    monkeypatch.setattr(driver, "end_if_waiting", ask)
    with migration_connection(engine) as connection:
        watch.cut()
        # Nor where a statement takes longer than any of a server: the database works on it.
        connection.exec_driver_sql(SLEEP[kind].format(8)).close()
        connection.commit()
        asked = len(begun)
        # Nor where it is this program that takes long.
        time.sleep(5)
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert asked == len(begun) > 0
    assert answers
    assert not any(answers)
    with engine.connect() as connection:
        watch.cut()
        with pytest.raises(Exception, match=r"closed|[Ll]ost|gone away"):
            connection.exec_driver_sql("SELECT 1")
    engine.dispose()


@needs_network
async def test_a_duplicate_goes_with_its_connection(
    repository: SQLAlchemySessionRepository,
) -> None:
    await repository.find(SCOPE)
    (duplicate,) = duplicates(repository)
    assert duplicate._descriptor is not None
    assert repository._worker is not None
    # As when it is idle.
    repository._worker.submit(repository._database.release).result(30)
    assert duplicate._descriptor is None


@needs_network
def test_a_connection_that_hangs_outlives_no_manager(
    proxy: HangingProxy, brief: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    repository = SQLAlchemySessionRepository(proxy.url, options={}, auto_upgrade="safe", log=log)
    repository.open(SCOPE, server("one"), timeout=60)
    # Not the attendant of its start, which ends by itself.
    new = set(threading.enumerate()) - before
    (thread,) = (one for one in new if one.name == "jupyter_session_store")
    proxy.hang()
    repository.close(Departure(SCOPE, "one", frozenset()), timeout=0.2)
    assert "The sessions of this server stay in the store" in caplog.text
    thread.join(30)
    assert not thread.is_alive()


def test_only_the_duplicate_is_cut() -> None:
    """The driver's number may be another file's by then."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        number = ours.fileno()
        duplicate = cutting._Duplicate(number)
        ours.close()
        other, peer = socket.socketpair()
        with closing(other), closing(peer):
            assert number in (other.fileno(), peer.fileno())
            theirs.settimeout(30)
            duplicate.cut()
            assert theirs.recv(1) == b""
            other.sendall(b"x")
            assert peer.recv(1) == b"x"
            # Nor later, when the number of the duplicate is another's.
            duplicate.cut()
            duplicate.close()
            other.sendall(b"y")
            assert peer.recv(1) == b"y"


def test_what_cannot_be_cut_stays_as_it_is(tmp_path: object) -> None:
    engine = engines.create(f"{tmp_path}/x.db")
    watch = cutting.StatementWatch(engine)
    with engine.connect() as connection:
        watch.begin()
        watch.cut()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    engine.dispose()


def test_nobody_asks_more_often_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    engine = engines.create(":memory:")
    watch = cutting.StatementWatch(engine)
    cuts: list[float] = []
    monkeypatch.setattr(watch, "cut", lambda: cuts.append(moment))
    limit = timeouts.STATEMENT_TIMEOUT + timeouts.ANSWER_MARGIN
    assert watch.cut_if_overdue() == limit
    watch.begin()
    moment += 2
    assert watch.cut_if_overdue() == limit - 2
    moment += limit
    watch.cut_if_overdue()
    assert cuts == [moment]
    with watch.longer(60):
        assert 0 < watch.cut_if_overdue() < 60
    watch.end()
    assert watch.cut_if_overdue() == limit
    assert cuts == [moment]
    engine.dispose()


@needs_network
@pytest.mark.parametrize("where", ["in its log-in", "in a statement", "in a transaction"])
def test_a_connection_of_an_operator_that_hangs_is_cut(
    kind: str, proxy: HangingProxy, brief: None, where: str
) -> None:
    engine = engines.create(proxy.url, statement_timeout=False)

    def hang(*_: object) -> None:
        proxy.hang()

    if where == "in its log-in":
        event.listen(engine, "connect", hang, insert=True)

    def work() -> None:
        with cutting.connected(engine) as connection:
            # However long it takes.
            connection.exec_driver_sql(SLEEP[kind].format(2)).close()
            if where == "in a transaction":
                connection.exec_driver_sql(backend_of(connection).begin)
            hang()
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DBAPIError):
        work()
    engine.dispose()


@needs_network
def test_who_asks_whether_a_connection_hangs_may_hang_too(proxy: HangingProxy, brief: None) -> None:
    engine = engines.create(proxy.url, statement_timeout=False)
    asked: list[str] = []

    def hang_once(*_: object) -> None:
        name = threading.current_thread().name
        if "attendant" in name:
            asked.append(name)
            if len(asked) == 1:
                proxy.hang()

    event.listen(engine, "connect", hang_once)

    def work() -> None:
        with cutting.connected(engine) as connection:
            proxy.hang()
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DBAPIError):
        work()
    assert len(asked) == 2
    engine.dispose()
