"""Many servers of one namespace on one database: nobody loses, steals or doubles a session."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..databases import Database
from .conftest import stored_in
from .faults import Outage
from .rows import rows_of
from .server import PATIENT, TIME_TO_START, JupyterServer
from .waiting import until

pytestmark = pytest.mark.system

NewServer = Callable[..., JupyterServer]

LEASE = 3
#: Where a server that is busy must not be evicted for that.
LONGER_LEASE = 12


def replicas(
    database: Database, new_server: NewServer, root: Path, lease: int = LEASE
) -> list[JupyterServer]:
    """Start two servers of one namespace, with local kernels and short leases."""
    config = f"{stored_in(database)}{PATIENT}c.PersistentSessionManager.lease_seconds = {lease}"
    servers = [new_server(config, root=root) for _ in range(2)]
    for server in servers:
        server.start()
    return servers


def servers_of(database: Database) -> dict[int, str]:
    """Return the registered servers: their ids by their processes."""
    return dict(database.rows("SELECT pid, server_id FROM jupyter_servers"))


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_two_servers_neither_see_nor_lose_each_others_sessions(
    database: Database,
    new_server: NewServer,
    tmp_path: Path,
    rounds: Callable[[int], int],
    seed: int,
) -> None:
    servers = replicas(database, new_server, tmp_path)
    number = rounds(1000)

    def use(place: int) -> dict[str, str]:
        """Make requests of each kind; return the paths of the sessions, which are left."""
        server, chance = servers[place], random.Random(seed + place)
        paths: dict[str, str] = {}
        for turn in range(number):
            verb = chance.choice(["list", "get", "post", "rename"])
            if verb == "post" and len(paths) < 4:
                # The same paths on both.
                session = server.create(f"{len(paths)}.ipynb")
                paths[session["id"]] = session["path"]
            elif verb == "rename" and paths:
                session_id = chance.choice(list(paths))
                path = f"renamed-{place}-{turn}.ipynb"
                server.model(server.patch(session_id, path=path), 200)
                paths[session_id] = path
            elif verb == "get" and paths:
                session_id = chance.choice(list(paths))
                assert server.model(server.get(session_id), 200)["path"] == paths[session_id]
            else:
                assert {s["id"]: s["path"] for s in server.sessions()} == paths
        return paths

    with ThreadPoolExecutor(2) as threads:
        mine, theirs = threads.map(use, range(2))
    until(
        lambda: {row.session_id: row.path for row in rows_of(database)} == mine | theirs,
        why="who was evicted for being slow has put its rows back",
    )
    assert not set(mine) & set(theirs)
    for server in servers:
        assert server.own_frames() == []
    print(
        f"{number} requests to each of 2 servers: {len(mine)} + {len(theirs)} sessions, "
        f"0 rows lost, 0 rows of the other visible."
    )


def test_what_a_killed_server_had_goes_after_its_lease(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    one, two = replicas(database, new_server, tmp_path)
    session = one.create("a.ipynb")
    kept = two.create("b.ipynb")
    until(lambda: len(rows_of(database)) == 2, why="both are stored")
    pid = one.pid
    one.kill()
    # No other server may say that the kernels of a server are gone, before it is gone itself.
    assert [model["id"] for model in two.sessions()] == [kept["id"]]
    query = (
        f"SELECT (SELECT COUNT(*) FROM jupyter_servers WHERE pid = {pid}),"
        f" (SELECT COUNT(*) FROM jupyter_sessions WHERE session_id = '{session['id']}')"
    )

    def is_evicted() -> bool:
        ((servers, sessions),) = database.rows(query)
        assert servers == sessions, "they go at once"
        return bool(servers == 0)

    until(is_evicted, why="the killed server is evicted")
    assert [row.session_id for row in rows_of(database)] == [kept["id"]]
    until(lambda: "Evicted the server" in two.log, why="it is told after it is done")
    assert two.execute(kept["kernel"]["id"], "print(1)") == "1\n"


def test_a_stopped_server_leaves_nothing(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    # Nobody but the one that stops can have removed it.
    one, two = replicas(database, new_server, tmp_path, 60)
    one.create("a.ipynb")
    assert len(servers_of(database)) == 2
    one.stop()
    assert list(servers_of(database)) == [two.pid]
    assert rows_of(database) == []


def test_an_outage_longer_than_a_lease_evicts_nobody(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    with Outage(database) as outage:
        config = (
            f"c.SessionManager.database_filepath = {outage.url!r}\n{TIME_TO_START}"
            f"c.PersistentSessionManager.lease_seconds = {LONGER_LEASE}"
        )
        servers = [new_server(config, root=tmp_path) for _ in range(2)]
        for server in servers:
            server.start()
        sessions = [server.create(f"{place}.ipynb") for place, server in enumerate(servers)]
        registered = servers_of(database)
        with outage.running():
            renamed = servers[0].patch(sessions[0]["id"], path="renamed.ipynb")
            assert servers[0].model(renamed, 200)["path"] == "renamed.ipynb"
            time.sleep(1.5 * LONGER_LEASE)
            for server, session in zip(servers, sessions, strict=True):
                assert [model["id"] for model in server.sessions()] == [session["id"]]
        until(
            lambda: [row.path for row in rows_of(database)] == ["renamed.ipynb", "1.ipynb"],
            why="it is back",
        )
        time.sleep(1.5 * LONGER_LEASE)
        assert servers_of(database) == registered
        assert [row.path for row in rows_of(database)] == ["renamed.ipynb", "1.ipynb"]
        assert not any("Evicted" in server.log for server in servers)


def test_two_namespaces_share_nothing(database: Database, new_server: NewServer) -> None:
    names = ["bob", "Bob", "b\u00f6b"]
    servers = []
    for name in names:
        config = f"{stored_in(database)}{PATIENT}c.PersistentSessionManager.namespace = {name!r}"
        servers.append(new_server(config))
        servers[-1].start()
    sessions = [server.create("same.ipynb") for server in servers]
    for server, mine in zip(servers, sessions, strict=True):
        assert [model["id"] for model in server.sessions()] == [mine["id"]]
        for theirs in sessions:
            if theirs is not mine:
                assert server.get(theirs["id"]).status_code == 404
                assert server.patch(theirs["id"], path="stolen.ipynb").status_code == 404
                assert server.delete(theirs["id"]).status_code == 404
    assert [row.path for row in rows_of(database)] == ["same.ipynb"] * 3
    for server, mine in zip(servers, sessions, strict=True):
        assert server.kernels() == [mine["kernel"]["id"]]
