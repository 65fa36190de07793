"""A PgBouncer of the run's own, in front of the database of a place."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import psycopg

from tests.databases.database import parameters
from tests.databases.local import LocalInstance, find_program
from tests.databases.server import NoDatabase

from .databases import Place

_SETTINGS: Final = """
[databases]
* = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
stats_users = jss
pool_mode = transaction
max_client_conn = {clients}
default_pool_size = {connections}
max_db_connections = {connections}
max_user_connections = {connections}
log_connections = 0
log_disconnections = 0
"""


class PgBouncer(LocalInstance):
    """PgBouncer in transaction mode, with a password of its own.

    Parameters
    ----------
    place : Place
        In PostgreSQL.
    clients : int
        How many may connect.
    connections : int
        How many it holds to PostgreSQL at most.

    Raises
    ------
    NoDatabase
        If the program is missing, or does not come up.
    """

    #: At once, whoever is connected.
    STOP: ClassVar[signal.Signals] = signal.SIGTERM
    _program: Path

    def __init__(self, place: Place, *, clients: int, connections: int) -> None:
        self._target = parameters(place.text)
        self._clients = clients
        self._connections = connections
        super().__init__("postgresql")
        self.place = Place(place.database, *(self._url(url) for url in (place.text, place.url)))

    def _url(self, url: str) -> str:
        parts = urlsplit(url)
        own = urlsplit(self.admin.url)
        return own._replace(scheme=parts.scheme, path=parts.path).geturl()

    def find_programs(self) -> None:
        try:
            self._program = find_program("pgbouncer")
        except NoDatabase as error:
            raise NoDatabase(f"{error} (Debian: apt-get install pgbouncer)") from None

    def initialise(self) -> None:
        # For SCRAM, PgBouncer would derive its secret from this at each login, which takes
        # milliseconds of its one thread; given the secret, version 1.18 logs in with it.
        self.write("users", f'"jss" "{self.password}"\n')

    def start(self) -> None:
        named = {name: self._target.get(name) for name in ("host", "port", "user", "password")}
        quoted = {name: str(value).replace("'", "''") for name, value in named.items() if value}
        text = _SETTINGS.format(
            target=" ".join(f"{name}='{value}'" for name, value in quoted.items()),
            port=self.port,
            users=self.directory / "users",
            clients=self._clients,
            connections=self._connections,
        )
        self.write("pgbouncer.ini", text)
        super().start()

    def command(self) -> list[str]:
        return [str(self._program), str(self.directory / "pgbouncer.ini")]

    def statements(self) -> int:
        """Return how many statements it has passed on to the place's database."""
        name = urlsplit(self.place.text).path[1:]
        settings = {**parameters(self.admin.url), "dbname": "pgbouncer"}
        with psycopg.connect(**settings, autocommit=True) as connection:
            cursor: psycopg.Cursor[dict[str, Any]] = connection.cursor(
                row_factory=psycopg.rows.dict_row
            )
            cursor.execute("SHOW STATS")
            return sum(int(row["total_query_count"]) for row in cursor if row["database"] == name)
