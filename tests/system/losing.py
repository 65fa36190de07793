"""A database that goes away, or loses what it had, in each way that one can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..databases import Database, Instance
from ..databases.database import carry_out
from .faults import Outage, locked

_TABLES: Final = ("jupyter_servers", "jupyter_sessions")
_USER: Final = "jss_plain"


class LosingDatabase:
    """A database of a test's own; a context manager.

    Parameters
    ----------
    database : Database
        A file is alone in its folder.
    instance : Instance, optional
        Its server, which is the test's own too; SQLite has none.

    Attributes
    ----------
    url : str
        What a server uses, whose user is no administrator.
    """

    def __init__(self, database: Database, instance: Instance | None) -> None:
        self.database = database
        self._instance = instance
        self._outage = Outage(database)
        self.url = self._outage.url
        if database.kind == "mysql":
            # An administrator writes where others only read.
            name = urlsplit(database.url).path[1:]
            database.execute(f"CREATE USER {_USER}@'%' IDENTIFIED BY '{_USER}'")
            database.execute(f"GRANT ALL ON {name}.* TO {_USER}@'%'")
            parts = urlsplit(self.url)
            place = parts.netloc.rpartition("@")[2]
            self.url = parts._replace(netloc=f"{_USER}:{_USER}@{place}").geturl()

    def __enter__(self) -> LosingDatabase:
        self._outage.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._outage.__exit__()

    @property
    def ways(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """What can happen, by name; each lasts while its context does, and leaves it well."""
        either = {
            "restored": self.restored,
            "emptied": self.emptied,
            "without tables": self.without_tables,
        }
        if self._instance is None:
            return {**either, "held": self.read_only, "moved": self.moved}
        return {
            **either,
            "stopped": self.stopped,
            "killed": partial(self.stopped, kill=True),
            "read-only": self.read_only,
            "hung": self._outage.hung,
        }

    @contextmanager
    def stopped(self, *, kill: bool = False) -> Iterator[None]:
        """Stop or SIGKILL the database, and start it again. A file is moved away, and back."""
        if self._instance is None:
            with self.moved():
                yield
            return
        (self._instance.kill if kill else self._instance.stop)()
        try:
            yield
        finally:
            self._instance.start()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nobody but administrators write. A file is held by another process."""
        if self._instance is None:
            with locked(self.database):
                yield
            return
        settings = {
            "postgresql": [
                "ALTER SYSTEM SET default_transaction_read_only = {}",
                "SELECT pg_reload_conf()",
            ],
            "mysql": ["SET GLOBAL read_only = {}"],
        }[self.database.kind]
        for statement in settings:
            self.database.execute(statement.format("on"))
        try:
            yield
        finally:
            for statement in settings:
                self.database.execute(statement.format("off"))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore at the end what was there at the beginning."""
        dumped = {name: self._dump(name) for name in _TABLES}
        yield
        self._empty()
        for name, (columns, rows) in dumped.items():
            self._fill(name, columns, rows)

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Have no rows left, neither at the beginning nor at the end."""
        self._empty()
        yield
        self._empty()

    @contextmanager
    def without_tables(self) -> Iterator[None]:
        """Take the tables away, and give them back as they were."""
        for name in _TABLES:
            self.database.execute(f"ALTER TABLE {name} RENAME TO away_{name}")
        try:
            yield
        finally:
            for name in _TABLES:
                self.database.execute(f"ALTER TABLE away_{name} RENAME TO {name}")

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Move the folder of a file away, and back: with what SQLite keeps beside the file."""
        folder = Path(urlsplit(self.database.url).path[1:]).parent
        away = folder.with_name("away")
        folder.rename(away)
        try:
            yield
        finally:
            away.rename(folder)

    def _dump(self, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        with closing(self.database.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {name}")
            return [column[0] for column in cursor.description], list(cursor.fetchall())

    def _fill(self, name: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        mark = "?" if self.database.kind == "sqlite" else "%s"
        marks = ", ".join([mark] * len(columns))
        # Where the servers have put their rows back meanwhile, those are newer.
        ignore = {"sqlite": "INSERT OR IGNORE", "mysql": "INSERT IGNORE"}
        insert = ignore.get(self.database.kind, "INSERT")
        end = " ON CONFLICT DO NOTHING" if self.database.kind == "postgresql" else ""
        statement = f"{insert} INTO {name} ({', '.join(columns)}) VALUES ({marks}){end}"
        with closing(self.database.connect()) as connection, closing(connection.cursor()) as cursor:
            for row in rows:
                carry_out(cursor, statement, row)

    def _empty(self) -> None:
        for name in reversed(_TABLES):
            self.database.execute(f"DELETE FROM {name}")
