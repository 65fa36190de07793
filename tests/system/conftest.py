"""Servers for the tests: one that tests share, and as many of its own as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ..databases import Database
from ..databases.plugin import Servers
from .losing import LosingDatabase
from .outliving import OutlivingServer
from .server import PATIENT, JupyterServer
from .waiting import until

#: A renewal writes how kernels are: the tests compare rows with what they were.
_NO_RENEWAL: Final = "c.PersistentSessionManager.lease_seconds = 86_400\n"


@dataclass(frozen=True)
class Running:
    """A server and the database that its sessions are in."""

    server: JupyterServer
    database: Database


def stored_in(database: Database) -> str:
    """Return the configuration line that puts sessions into a database."""
    return f"c.SessionManager.database_filepath = {database.url!r}"


class Pool:
    """The servers that the tests of one process share, one for each kind of database."""

    def __init__(self, servers: Servers, factory: pytest.TempPathFactory) -> None:
        self._servers = servers
        self._factory = factory
        self._running: dict[str, Running] = {}

    def get(self, kind: str) -> Running:
        """Return the server of a kind, started at its first use."""
        if kind not in self._running:
            if kind == "sqlite":
                folder = self._factory.mktemp("shared")
                database = Database(kind, f"sqlite:///{folder}/sessions.db")
            else:
                database = self._servers.get(kind).create_database()
            server = JupyterServer(f"{stored_in(database)}{PATIENT}{_NO_RENEWAL}")
            self._running[kind] = Running(server, database)
            server.start()
        return self._running[kind]

    def end(self, kind: str) -> None:
        """End the server of a kind; whoever asks next gets a fresh one."""
        running = self._running.pop(kind)
        running.server.close()
        if kind != "sqlite":
            self._servers.get(kind).drop_database(running.database)

    def close(self) -> None:
        """End them all."""
        for kind in list(self._running):
            self.end(kind)


@pytest.fixture(scope="session")
def pool(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The shared servers of this process."""
    pool = Pool(servers, tmp_path_factory)
    yield pool
    pool.close()


@pytest.fixture
def shared(kind: str, pool: Pool) -> Iterator[Running]:
    """A running server, without sessions and kernels, that other tests use before and after."""
    running = pool.get(kind)
    server = running.server
    before = len(server.log)
    yield running
    print(server.log[before:])
    uncaught = server.uncaught(before)
    try:
        for session in server.sessions():
            server.delete(session["id"])
        for kernel_id in server.kernels():
            server.api.delete(f"/api/kernels/{kernel_id}")
        until(lambda: not server.sessions() and not server.kernels(), why="a clean server")
    except BaseException:
        pool.end(kind)
        raise
    assert uncaught == []


@pytest.fixture
def losing(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LosingDatabase]:
    """A database that can go away in every way."""
    if kind == "sqlite":
        (tmp_path / "folder").mkdir()
        database, instance = Database(kind, f"sqlite:///{tmp_path}/folder/sessions.db"), None
    else:
        instance = request.getfixturevalue("own_server")
        database = instance.create_database()
    with LosingDatabase(database, instance) as made:
        yield made


@pytest.fixture
def new_server() -> Iterator[Callable[..., JupyterServer]]:
    """A function that makes a server, not started yet, which is gone after the test."""
    made: list[JupyterServer] = []

    def new(config: str = "", **how: Any) -> JupyterServer:
        made.append(JupyterServer(config, **how))
        return made[-1]

    yield new
    for server in made:
        print(server.log)
        server.close()


@pytest.fixture
def server(database: Database, new_server: Callable[..., JupyterServer]) -> JupyterServer:
    """A running server that the test may stop, kill and start again."""
    server = new_server(stored_in(database) + PATIENT)
    server.whole = True
    server.start()
    return server


@pytest.fixture
def new_outliving_server() -> Iterator[Callable[..., OutlivingServer]]:
    """A function that makes a server whose kernels outlive it, not started yet, until the end."""
    made: list[OutlivingServer] = []

    def new(config: str = "", **how: Any) -> OutlivingServer:
        made.append(OutlivingServer(config, **how))
        return made[-1]

    yield new
    # All of them first: none is left that would have to notice that its kernel has ended.
    for server in made:
        server.kill()
    for server in made:
        print(server.log)
        server.close()
