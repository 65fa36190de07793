"""Databases that are locked or cannot be reached, and what a server does meanwhile."""

from __future__ import annotations

import inspect
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import httpx
import psutil

from ..databases import Database
from ..wire import WireTap
from . import ticks
from .server import JupyterServer
from .waiting import until

_LOCK: Final = {
    "sqlite": ["BEGIN EXCLUSIVE"],
    "postgresql": ["BEGIN", "LOCK TABLE {} IN EXCLUSIVE MODE"],
    "mysql": ["LOCK TABLES {} READ"],
}
_UNLOCK: Final = {"sqlite": "ROLLBACK", "postgresql": "ROLLBACK", "mysql": "UNLOCK TABLES"}
#: How many statements of others wait for such a lock, as far as the database can tell.
_WAITING: Final = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "mysql": "SELECT count(*) FROM information_schema.processlist"
    " WHERE db = database() AND id <> connection_id() AND command = 'Query'",
}
_TICKS: Final = "jss_test_ticks"


@contextmanager
def locked(database: Database, *tables: str) -> Iterator[None]:
    """Let nobody write sessions, or other tables; in a SQLite file nothing at all.

    Who reads goes on, unless a SQLite file is not in WAL mode yet.
    """
    separator = " READ, " if database.kind == "mysql" else ", "
    names = separator.join(tables or ["jupyter_sessions"])
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in _LOCK[database.kind]:
            cursor.execute(statement.format(names))
        yield
        cursor.execute(_UNLOCK[database.kind])


def suspend(pid: int, database: Database) -> None:
    """Suspend a process, and not while it has the lock of a SQLite file."""
    with ExitStack() as stack:
        if database.kind == "sqlite":
            stack.enter_context(locked(database))
        os.kill(pid, signal.SIGSTOP)
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, why="it is suspended")


class Outage:
    """A database that can go away and come back; a context manager.

    A SQLite file is away while another process holds it exclusively.

    Parameters
    ----------
    database : Database

    Attributes
    ----------
    url : str
        What the server uses.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tap = None if database.kind == "sqlite" else WireTap.to(database)
        self.url = database.url if self._tap is None else self._tap.url(database)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the database away."""
        if self._tap is None:
            with locked(self._database):
                yield
            return
        self._tap.refuse()
        try:
            self._tap.cut()
            yield
        finally:
            self._tap.accept()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Let nothing through; what was held goes through at the end, though nobody waits."""
        assert self._tap is not None
        self._tap.pause()
        try:
            yield
        finally:
            self._tap.resume()

    def __enter__(self) -> Outage:
        if self._tap is not None:
            self._tap.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._tap is not None:
            self._tap.__exit__(None, None, None)


def number_of_waiting_statements(database: Database) -> int:
    """Return how many statements wait for a lock in a database server.

    One whose client has ended may be carried out yet. SQLite has no server: with the client
    its statement ends.
    """
    if database.kind == "sqlite":
        return 0
    ((number,),) = database.rows(_WAITING[database.kind])
    return int(number)


def ticking(new_server: Callable[..., JupyterServer], config: str, **how: Any) -> JupyterServer:
    """Make a server, not started yet, that a :class:`Watch` can watch from inside."""
    extension = f"c.ServerApp.jpserver_extensions[{_TICKS!r}] = True"
    server = new_server(f"{config}\n{extension}", **how)
    server.add_module(_TICKS, inspect.getsource(ticks))
    return server


class Watch:
    """Watches the event loop of a server that is :func:`ticking`, and polls it all the while.

    What it polls needs no database.

    Parameters
    ----------
    server : JupyterServer
    where : str
        What it polls.

    Attributes
    ----------
    stall : float
        The longest time in seconds, at the end, in which the event loop did nothing else.
    statuses : set of int
        What the polls were answered with.
    """

    def __init__(self, server: JupyterServer, where: str = "/api/status") -> None:
        self._server = server
        self._where = where
        self._began = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.statuses: set[int] = set()
        self.stall = float("inf")

    def __enter__(self) -> Watch:
        self._take()
        self._thread.start()
        self._began.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            taken = self._take()
        finally:
            self._ended.set()
            self._thread.join()
        assert taken["ticks"] > 0, "the counter did not count"
        self.stall = taken["longest"]
        print(f"the event loop stood still for {self.stall * 1000:.0f} ms at most")

    def _take(self) -> dict[str, float]:
        taken: dict[str, float] = self._server.model(self._server.api.get(ticks.PATH), 200)
        return taken

    def _poll(self) -> None:
        headers = self._server.api.headers
        with httpx.Client(
            base_url=self._server.url, headers=headers, timeout=60, trust_env=False, verify=False
        ) as api:
            while not self._ended.wait(0.02):
                self.statuses.add(api.get(self._where).status_code)
                self._began.set()


def is_refusal(answer: httpx.Response) -> bool:
    """Whether an answer says that the store is away, and when to come back."""
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def store_lines(log: str) -> list[str]:
    """Return what the store says of itself in a server's log: ``away`` and ``back``, in order."""
    words = {"is unavailable": "away", "did not answer": "away", "is back after": "back"}
    found = re.findall(rf"\] The session store.*?({'|'.join(words)})", log)
    return [words[what] for what in found]
