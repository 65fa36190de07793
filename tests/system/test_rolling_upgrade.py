"""The first release, today's and the next one on one database, while it is upgraded under load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import pytest

from ..databases import Database
from . import releases
from .conftest import stored_in
from .faults import is_refusal
from .releases import Release
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("other releases"),
    pytest.mark.timeout(600),
]

NewServer = Callable[..., JupyterServer]

#: How often each client goes through all it does before the next thing happens.
TURNS: Final = 3
#: Sessions of one client that stay.
KEPT: Final = 3
TOLD: Final = (
    "needs code of generation 2 or later; this code is of generation 1. "
    "Run: pip install --upgrade jupyter_session_store"
)


@dataclass
class Client:
    """Creates, reads, renames, lists and deletes sessions of one server, all on one kernel.

    Parameters
    ----------
    server : JupyterServer
    name : str
        With which its paths begin, and no other client's.
    kernel_id : str
        Which others use too, so that none of its sessions is the last.
    """

    server: JupyterServer
    name: str
    kernel_id: str
    #: The sessions that were acknowledged, and their paths.
    paths: dict[str, str] = field(default_factory=dict)
    turns: int = 0

    def work(self, ended: threading.Event) -> None:
        """Take turns until the end; whatever is not as expected ends it at once."""
        for number in count():
            if ended.is_set():
                return
            self.turn(f"{self.name}-{number}")

    def turn(self, path: str) -> None:
        """Make a request of each kind."""
        server = self.server
        session = server.create(path, kernel={"id": self.kernel_id})
        assert session["kernel"]["id"] == self.kernel_id
        session_id = session["id"]
        assert server.model(server.get(session_id), 200)["path"] == path
        renamed = server.model(server.patch(session_id, path=f"{path}.ipynb"), 200)
        assert renamed["path"] == f"{path}.ipynb"
        self.paths[session_id] = renamed["path"]
        while len(self.paths) > KEPT:
            deleted = next(iter(self.paths))
            answer = server.delete(deleted)
            assert answer.status_code == 204, answer.text
            del self.paths[deleted]
            assert server.get(deleted).status_code == 404
        listed = {model["id"]: model["path"] for model in server.sessions()}
        assert self.paths.items() <= listed.items(), "a session was lost"
        self.turns += 1


class Load:
    """Clients at work, two at each of some servers; a context manager.

    Parameters
    ----------
    servers : sequence of JupyterServer
    name : str
        With which the paths of all begin.
    """

    def __init__(self, servers: Sequence[JupyterServer], name: str) -> None:
        self.clients: list[Client] = []
        #: The session that keeps each server's kernel.
        self.anchors: dict[str, str] = {}
        for place, server in enumerate(servers):
            # Kernels, whose start takes a while, are not what this is about.
            kernels = server.kernels()
            where = {"kernel": {"id": kernels[0]}} if kernels else {}
            anchor = server.create(f"{name}-{place}", **where)
            self.anchors[anchor["id"]] = anchor["path"]
            self.clients += [
                Client(server, f"{name}-{place}-{number}", anchor["kernel"]["id"])
                for number in range(2)
            ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the clients work; raise what any of them met."""
        ended = threading.Event()
        with ThreadPoolExecutor(len(self.clients)) as threads:
            self._work = [threads.submit(client.work, ended) for client in self.clients]
            try:
                yield
                self.goes_on()
            finally:
                ended.set()
        for work in self._work:
            work.result()

    def goes_on(self) -> None:
        """Wait until each client has taken some turns more."""
        before = [client.turns for client in self.clients]
        until(lambda: self._has_gone_on(before), why="each client takes some turns")

    def _has_gone_on(self, before: list[int]) -> bool:
        for work in self._work:
            if work.done():
                work.result()
        now = [client.turns for client in self.clients]
        return all(after - since >= TURNS for since, after in zip(before, now, strict=True))

    @property
    def sessions(self) -> dict[str, str]:
        """What was acknowledged: the paths by the sessions' ids."""
        return {**self.anchors, **{k: v for one in self.clients for k, v in one.paths.items()}}


def stored(database: Database) -> dict[str, tuple[object, ...]]:
    """Return what every release knows of each session, by its id; the authority comes first."""
    columns = "session_id, authority, path, kernel_id, state, claim, created_at, updated_at"
    return {
        str(row[0]): row[1:] for row in database.rows(f"SELECT {columns} FROM jupyter_sessions")
    }


def paths_in(database: Database) -> dict[str, object]:
    return {session_id: row[1] for session_id, row in stored(database).items()}


def revision_of(database: Database) -> str:
    ((revision,),) = database.rows("SELECT version_num FROM jupyter_session_store_version")
    return str(revision)


def check_clean(*servers: JupyterServer) -> None:
    """Check that nothing has gone wrong in a server."""
    for server in servers:
        assert "unavailable" not in server.log, server.log
        assert "Evicted" not in server.log, server.log
        assert server.own_frames() == []
        assert server.uncaught() == []


def answers_of(server: JupyterServer, session_id: str) -> list[httpx.Response]:
    """Ask for all that can be asked of sessions."""
    return [
        server.api.get("/api/sessions"),
        server.get(session_id),
        server.post("new.ipynb"),
        server.patch(session_id, path="renamed.ipynb"),
        server.delete(session_id),
    ]


