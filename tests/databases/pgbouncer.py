"""A temporary PgBouncer, in front of the server of a database."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit

from .database import Database, parameters
from .local import LocalInstance, find_program
from .server import NoDatabase

_SETTINGS: Final = """
[databases]
* = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
admin_users = jss
pool_mode = {mode}
max_client_conn = {clients}
default_pool_size = {connections}
max_db_connections = {connections}
max_user_connections = {connections}
log_connections = 0
log_disconnections = 0
"""


class PgBouncer(LocalInstance):
    """PgBouncer, by default in transaction mode, with a password of its own.

    Parameters
    ----------
    target : Database
        In PostgreSQL.
    clients : int
        How many may connect.
    connections : int
        How many it holds to PostgreSQL at most.
    mode : str
        ``"transaction"`` or ``"session"``.

    Raises
    ------
    NoDatabase
        If the program is missing, or does not come up.
    """

    #: At once, whoever is connected.
    STOP: ClassVar[signal.Signals] = signal.SIGTERM
    _program: Path

    def __init__(
        self,
        target: Database,
        *,
        clients: int = 100,
        connections: int = 5,
        mode: str = "transaction",
    ) -> None:
        self._target = parameters(target.url)
        self._clients = clients
        self._connections = connections
        self._mode = mode
        super().__init__("postgresql")
        path = urlsplit(target.url).path
        #: The same database, reached through PgBouncer.
        self.database = Database(
            "postgresql", urlsplit(self.admin.url)._replace(path=path).geturl()
        )

    def find_programs(self) -> None:
        try:
            self._program = find_program("pgbouncer")
        except NoDatabase as error:
            raise NoDatabase(f"{error} (Debian: apt-get install pgbouncer)") from None

    def prepare(self) -> None:
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
            mode=self._mode,
            connections=self._connections,
        )
        self.write("pgbouncer.ini", text)
        super().start()

    def command(self) -> list[str]:
        return [str(self._program), str(self.directory / "pgbouncer.ini")]

    def command_console(self, command: str) -> None:
        """Give PgBouncer's own console a command."""
        console = urlsplit(self.database.url)._replace(path="/pgbouncer").geturl()
        Database("postgresql", console).execute(command)
