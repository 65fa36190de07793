"""What a server sends that nobody uses: its renewals, counted on the wire, and its log-ins."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, make_url

from jupyter_session_store import __version__
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, server
from tests.databases import Database
from tests.databases.pgbouncer import PgBouncer
from tests.unit.dummies import make_manager
from tests.wire import WireTap

has_a_wire = pytest.mark.only("postgresql", "mysql", reason="SQLite has no wire")
#: PyMySQL's waits for locks, and its character set, which SQLAlchemy names.
STATEMENTS_OF_A_LOGIN = {"postgresql": 0, "mysql": 2}


def opened(url: str, idle_seconds: float) -> SQLAlchemySessionRepository:
    """Open a repository whose server has renewed its lease once."""
    repository = SQLAlchemySessionRepository(
        url, options={}, auto_upgrade="safe", log=logging.getLogger(__name__)
    )
    repository.connection_idle_seconds = idle_seconds
    repository.open(SCOPE, server("one"), timeout=30)
    repository.renew(server("one"), [], timeout=30)
    return repository


async def until_given_up(repository: SQLAlchemySessionRepository) -> None:
    """Wait until a repository holds no connection."""
    for _ in range(1500):
        if repository._database._connection is None:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it keeps its connection")


@has_a_wire
def test_an_idle_server_with_a_connection_sends_two_statements_a_renewal(
    database: Database,
) -> None:
    with WireTap.to(database) as tap:
        repository = opened(tap.url(database), 3600)
        tap.reset()
        for renewals in range(1, 4):
            repository.renew(server("one"), [], timeout=30)
            assert tap.logins == 0
            assert [text.split()[0] for text in tap.statements] == ["UPDATE", "SELECT"] * renewals
            assert tap.round_trips == 2 * renewals
        repository.close(timeout=30)


@has_a_wire
async def test_an_idle_server_without_one_logs_in_once_a_renewal(database: Database) -> None:
    with WireTap.to(database) as tap:
        repository = opened(tap.url(database), 0.02)
        more = STATEMENTS_OF_A_LOGIN[database.kind]
        for _ in range(3):
            await until_given_up(repository)
            tap.reset()
            await asyncio.to_thread(repository.renew, server("one"), [], timeout=30)
            assert tap.logins == 1
            # An earlier end of the connection may come meanwhile, which has no answer.
            assert tap.round_trips == 2 + more, tap.statements
            *first, update, select = (text.split()[0] for text in tap.statements)
            assert first == ["SET"] * more
            assert (update, select) == ("UPDATE", "SELECT")
        repository.close(timeout=30)


@pytest.mark.parametrize("repository", ["sqlalchemy", "memory"])
def test_every_repository_is_told_how_long_to_keep_a_connection(repository: str) -> None:
    manager = make_manager(repository=repository, connection_idle_seconds=40)
    measured: Any = manager.store
    assert measured._measured.connection_idle_seconds == 40
    manager.close()


def limits_of(engine: Engine, database: Database) -> tuple[Any, ...]:
    """Return what limits the statements of a new connection."""
    query = {
        "postgresql": "SELECT current_setting('statement_timeout')",
        "mysql": "SELECT @@session.innodb_lock_wait_timeout, @@session.lock_wait_timeout",
    }
    with engine.connect() as connection:
        found = connection.exec_driver_sql(query[database.kind]).one()
    engine.dispose()
    return tuple(found)


@has_a_wire
@pytest.mark.parametrize("settings", ["none", "theirs", "environment"])
def test_limits_are_set_whatever_else_is_set_at_a_login(
    database: Database, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    ours = {"postgresql": ("5s",), "mysql": (4, 4)}[database.kind]
    given: dict[str, Any] = {}
    if settings == "theirs":
        given = {"postgresql": {"options": "-cwork_mem=1MB"}, "mysql": {"sql_mode": "ANSI"}}
        given = given[database.kind]
    elif settings == "environment":
        monkeypatch.setenv("PGOPTIONS", "-cwork_mem=1MB")
    engine = engines.create(database.url, {"connect_args": given})
    assert limits_of(engine, database) == ours
    if database.kind == "postgresql" and settings != "none":
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW work_mem").scalar_one() == "1MB"
    engine.dispose()


@pytest.mark.only("mysql", reason="PyMySQL's own")
def test_an_init_command_of_a_user_replaces_the_limits(database: Database) -> None:
    command = "SET SESSION innodb_lock_wait_timeout = 9"
    engine = engines.create(database.url, {"connect_args": {"init_command": command}})
    rows, tables = limits_of(engine, database)
    assert rows == 9
    assert tables != 4


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
async def test_behind_a_pooler_that_refuses_options_one_login_is_lost(database: Database) -> None:
    with closing(PgBouncer(database)) as bouncer, WireTap.to(bouncer.database) as tap:
        repository = opened(tap.url(bouncer.database), 0.02)
        await until_given_up(repository)
        engine = repository._database.engine
        # Its thread, which gives the connection up, would have the pool drop those of this one.
        repository.close(timeout=30)
        for _ in range(2):
            # PgBouncer has refused the options of the first; no other has any.
            tap.reset()
            assert limits_of(engine, database) == ("0",)
            assert tap.logins == 1
        tap.reset()
        engine = engines.create(tap.url(bouncer.database))
        limits_of(engine, database)
        assert tap.logins == 2


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
@pytest.mark.parametrize(("query", "more"), [("", ["SET"]), ("?application_name=common", [])])
def test_behind_a_pooler_one_name_for_all_servers_saves_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch, query: str, more: list[str]
) -> None:
    """PgBouncer passes a client's name on where a connection changes hands."""
    with WireTap.to(database) as tap:
        target = Database(database.kind, tap.url(database))
        with closing(PgBouncer(target, connections=1)) as bouncer:
            repositories = []
            for host in ("one", "two"):
                monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
                repositories.append(opened(bouncer.database.url + query, 3600))
            tap.reset()
            for repository in repositories:
                repository.renew(server("one"), [], timeout=30)
            sent = [text.split()[0] for text in tap.statements]
            assert sent == [*more, "UPDATE", "SELECT"] * 2
            assert tap.logins == 0
            for repository in repositories:
                repository.close(timeout=30)


