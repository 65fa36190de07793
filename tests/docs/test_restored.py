"""What the page on backups says of servers that go on while their database is restored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema import migrating

from ..databases import Database
from ..system.cluster import LEASE
from ..system.conftest import new_server, stored_in
from ..system.server import PATIENT, JupyterServer
from ..system.waiting import until

__all__ = ["new_server"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def served(database: Database, new_server: Callable[..., JupyterServer]) -> JupyterServer:
    server = new_server(
        f"{stored_in(database)}{PATIENT}c.PersistentSessionManager.lease_seconds = {LEASE}\n"
        'c.PersistentSessionManager.auto_upgrade = "never"\n'
    )
    server.start()
    return server


def ids(server: JupyterServer) -> list[str]:
    return [model["id"] for model in server.sessions()]


def stored(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT path FROM jupyter_sessions ORDER BY path")


def restore(database: Database, rows: list[tuple[object, ...]]) -> None:
    mark = "?" if database.kind == "sqlite" else "%s"
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        # At one moment: a renewal in between would write what is written here.
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM jupyter_sessions")
        marks = ", ".join([mark] * len(rows[0]))
        cursor.executemany(f"INSERT INTO jupyter_sessions VALUES ({marks})", rows)
        cursor.execute("COMMIT")


def test_servers_write_back_what_a_database_has_lost(
    database: Database, new_server: Callable[..., JupyterServer]
) -> None:
    engine = engines.create(database.url)
    migrating.upgrade(engine)
    server = served(database, new_server)
    before = server.create("before.ipynb")["id"]
    ended = server.create("ended.ipynb")["id"]
    rows = database.rows("SELECT * FROM jupyter_sessions")
    server.delete(ended)
    after = server.create("after.ipynb")["id"]

    # A backup is restored, without the registrations.
    restore(database, rows)
    database.execute("DELETE FROM jupyter_servers")
    assert ids(server) == [before, after]
    paths = [("after.ipynb",), ("before.ipynb",)]
    until(lambda: stored(database) == paths, why="the next renewal")

    # There is none, and the database is made anew.
    migrating.downgrade(engine, "base")
    assert ids(server) == [before, after]
    assert server.patch(after, path="a new name.ipynb").status_code == 200
    migrating.upgrade(engine)
    engine.dispose()
    paths = [("a new name.ipynb",), ("before.ipynb",)]
    until(lambda: stored(database) == paths, why="the next renewal")
    assert ids(server) == [before, after]
    assert server.uncaught() == []
