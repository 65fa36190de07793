"""Wall clocks that jump under running servers: no lease rests on them, and nobody is evicted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest

from jupyter_session_store.servers.heartbeat import RENEWALS_A_LEASE
from jupyter_session_store.sql.tables import to_utc

from ..databases import Database
from .conftest import stored_in
from .rows import rows_of
from .server import JupyterServer
from .test_many_servers import servers_of
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("moved clocks"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is for Linux alone"),
]

#: Seconds. Servers under libfaketime are slow; nobody may be evicted for that.
LEASE = 15

HOUR = 3600
#: By how much each server's clock is wrong, in turn.
MOVES = {"ahead": (HOUR, HOUR), "back": (-HOUR, -HOUR), "opposite": (HOUR, -HOUR)}
#: Seconds between the reading of two clocks, at most: a tenth of a move.
NEAR = HOUR / 10

#: Where Debian, Fedora, Arch and a build of one's own put it.
_LIBRARY = "faketime/libfaketimeMT.so.1"
_FOLDERS = ("usr/lib/*", "usr/lib64", "usr/lib", "usr/local/lib", "usr/local/lib/*")

#: Python sleeps until a point on the monotonic clock, which libfaketime 0.9.10 takes for one on
#: the wall clock and refuses (EINVAL), moved or not. Kernels sleep after each request.
_SLEEP = """
import select, time

def sleep(seconds):
    select.select((), (), (), seconds)

time.sleep = sleep
"""


def libfaketime() -> Path:
    """Return the library that moves the clock of a process; fail where there is none."""
    for folder in _FOLDERS:
        for path in Path("/").glob(f"{folder}/{_LIBRARY}"):
            return path
    pytest.fail(
        "libfaketime, without which no clock can be moved, is not on this machine. On Debian or "
        "Ubuntu: apt-get install faketime (`make test` does so as root).",
        pytrace=False,
    )


class Clock:
    """The wall clock of one server and of its kernels, which the test moves as they run.

    Parameters
    ----------
    path : Path
        Where the library reads by how much it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.move(0)
        self.environment = {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            # A host's monotonic clock goes on as before when its wall clock is set.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else the times of files move too, and Python compiles all that it imports again.
            "NO_FAKE_STAT": "1",
        }

    def move(self, offset: int) -> None:
        """Let the clock be wrong by some seconds."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        # At once: a process that reads half of it ends.
        new.replace(self._path)
        self._offset = offset

    def check(self, shown: float) -> None:
        """Check that a time that was shown just now is the moved clock's."""
        wrong = shown - time.time()
        assert abs(wrong - self._offset) < NEAR, f"wrong by {wrong:.0f} s, not {self._offset} s"


def renewals_of(database: Database) -> dict[str, int]:
    """Return how often each registered server has renewed its lease."""
    return dict(database.rows("SELECT server_id, renewals FROM jupyter_servers"))


def is_stored(database: Database, path: str) -> bool:
    """Return whether a session has this path."""
    return path in {row.path for row in rows_of(database)}


def written_at(database: Database, session_id: str) -> float:
    """Return when a session was last written, by the clock of the server that did."""
    rows = database.rows("SELECT session_id, updated_at FROM jupyter_sessions")
    return to_utc(dict(rows)[session_id]).timestamp()


def date_of(server: JupyterServer) -> float:
    """Return the time that a server's answer bears."""
    return parsedate_to_datetime(server.api.get("/api").headers["Date"]).timestamp()


def outlive_leases(database: Database) -> int:
    """Wait for more than a lease, in which all renew; return how often they did."""
    began, before = time.monotonic(), renewals_of(database)
    seen = before

    def are_over() -> bool:
        nonlocal seen
        now = renewals_of(database)
        assert now.keys() == before.keys()
        # Who is evicted and comes back counts from nought again.
        assert all(now[server] >= seen[server] for server in seen), (seen, now)
        seen = now
        fewest = min(now[server] - before[server] for server in now)
        return time.monotonic() - began > 1.5 * LEASE and fewest >= 1.5 * RENEWALS_A_LEASE

    until(are_over, why="each renews its lease as before")
    return sum(seen.values()) - sum(before.values())


def test_moved_clocks_evict_nobody(
    database: Database, new_server: Callable[..., JupyterServer], tmp_path: Path
) -> None:
    config = f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = {LEASE}"
    clocks = [Clock(tmp_path / f"clock-{place}") for place in range(2)]
    root = tmp_path / "root"
    root.mkdir()
    servers = [new_server(config, root=root, environment=clock.environment) for clock in clocks]
    for server in servers:
        server.add_module("sitecustomize", _SLEEP)
        server.start()
    sessions = [server.create(f"{place}.ipynb") for place, server in enumerate(servers)]
    for server, session in zip(servers, sessions, strict=True):
        server.execute(session["kernel"]["id"], "x = 42")
    registered = servers_of(database)
    assert len(registered) == 2
    renewals = 0

    for name, offsets in MOVES.items():
        for clock, offset in zip(clocks, offsets, strict=True):
            clock.move(offset)
        renewals += outlive_leases(database)
        assert servers_of(database) == registered
        for clock, server, session in zip(clocks, servers, sessions, strict=True):
            clock.check(date_of(server))
            path = f"{name}-{server.port}.ipynb"
            assert server.model(server.patch(session["id"], path=path), 200)["path"] == path
            until(partial(is_stored, database, path), why="it is stored")
            clock.check(written_at(database, session["id"]))
            assert [(model["id"], model["path"]) for model in server.sessions()] == [
                (session["id"], path)
            ]
            assert server.execute(session["kernel"]["id"], "print(x)") == "42\n"

    # What a server logs of an eviction comes after the row is gone.
    assert len(rows_of(database)) == 2
    for server in servers:
        assert "Evicted" not in server.log
        assert server.own_frames() == []
    print(
        f"{len(MOVES)} moves of 2 clocks by {HOUR} or {2 * HOUR} s, {renewals} renewals seen, "
        "0 evictions."
    )
