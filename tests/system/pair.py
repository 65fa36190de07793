"""A primary and its standby at one port of two addresses, as on two machines."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from jupyter_session_store.sql.doctor import Finding, examine
from jupyter_session_store.sql.engine.factory import create
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, server

from ..databases import Database
from ..databases.postgresql import LocalPostgreSQL
from .test_failover import Standby
from .waiting import until

#: Both, as the reference recommends it.
URL: Final = "postgresql://jupyter@db1:5432,db2:5432/jupyter"
#: What the documentation calls the two, and their addresses.
_HOSTS: Final = (("db1", "192.0.2.1"), ("db2", "192.0.2.2"))


class NextDoor(LocalPostgreSQL):
    """A server at 127.0.0.2."""

    HOST: Final = "127.0.0.2"
    #: The port of the other one; by default one of its own.
    wanted: int | None = None

    @property
    def place(self) -> str:
        """Its host and its port."""
        return f"{self.HOST}:{self.port}"

    def start(self) -> None:
        port = self.wanted or self.port
        self.admin = Database(
            "postgresql", self.admin.url.replace(f"127.0.0.1:{self.port}", f"{self.HOST}:{port}")
        )
        self.port = port
        super().start()

    def command(self) -> list[str]:
        return [*super().command(), "-c", f"listen_addresses={self.HOST}"]


class StandbyNextDoor(NextDoor, Standby):
    """A standby at the port of its primary."""

    def __init__(self, primary: LocalPostgreSQL) -> None:
        self.wanted = primary.port
        super().__init__(primary)

    def catch_up(self) -> None:
        """Wait until it has all that its primary has written."""
        (written,) = self._primary.admin.rows("SELECT pg_current_wal_lsn()::text")[0]
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        until(lambda: self.admin.rows(replayed) == [(True,)], why="the standby has it")


class Pair:
    """The two, and a database on them.

    Parameters
    ----------
    primary, standby
    """

    def __init__(self, primary: LocalPostgreSQL, standby: StandbyNextDoor) -> None:
        self.primary = primary
        self.standby = standby
        self.database = primary.create_database()
        standby.catch_up()
        self.port = primary.port

    @property
    def on_standby(self) -> Database:
        """The database, as the standby has it."""
        return Database("postgresql", self.database.url.replace("127.0.0.1", NextDoor.HOST))

    def url(self, spelling: str, *, standby_first: bool = False) -> str:
        """Return a URL as the documentation spells it, with the hosts of these two."""
        hosts = ["127.0.0.1", NextDoor.HOST]
        for names, host in zip(_HOSTS, reversed(hosts) if standby_first else hosts, strict=True):
            for name in names:
                spelling = re.sub(rf"\b{re.escape(name)}\b", host, spelling)
        parts = urlsplit(self.database.url)
        spelling = re.sub(r"\b5432\b", str(self.port), spelling)
        login = parts.netloc.rpartition("@")[0]
        spelling = spelling.replace("://jupyter@", f"://{login}@")
        return re.sub(r"/jupyter(?=$|\?)", parts.path, spelling)


@contextmanager
def a_pair() -> Iterator[Pair]:
    """Start both, and end them."""
    primary = LocalPostgreSQL()
    try:
        standby = StandbyNextDoor(primary)
        try:
            yield Pair(primary, standby)
        finally:
            standby.close()
    finally:
        primary.close()


@contextmanager
def open_on(url: str, idle: float = 15, **options: Any) -> Iterator[SQLAlchemySessionRepository]:
    """Open a repository, which keeps its connection for so many idle seconds, and close it."""
    log = logging.getLogger("tests")
    repository = SQLAlchemySessionRepository(url, options=options, auto_upgrade="safe", log=log)
    repository.connection_idle_seconds = idle
    repository.open(SCOPE, server("one"), timeout=60)
    try:
        yield repository
    finally:
        repository.close(timeout=10)


def look(url: str) -> dict[str, Finding]:
    """Return what `doctor` finds, by name."""
    engine = create(url)
    try:
        return {finding.name: finding for finding in examine(engine)}
    finally:
        engine.dispose()
