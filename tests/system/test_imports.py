"""What a real server has imported through this package, and would keep in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from ..databases import Database
from .server import JupyterServer

pytestmark = pytest.mark.system

_CONFIG = """
c.SessionManager.database_filepath = {url!r}

def _tell():
    with open({file!r}, "w") as file:
        file.write(" ".join(sys.modules))

import atexit, sys
atexit.register(_tell)
"""
#: What belongs to a migration, a command, another database's driver, or the declarative model.
UNUSED = {
    *("alembic", "mako", "rich", "jupyter_session_store.cli"),
    *("MySQLdb", "psycopg", "psycopg2", "pymysql", "sqlalchemy.orm"),
    *(f"sqlalchemy.dialects.{name}" for name in ("mysql", "postgresql", "sqlite")),
}
USED = {
    "sqlite": {"sqlalchemy.dialects.sqlite"},
    "postgresql": {"sqlalchemy.dialects.postgresql", "psycopg"},
    "mysql": {"sqlalchemy.dialects.mysql", "pymysql"},
}


@pytest.fixture
def server(database: Database) -> Iterator[JupyterServer]:
    # Not forked from a process that has imported all of it.
    with closing(JupyterServer(fork=False)) as server:
        file = str(server.directory / "modules.txt")
        server.configure(_CONFIG.format(url=database.url, file=file))
        yield server


def test_a_server_imports_nothing_that_it_does_not_use(
    database: Database, server: JupyterServer
) -> None:
    for start in ("it makes the tables", "it finds them"):
        server.start()
        assert server.sessions() == []
        server.stop()
        imported = set((server.directory / "modules.txt").read_text().split())
        assert "jupyter_session_store.sql.repository" in imported
        assert imported & (UNUSED - USED[database.kind]) == set(), start
        assert imported >= USED[database.kind]
    assert database.rows("SELECT version_num FROM jupyter_session_store_version")
