"""Databases of the run's own, dropped at its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.databases import KINDS as DATABASES
from tests.databases import Server, shared_server

__all__ = ["DATABASES", "Databases", "Place"]

#: What tells whether a commit really waits for the disk.
_DURABILITY: Final = {
    "postgresql": ("SHOW {}", ("fsync", "synchronous_commit")),
    "mysql": ("SELECT @@global.{}", ("innodb_flush_log_at_trx_commit", "innodb_flush_method")),
}
_DRIVERS: Final = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}


@dataclass(frozen=True)
class Place:
    """An empty database.

    Parameters
    ----------
    database : str
        One of :data:`DATABASES`.
    text : str
        What a user would type as ``database_filepath``.
    url : str
        The same as a URL of SQLAlchemy's, which names the driver.
    """

    database: str
    text: str
    url: str


class Databases:
    """Makes places: files in a directory, and databases on a server.

    The servers are those of the tests: one that the environment names, or else
    a temporary one, which does not sync what it commits to the disk.

    Parameters
    ----------
    names : iterable of str
        Of :data:`DATABASES`.
    directory : Path
        Where the files go.
    """

    def __init__(self, names: Iterable[str], directory: Path) -> None:
        self.names = tuple(names)
        self.directory = directory
        #: For people: the product and its version, and what its commits wait for.
        self.products: dict[str, str] = {}
        self._servers: dict[str, Server] = {}
        self._files = 0
        self._stack = ExitStack()

    def __enter__(self) -> Databases:
        """Find or start the servers."""
        with ExitStack() as stack:
            for name in self.names:
                if name == "sqlite":
                    self.products[name] = f"SQLite {sqlite3.sqlite_version}"
                    continue
                server = shared_server(name)
                stack.callback(server.close)
                self._servers[name] = server
                query, settings = _DURABILITY[name]
                values = [server.admin.rows(query.format(setting))[0][0] for setting in settings]
                self.products[name] = (
                    f"{server.version()} ({server.origin}; "
                    + ", ".join(f"{s}={v}" for s, v in zip(settings, values, strict=True))
                    + ")"
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was made, and stop what was started."""
        self._stack.close()

    def place(self, name: str) -> Place:
        """Make an empty database."""
        if name == "sqlite":
            self._files += 1
            path = self.directory / f"sessions-{self._files}.db"
            return Place(name, str(path), f"sqlite:///{path}")
        server = self._servers[name]
        made = server.create_database()
        self._stack.callback(server.drop_database, made)
        scheme, _, rest = made.url.partition("://")
        if "MariaDB" in self.products[name]:
            # SQLAlchemy tells MariaDB, which has collations of its own, by the URL.
            scheme = "mariadb"
        return Place(name, f"{scheme}://{rest}", f"{scheme}+{_DRIVERS[scheme]}://{rest}")
