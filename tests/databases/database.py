"""One database of a test, looked at straight through the driver."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
import pymysql

#: The kinds, which are also the ids of the parametrized tests.
KINDS: Final = ("sqlite", "postgresql", "mysql")

DRIVER_ERRORS: Final = (sqlite3.Error, psycopg.Error, pymysql.Error)

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
}


@dataclass(frozen=True)
class Database:
    """A database, empty at first, that belongs to one test.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    url : str
        As a user types it: ``sqlite:///``, ``postgresql://`` or ``mysql://``.
    """

    kind: str
    url: str

    @property
    def sqlalchemy_url(self) -> str:
        """The URL with its driver named."""
        return _DRIVERS[self.kind] + self.url[self.url.index("://") :]

    def connect(self) -> Any:
        """Return a new connection of the driver, in autocommit."""
        settings = parameters(self.url)
        if self.kind == "sqlite":
            return sqlite3.connect(**settings, isolation_level=None)
        if self.kind == "postgresql":
            return psycopg.connect(**settings, autocommit=True)
        return pymysql.connect(**settings, autocommit=True)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    def execute(self, sql: str) -> None:
        """Execute a statement that has no rows."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            carry_out(cursor, sql)


def carry_out(cursor: Any, sql: str, *parameters: object) -> None:
    """Execute a statement in autocommit, again whenever it is the one that a deadlock ends."""
    for left in reversed(range(100)):
        try:
            cursor.execute(sql, *parameters)
        except DRIVER_ERRORS as error:
            deadlock = getattr(error, "sqlstate", None) == "40P01" or error.args[:1] == (1213,)
            if not (deadlock and left):
                raise
        else:
            return


def parameters(url: str) -> dict[str, Any]:
    """Return what the driver's ``connect`` takes for a URL.

    Parameters
    ----------
    url : str
        Of a :class:`Database`. What its query says is passed on as it is.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"database": parts.path[1:]}
    postgresql = parts.scheme == "postgresql"
    settings: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or (5432 if postgresql else 3306),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname" if postgresql else "database": parts.path[1:],
        "connect_timeout": 10,
    }
    if not postgresql:
        settings["charset"] = "utf8mb4"
    return settings | dict(parse_qsl(parts.query))
