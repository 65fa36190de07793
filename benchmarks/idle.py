"""What servers that nobody uses cost their database: processor time, log-ins and statements.

Each is a repository and its heartbeat, as a session manager opens them, all in this process: what
a whole server does besides does not reach the database. The bare driver sends the same statements
over as many connections, as often.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import psutil

from jupyter_session_store.records import Scope, SessionRecord
from jupyter_session_store.repository import CONNECTION_IDLE_SECONDS
from jupyter_session_store.servers.heartbeat import RENEWALS_A_LEASE, Heartbeat, this_server
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from tests.databases import Database
from tests.wire import WireTap

from .bare import CONNECT
from .databases import Databases
from .peers import OURS
from .results import Results

SERVERS: Final = 50
#: Seconds of each server's lease, which is the package's default.
LEASE: Final = 90
NOBODY: Final = "nobody"
KEPT: Final = "connection kept"
#: The driver alone, its connections kept.
DRIVER: Final = "bare driver"
#: For how many seconds the servers of a mode keep a connection; ``None``: there are no servers.
MODES: Final[dict[str, float | None]] = {
    NOBODY: None,
    DRIVER: None,
    KEPT: 86_400.0,
    "connection given up": CONNECTION_IDLE_SECONDS,
}
MEASURES: Final = ("processor ms", "log-ins", "statements")
_RENEW: Final = (
    "UPDATE jupyter_servers SET renewals = renewals + 1 WHERE namespace = ? AND server_id = ?"
)
_LOOK: Final = (
    "SELECT server_id, renewals, lease_seconds FROM jupyter_servers WHERE namespace = ? UNION ALL "
    "SELECT session_id, version, NULL FROM jupyter_sessions WHERE namespace = ? AND authority = ?"
)
_TIMEOUT: Final = 30.0
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Size:
    servers: int
    lease: int
    minutes: float


def run_idle(databases: Databases, results: Results, *, quick: bool, minutes: float) -> None:
    """Measure the databases at once, which share nothing, in each mode for so many minutes."""
    size = _Size(5, 3, 0.2) if quick else _Size(SERVERS, LEASE, minutes)
    hurry = LEASE / size.lease
    names = [name for name in databases.names if name != "sqlite"]
    for mode, kept in MODES.items():
        results.say(f"idle: {mode}, {size.minutes:g} minutes")
        idle_seconds = None if kept is None else kept / hurry
        with ExitStack() as stack:
            measured = [
                (name, stack.enter_context(_measured(databases, name, mode, idle_seconds, size)))
                for name in names
            ]
            for _, one in measured:
                one.begin()
            time.sleep(size.minutes * 60)
            for name, one in measured:
                for measure, amount in one.end().items():
                    each = amount / size.servers / size.minutes
                    results.add("idle", OURS, name, f"{mode}: {measure}", [each])
    for name in names:
        results.add("idle", OURS, name, "servers", [float(size.servers)])
        results.add("idle", OURS, name, "minutes", [size.minutes])


class _Measured:
    """What goes over a wire, and what the process behind it takes."""

    def __init__(self, tap: WireTap, pid: int | None) -> None:
        self._tap = tap
        self._pid = pid
        self._before = 0.0

    def begin(self) -> None:
        self._tap.reset()
        self._before = 0.0 if self._pid is None else processor_seconds(self._pid)

    def end(self) -> dict[str, float]:
        found = {
            "log-ins": float(self._tap.logins),
            "statements": float(len(self._tap.statements)),
        }
        if self._pid is not None:
            found["processor ms"] = (processor_seconds(self._pid) - self._before) * 1000
        return found


@contextmanager
def _measured(
    databases: Databases, name: str, mode: str, kept: float | None, size: _Size
) -> Iterator[_Measured]:
    """Yield the measure of a database, with its servers, each of which has renewed once."""
    database = Database(name, databases.place(name).text)
    with WireTap.to(database) as tap, ExitStack() as stack:
        if mode == DRIVER:
            stack.enter_context(_drivers(database, tap.url(database), size))
        elif kept is not None:
            servers = [
                _Server(tap.url(database), f"hub:user-{number}/", kept, size.lease)
                for number in range(size.servers)
            ]
            for one in servers:
                stack.callback(one.close)
            for one in servers:
                one.heartbeat.start()
                # The first looks for more than a renewal does.
                one.heartbeat.renew_now().result(_TIMEOUT)
                time.sleep(size.lease / RENEWALS_A_LEASE / size.servers)
        yield _Measured(tap, _pid_of(database))


@contextmanager
def _drivers(database: Database, url: str, size: _Size) -> Iterator[None]:
    """Have connections of the bare driver renew, in turn, servers that were registered."""
    renewed = []
    with ExitStack() as stack:
        for number in range(size.servers):
            one = _Server(url, f"hub:bare-{number}/", 0, size.lease)
            one.repository.close()
            execute, disconnect = CONNECT[database.kind](url)
            stack.callback(disconnect)
            renewed.append((execute, one.heartbeat.server))
        ended = threading.Event()

        def renew() -> None:
            pause = size.lease / RENEWALS_A_LEASE / size.servers
            for execute, one in cycle(renewed):
                if ended.wait(pause):
                    return
                key = (one.namespace, one.server_id)
                execute(_RENEW, key)
                execute(_LOOK, (one.namespace, one.namespace, f"server:{one.server_id}"))

        renewals = stack.enter_context(ThreadPoolExecutor(1)).submit(renew)
        stack.callback(renewals.result)
        stack.callback(ended.set)
        # Each has renewed once.
        time.sleep(size.lease / RENEWALS_A_LEASE)
        yield


class _Server:
    """One server of a user who is away."""

    def __init__(self, url: str, namespace: str, kept: float, lease: int) -> None:
        log = logging.getLogger(__name__)
        scope = Scope(namespace, f"server:{namespace}")
        self.repository = SQLAlchemySessionRepository(url, options={}, auto_upgrade="safe", log=log)
        self.repository.connection_idle_seconds = kept
        server = this_server(namespace, namespace, lease)
        self.heartbeat = Heartbeat(
            self.repository, scope, server, local_sessions=self.held, on_renewed=self.after, log=log
        )
        self.repository.open(scope, server, timeout=_TIMEOUT)

    def held(self) -> list[SessionRecord]:
        """Return nothing: no kernel runs."""
        return []

    def after(self, unfinished: list[SessionRecord]) -> None:
        """Do nothing: nothing is unfinished."""

    def close(self) -> None:
        """End the threads and the connection."""
        self.heartbeat.stop()
        self.heartbeat.join(_TIMEOUT)
        self.repository.close(timeout=_TIMEOUT)


def _pid_of(database: Database) -> int | None:
    """Return the process of a database server, if it is on this machine and can be looked at."""
    try:
        if database.kind == "postgresql":
            [(pid,)] = database.rows("SELECT current_setting('data_directory')")
            pid = Path(str(pid), "postmaster.pid").read_text().split()[0]
        else:
            [(folder, file)] = database.rows("SELECT @@datadir, @@pid_file")
            pid = Path(str(folder), str(file)).read_text()
        processor_seconds(int(pid))
    except (OSError, ValueError, psutil.Error):
        return None
    return int(pid)


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process, its threads and its children, gone or alive.

    To the nanosecond of those that have one thread, and to the kernel's tick of the others. A
    process that has gone is in the account of its parent.
    """
    root = psutil.Process(pid)
    _, _, *gone = _ticks(pid)
    total = sum(gone)
    for process in (root, *root.children(recursive=True)):
        try:
            total += _own_seconds(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            # It has just gone, into its parent's account: of so short a life, a tick at most.
            continue
    return total


def _own_seconds(pid: int) -> float:
    if len(os.listdir(f"/proc/{pid}/task")) == 1:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return sum(_ticks(pid)[:2])


def _ticks(pid: int) -> list[float]:
    """Return the seconds of a process, in its own code and the system's, and of its dead."""
    # After the name, which may hold anything: the 14th to the 17th field of all.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) * _TICK for field in fields[11:15]]