@dataclass(frozen=True)
class Fleet:
    """Servers of several releases, all of one namespace, on one database.

    Parameters
    ----------
    database : Database
    home : Path
        For the operator who upgrades it.
    expanding, contracting : Release
        Whose newest revisions these are.
    first, today, next, last : JupyterServer
        Of the first release, of this checkout, and of those two.
    """

    database: Database
    home: Path
    expanding: Release
    contracting: Release
    first: JupyterServer
    today: JupyterServer
    next: JupyterServer
    last: JupyterServer

    def upgrade(self, release: Release, revision: str) -> None:
        """Upgrade the database with a release."""
        release.upgrade(self.database, self.home)
        assert revision_of(self.database) == revision


@pytest.fixture
def fleet(database: Database, new_server: NewServer, tmp_path: Path) -> Fleet:
    """The servers, none of which has been started."""
    oldest = releases.first(tmp_path / "first")
    expanding = releases.later(tmp_path / "expanding", "0002")
    contracting = releases.later(tmp_path / "contracting", "0003")
    for release in (oldest, expanding, contracting):
        release.check(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    config = f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = 60\n"
    # It has no extension yet.
    without = 'c.ServerApp.jpserver_extensions["jupyter_session_store"] = False\n'
    return Fleet(
        database,
        tmp_path,
        expanding,
        contracting,
        first=new_server(config + without, root=root, environment=oldest.environment),
        today=new_server(config, root=root),
        next=new_server(config, root=root, environment=expanding.environment),
        last=new_server(config, root=root, environment=contracting.environment),
    )


def test_a_rolling_upgrade(fleet: Fleet) -> None:
    fleet.first.start()
    assert revision_of(fleet.database) == "0001"
    fleet.today.start()
    newcomers = all_work_while_it_is_expanded(fleet)
    old = old_servers_restart(fleet, newcomers)
    the_new_code_works_while_it_is_contracted(fleet, newcomers | old)
    the_old_code_is_refused(fleet, list(old))


def all_work_while_it_is_expanded(fleet: Fleet) -> dict[str, str]:
    """Use the old servers while the next release comes; return the sessions of that one."""
    old = Load([fleet.first, fleet.today], "old")
    with old.running():
        old.goes_on()
        fleet.upgrade(fleet.expanding, "0002")
        old.goes_on()
        fleet.next.start()
        newcomers = Load([fleet.next], "newcomer")
        with newcomers.running():
            old.goes_on()
    assert paths_in(fleet.database) == old.sessions | newcomers.sessions
    ((namespaces,),) = fleet.database.rows("SELECT COUNT(DISTINCT namespace) FROM jupyter_sessions")
    assert namespaces == 1
    check_clean(fleet.first, fleet.today, fleet.next)
    return newcomers.sessions


def old_servers_restart(fleet: Fleet, others: dict[str, str]) -> dict[str, str]:
    """Restart the old servers, which takes their kernels, and return their new sessions."""
    servers = (fleet.first, fleet.today)
    for server in servers:
        server.stop()
        server.launch()
    for server in servers:
        server.wait()
    assert paths_in(fleet.database) == others
    again = Load(servers, "again")
    with again.running():
        again.goes_on()
    assert paths_in(fleet.database) == others | again.sessions
    check_clean(fleet.first, fleet.today, fleet.next)
    return again.sessions


def the_new_code_works_while_it_is_contracted(fleet: Fleet, sessions: dict[str, str]) -> None:
    """Use the server of the next release, and then one of the release after it."""
    before = stored(fleet.database)
    beyond = Load([fleet.next], "beyond")
    with beyond.running():
        beyond.goes_on()
        fleet.upgrade(fleet.contracting, "0003")
        beyond.goes_on()
    after = stored(fleet.database)
    assert {session_id: after.get(session_id) for session_id in before} == before
    assert paths_in(fleet.database) == sessions | beyond.sessions
    fleet.last.start()
    last = Load([fleet.last], "last")
    last.clients[0].turn("last")
    assert paths_in(fleet.database) == sessions | beyond.sessions | last.sessions
    check_clean(fleet.next, fleet.last)


def the_old_code_is_refused(fleet: Fleet, sessions: list[str]) -> None:
    """Ask the old servers, then restart them: each says why not, and no session is lost.

    Parameters
    ----------
    fleet : Fleet
    sessions : list of str
        Whose first is on the server of the first release, and the second on today's.
    """
    servers = (fleet.first, fleet.today)
    before = stored(fleet.database)
    kernels = [server.kernels() for server in servers]
    for server, session_id in zip(servers, sessions, strict=False):
        refused = answers_of(server, session_id)
        assert all(is_refusal(answer) for answer in refused), refused
    assert [server.kernels() for server in servers] == kernels
    after = stored(fleet.database)
    assert after.keys() == before.keys()
    # The first release does not notice it everywhere, and goes on writing what it still can.
    others = {k: row for k, row in before.items() if row[0] != before[sessions[0]][0]}
    assert sessions[1] in others
    assert {session_id: after[session_id] for session_id in others} == others
    [line] = [line for line in fleet.today.log.splitlines() if TOLD in line]
    assert "is at revision 0003" in line
    assert fleet.today.own_frames() == []
    ends = []
    for server in servers:
        server.stop()
        ends.append(len(server.log))
        server.launch()
    for server, end in zip(servers, ends, strict=True):
        assert server.exit_code() != 0
        assert TOLD in server.log[end:]
        assert "Traceback" not in server.log[end:]
    after = stored(fleet.database)
    assert {session_id: after.get(session_id) for session_id in others} == others
    check_clean(fleet.next, fleet.last)
