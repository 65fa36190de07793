"""Database servers whose client programs are of their own version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import pytest

from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema import migrating

from ..databases import Database, Server
from ..databases.local import LocalInstance
from ..databases.mysql import LocalMySQL
from ..databases.plugin import Servers
from ..databases.postgresql import LocalPostgreSQL

_DROP_USER: Final = {"postgresql": 'DROP ROLE "{}"', "mysql": "DROP USER '{}'@'%'"}


@pytest.fixture(scope="session")
def server_of(servers: Servers) -> Iterator[Callable[[str], Server]]:
    """A function that returns the server of a kind, one that was started from its programs."""
    own: dict[str, LocalInstance] = {}

    def get(kind: str) -> Server:
        shared = servers.get(kind)
        if isinstance(shared, LocalInstance):
            return shared
        if kind not in own:
            own[kind] = {"mysql": LocalMySQL, "postgresql": LocalPostgreSQL}[kind]()
        return own[kind]

    yield get
    for server in own.values():
        server.close()


@pytest.fixture
def named_database(server_of: Callable[[str], Server]) -> Iterator[Callable[[str], Database]]:
    """A function that returns a database of a kind, with its tables, called as in the pages.

    It goes after the test, and with it all databases and users that the test has made.
    """
    used: list[tuple[Server, dict[str, set[str]]]] = []

    def new(kind: str) -> Database:
        server = server_of(kind)
        used.append((server, _names(server)))
        server.admin.execute("CREATE DATABASE jupyter")
        url = urlsplit(server.admin.url)._replace(path="/jupyter").geturl()
        engine = engines.create(url)
        migrating.upgrade(engine)
        engine.dispose()
        return Database(kind, url)

    yield new
    for server, before in used:
        now = _names(server)
        for name in now["DATABASE"] - before["DATABASE"]:
            server.drop_database(Database(server.kind, f"{server.kind}://x/{name}"))
        for name in now["USER"] - before["USER"]:
            server.admin.execute(_DROP_USER[server.kind].format(name))


def _names(server: Server) -> dict[str, set[str]]:
    """Return the databases and the users of a server."""
    queries = {
        "postgresql": {
            "DATABASE": "SELECT datname FROM pg_database",
            "USER": "SELECT rolname FROM pg_roles",
        },
        "mysql": {
            "DATABASE": "SELECT schema_name FROM information_schema.schemata",
            "USER": "SELECT user FROM mysql.user",
        },
    }[server.kind]
    return {what: {name for (name,) in server.admin.rows(sql)} for what, sql in queries.items()}