@pytest.mark.only("postgresql", reason="another database refuses no options")
def test_another_refusal_of_a_login_is_not_tried_twice(database: Database) -> None:
    wrong = make_url(database.url).set(database="nowhere").render_as_string(hide_password=False)
    with WireTap.to(database) as tap:
        through = tap.url(Database(database.kind, wrong))
        engine = engines.create(through)
        with pytest.raises(Exception, match="nowhere"):
            engine.connect()
        assert tap.logins == 1


def shown(engine: Engine, database: Database) -> str:
    """Return the name of a program, as its database or, where that cannot tell, its driver has."""
    try:
        return _shown(engine, database)
    finally:
        engine.dispose()


def _shown(engine: Engine, database: Database) -> str:
    with engine.connect() as connection:
        if database.kind == "postgresql":
            own = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            return str(connection.exec_driver_sql(own).scalar_one())
        if connection.exec_driver_sql("SELECT @@performance_schema").scalar_one():
            own = (
                "SELECT attr_value FROM performance_schema.session_connect_attrs "
                "WHERE attr_name = 'program_name' AND processlist_id = connection_id()"
            )
            return str(connection.exec_driver_sql(own).scalar_one())
        driver: Any = connection.connection.dbapi_connection
        return str(driver._connect_attrs["program_name"])


@has_a_wire
def test_the_database_can_tell_which_server_a_connection_is_of(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = f"jupyter_session_store {__version__} {os.getpid()}@{socket.gethostname()}"
    assert shown(engines.create(database.url), database) == whole[:63]
    monkeypatch.setattr(socket, "gethostname", lambda: "ü" * 100)
    name = shown(engines.create(database.url), database)
    assert len(name) == 63
    assert name.endswith("@" + "?" * (63 - name.index("@") - 1))


@has_a_wire
def test_a_name_of_the_users_wins(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    argument = {"postgresql": "application_name", "mysql": "program_name"}[database.kind]
    url = make_url(database.url).update_query_dict({argument: "of the URL"})
    text = url.render_as_string(hide_password=False)
    assert shown(engines.create(text), database) == "of the URL"
    options = {"connect_args": {argument: "of the options"}}
    assert shown(engines.create(database.url, options), database) == "of the options"
    if database.kind == "postgresql":
        monkeypatch.setenv("PGAPPNAME", "of the environment")
        assert shown(engines.create(database.url), database) == "of the environment"
