"""The first release, today's and the next ones on one database, while it is upgraded under load."""

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

from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from . import releases
from .conftest import stored_in
from .faults import is_refusal
from .releases import Release
from .server import PATIENT, JupyterServer
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
    requests: int = 0

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
            self.requests += 2
        listed = {model["id"]: model["path"] for model in server.sessions()}
        assert self.paths.items() <= listed.items(), "a session was lost"
        self.requests += 4
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
    def requests(self) -> int:
        """How many requests its clients have made."""
        return sum(client.requests for client in self.clients)

    @property
    def sessions(self) -> dict[str, str]:
        """What was acknowledged: the paths by the sessions' ids."""
        return {**self.anchors, **{k: v for one in self.clients for k, v in one.paths.items()}}


def stored(database: Database) -> dict[str, tuple[object, ...]]:
    """Return what every release knows of each session, by its id; the authority comes first.

    Not when it was changed last: renewals write how its kernel is.
    """
    columns = "session_id, authority, path, kernel_id, state, claim, created_at"
    return {
        str(row[0]): row[1:] for row in database.rows(f"SELECT {columns} FROM jupyter_sessions")
    }


def paths_in(database: Database) -> dict[str, object]:
    return {session_id: row[1] for session_id, row in stored(database).items()}


def counted_in(database: Database) -> dict[str, int]:
    """Return how many changes of each session were counted."""
    rows = database.rows("SELECT session_id, version FROM jupyter_sessions")
    return {str(session_id): int(version) for session_id, version in rows}


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
        assert revision_of(self.database) != revision
        release.upgrade(self.database, self.home)
        assert revision_of(self.database) == revision


#: Of the configuration of a server of the first release, which has no extension yet.
#: It is as patient as the others, which have the names elsewhere.
WITHOUT: Final = """
c.ServerApp.jpserver_extensions["jupyter_session_store"] = False
from jupyter_session_store import manager
manager.OPEN_TIMEOUT = manager.CLOSE_TIMEOUT = 60.0
"""


def config_for(database: Database) -> str:
    """Return what all servers have in their configuration.

    A renewal that writes how a kernel is counts a change of its sessions: none comes before
    the test has ended.
    """
    return f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = 3600\n"


@pytest.fixture
def fleet(database: Database, new_server: NewServer, tmp_path: Path) -> Fleet:
    """The servers, none of which has been started."""
    oldest = releases.first(tmp_path / "first")
    expanding = releases.later(tmp_path / "expanding", releases.EXPANDING)
    contracting = releases.later(tmp_path / "contracting", releases.CONTRACTING)
    for release in (oldest, releases.current(), expanding, contracting):
        release.check(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    config = config_for(database)
    return Fleet(
        database,
        tmp_path,
        expanding,
        contracting,
        first=new_server(config + WITHOUT, root=root, environment=oldest.environment),
        today=new_server(PATIENT + config, root=root),
        next=new_server(PATIENT + config, root=root, environment=expanding.environment),
        last=new_server(PATIENT + config, root=root, environment=contracting.environment),
    )


def test_from_the_first_release_to_todays(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """Upgrade under the load of old servers, let new ones join, and let the old ones leave."""
    oldest, current = releases.first(tmp_path / "first"), releases.current()
    for release in (oldest, current):
        release.check(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    config = config_for(database)
    olds = [
        new_server(config + WITHOUT, root=root, environment=oldest.environment) for _ in range(2)
    ]
    news = [
        new_server(PATIENT + config, root=root, environment=current.environment) for _ in range(2)
    ]
    for server in olds:
        server.start()
    assert revision_of(database) == "0001"
    old = Load(olds, "old")
    with old.running():
        old.goes_on()
        before = old.requests
        current.upgrade(database, tmp_path)
        assert revision_of(database) == HEAD
        during = old.requests - before
        old.goes_on()
        for server in news:
            server.start()
        new = Load(news, "new")
        with new.running():
            old.goes_on()
    assert paths_in(database) == old.sessions | new.sessions
    with new.running():
        for server in olds:
            server.stop()
        new.goes_on()
    # Those of the old servers have gone with their kernels.
    assert paths_in(database) == new.sessions
    check_clean(*olds, *news)
    # An anchor is as it was made; each of the others was renamed once.
    assert counted_in(database) == {one: 1 + (one not in new.anchors) for one in new.sessions}
    print(
        f"{old.requests + new.requests} requests, {during} of them during the "
        "upgrade: 0 errors, 0 sessions lost."
    )


def test_a_rolling_upgrade(fleet: Fleet) -> None:
    fleet.first.start()
    assert revision_of(fleet.database) == "0001"
    fleet.upgrade(releases.current(), HEAD)
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
        fleet.upgrade(fleet.expanding, releases.EXPANDING)
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
        fleet.upgrade(fleet.contracting, releases.CONTRACTING)
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
    """Ask the old servers, then restart them: each says why not, and no stored session is lost.

    Parameters
    ----------
    fleet : Fleet
    sessions : list of str
        Whose first is on the server of the first release, and the second on today's.
    """
    servers = (fleet.first, fleet.today)
    before = stored(fleet.database)
    kernels = fleet.first.kernels()
    refused = answers_of(fleet.first, sessions[0])
    assert all(is_refusal(answer) for answer in refused), refused
    assert fleet.first.kernels() == kernels
    # Today's has its own sessions in its memory, and only the store stays as it is.
    models = fleet.today.sessions()
    listed, shown, created, _, deleted = answers = answers_of(fleet.today, sessions[1])
    assert [answer.status_code for answer in answers] == [200, 200, 201, 200, 204]
    assert [one["id"] for one in listed.json()] == [one["id"] for one in models]
    assert [one["id"] for one in fleet.today.sessions()] == [
        *(one["id"] for one in models if one["id"] != shown.json()["id"]),
        created.json()["id"],
    ]
    assert deleted.content == b""
    after = stored(fleet.database)
    assert after.keys() == before.keys()
    # The first release does not notice it everywhere, and goes on writing what it still can.
    others = {k: row for k, row in before.items() if row[0] != before[sessions[0]][0]}
    assert sessions[1] in others
    assert {session_id: after[session_id] for session_id in others} == others
    [line] = [line for line in fleet.today.log.splitlines() if TOLD in line]
    assert f"is at revision {releases.CONTRACTING}" in line
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
