"""Servers with kernels of their own, whose database goes away: nobody who works with them notices.

What a server answers is its memory's, and the database has it once it is back.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from ..databases import Database
from ..wire import WireTap
from .faults import store_lines, suspend
from .light import Known, LightUser
from .losing import LosingDatabase
from .parity import LIGHT_KERNEL, add_light_kernel, light_config
from .process import OTHER_KERNEL
from .rows import rows_of
from .server import TIME_TO_START, TIME_TO_STOP, JupyterServer
from .test_monitoring import ENABLED, HEALTH, STATUS, Metrics
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NewServer = Callable[..., JupyterServer]
LEASE: Final = 5
#: Seconds in which each answer comes, a light kernel's start included, on a busy machine: who
#: waited for the store would wait for its time-outs, of which the shortest is 4.
BOUND: Final = 3.5


def config_of(url: str, lease: int = LEASE) -> str:
    """Return a configuration with a lease that a test can wait for."""
    return (
        f"c.SessionManager.database_filepath = {url!r}\n{ENABLED}{TIME_TO_START}{TIME_TO_STOP}"
        f"c.PersistentSessionManager.lease_seconds = {lease}\n"
    )


def status_of(server: JupyterServer) -> dict[str, Any]:
    """Return what a server says of its store."""
    told: dict[str, Any] = server.model(server.api.get(STATUS), 200)
    return told


def stored(database: Database) -> list[Known]:
    """Return what the rows say, in the order of a list."""
    return [
        Known(one.session_id, str(one.path), one.name, one.type, one.kernel_id)
        for one in rows_of(database)
    ]


def is_in_step(server: JupyterServer, database: Database) -> bool:
    """Return whether the rows are what a server lists, and it knows so."""
    listed = [Known.of(model) for model in server.sessions()]
    told = status_of(server)
    in_step = told["unsynchronized_sessions"] == 0 and told["away_seconds"] is None
    return in_step and stored(database) == listed


def test_work_goes_on_without_the_database(losing: LosingDatabase, new_server: NewServer) -> None:
    server = new_server(config_of(losing.url))
    server.start()
    kept, moved, deleted = (server.create(f"{name}.ipynb") for name in ("kept", "moved", "deleted"))
    server.execute(kept["kernel"]["id"], "x = 5")
    with losing.stopped():
        assert server.execute(kept["kernel"]["id"], "print(x)") == "5\n"
        assert [one["id"] for one in server.sessions()] == [
            one["id"] for one in (kept, moved, deleted)
        ]
        assert server.model(server.get(kept["id"]), 200)["path"] == "kept.ipynb"
        new = server.create("new.ipynb")
        assert server.execute(new["kernel"]["id"], "print(1 + 1)") == "2\n"
        renamed = server.model(server.patch(kept["id"], path="renamed.ipynb"), 200)
        assert (renamed["id"], renamed["path"]) == (kept["id"], "renamed.ipynb")
        onto = server.model(server.patch(moved["id"], kernel={"name": OTHER_KERNEL}), 200)
        assert onto["kernel"]["id"] != moved["kernel"]["id"]
        assert server.delete(deleted["id"]).status_code == 204
        assert server.get(deleted["id"]).status_code == 404
        assert [(one["id"], one["path"], one["kernel"]["id"]) for one in server.sessions()] == [
            (kept["id"], "renamed.ipynb", kept["kernel"]["id"]),
            (moved["id"], "moved.ipynb", onto["kernel"]["id"]),
            (new["id"], "new.ipynb", new["kernel"]["id"]),
        ]
        # Whoever opens a notebook again gets the session that is there.
        assert server.create("new.ipynb")["id"] == new["id"]

        answer = server.api.get(HEALTH)
        assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})
        told = status_of(server)
        assert told["well"] is False
        assert told["away_seconds"] >= 0
        # The one that was deleted is in the store yet.
        assert told["unsynchronized_sessions"] == 4
        assert told["sessions"] == {"starting": 0, "ready": 3, "closing": 0}
        assert store_lines(server.log) == ["away"]

    until(lambda: is_in_step(server, losing.database), why="the rows are what is listed")
    until(lambda: server.api.get(HEALTH).json() == {"status": "well"}, why="it is well")
    assert status_of(server)["well"] is True
    assert [one.path for one in stored(losing.database)] == [
        "renamed.ipynb",
        "moved.ipynb",
        "new.ipynb",
    ]
    assert server.execute(kept["kernel"]["id"], "print(x)") == "5\n"
    assert server.number_of_kernel_processes() == 3
    assert store_lines(server.log) == ["away", "back"]
    assert server.own_frames() == []
    assert server.uncaught() == []


def light_server(new_server: NewServer, config: str, **how: Any) -> JupyterServer:
    """Return a server whose kernels are light, not started yet."""
    server = new_server(light_config(config), **how)
    for name in (LIGHT_KERNEL, OTHER_KERNEL):
        add_light_kernel(server, name)
    return server


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_any_changes_while_the_database_comes_and_goes(
    losing: LosingDatabase, new_server: NewServer, rounds: Callable[[int], int], seed: int
) -> None:
    number, chance = rounds(2000), random.Random(seed)
    server = light_server(new_server, config_of(losing.url, 3))
    server.start()
    user, outages = LightUser(server, chance), 0
    ways: list[str] = []
    while user.changes.total() < number:
        ways = ways or chance.sample(sorted(losing.ways), len(losing.ways))
        way = ways.pop()
        outages += 1
        print(f"{user.changes.total()}: {way}", flush=True)
        with losing.ways[way]():
            for _ in range(chance.randint(1, 12)):
                user.change()
        # Not all of them once it is known to be back.
        for _ in range(chance.randint(0, 2)):
            user.change()
        until(lambda: is_in_step(server, losing.database), why=f"it was {way}")
        user.check()
    print(
        f"{number} rounds, {outages} outages: {dict(sorted(user.changes.items()))}; "
        f"the slowest answer took {user.slowest:.1f} s"
    )
    assert user.slowest_in_a_row < BOUND
    assert server.own_frames() == []
    assert server.uncaught() == []
    server.stop()
    assert stored(losing.database) == []


def test_a_server_that_is_killed_during_an_outage(
    losing: LosingDatabase, new_server: NewServer, tmp_path: Path
) -> None:
    config = config_of(losing.url, 3)
    killed, witness = (light_server(new_server, config, root=tmp_path) for _ in range(2))
    for server in (killed, witness):
        server.start()
    gone, kept = killed.create("gone.ipynb"), witness.create("kept.ipynb")
    with losing.stopped():
        killed.create("never stored.ipynb")
        killed.model(killed.patch(gone["id"], path="never stored either.ipynb"), 200)
        until(lambda: killed.log.count("is unavailable") == 1, why="it knows that it is away")
        killed.kill()
        later = witness.create("later.ipynb")

    def servers() -> list[tuple[Any, ...]]:
        return losing.database.rows("SELECT pid FROM jupyter_servers")

    until(lambda: servers() == [(witness.pid,)], why="it is evicted")
    until(lambda: is_in_step(witness, losing.database), why="nothing of it is left")
    assert [one.session_id for one in stored(losing.database)] == [kept["id"], later["id"]]
    # Nor has it left anything that holds a path.
    assert killed.log.count("is unavailable") == 1
    killed.start()
    again = killed.create("gone.ipynb")
    assert again["id"] != gone["id"]
    assert [one["id"] for one in killed.sessions()] == [again["id"]]


def test_a_server_that_is_suspended_for_longer_than_its_lease(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    config = config_of(database.url, 3)
    suspended, witness = (new_server(config, root=tmp_path) for _ in range(2))
    for server in (suspended, witness):
        server.start()
    sessions = [suspended.create(f"{place}.ipynb") for place in range(3)]
    suspended.execute(sessions[0]["kernel"]["id"], "x = 42")
    ids = [one["id"] for one in sessions]
    until(lambda: [one.session_id for one in stored(database)] == ids, why="they are stored")
    before = stored(database)
    suspend(suspended.pid, database)
    try:
        until(lambda: f"(process {suspended.pid} on" in witness.log, why="it is evicted")
        until(lambda: stored(database) == [], why="so are its sessions")
    finally:
        os.kill(suspended.pid, signal.SIGCONT)
    # A front end disposes of what is missing from a list.
    assert [Known.of(one) for one in suspended.sessions()] == before, "at once"
    assert suspended.execute(sessions[0]["kernel"]["id"], "print(x)") == "42\n"
    assert suspended.create("0.ipynb")["id"] == sessions[0]["id"]
    assert suspended.delete(sessions[1]["id"]).status_code == 204
    until(lambda: is_in_step(suspended, database), why="its rows are back")
    assert stored(database) == [before[0], before[2]]
    assert len(suspended.kernels()) == 2
    assert witness.sessions() == []
    assert suspended.own_frames() == []


def test_who_is_polled_asks_the_database_for_nothing(
    database: Database, new_server: NewServer
) -> None:
    """As JupyterLab does it: it asks for sessions and kernels all the time."""
    with ExitStack() as stack:
        tap, url = None, database.url
        if database.kind != "sqlite":
            tap = stack.enter_context(WireTap.to(database))
            url = tap.url(database)
        server = new_server(config_of(url, 6))
        server.start()
        for place in range(2):
            server.execute(server.create(f"{place}.ipynb")["kernel"]["id"], "pass")

        def renewals() -> int:
            ((count,),) = database.rows("SELECT renewals FROM jupyter_servers")
            return int(count)

        def count() -> tuple[int, int, int]:
            on_the_wire = 0 if tap is None else len(tap.statements)
            return renewals(), int(Metrics.of(server).get("statements_total")), on_the_wire

        def counts() -> tuple[int, int, int]:
            """Return how many renewals there were, and statements, when nothing was going on.

            Statements twice: as the server counts them, and on the wire.
            """
            while True:
                before = count()
                time.sleep(0.3)
                if before == count():
                    return before

        first, last = counts(), (0, 0, 0)

        def is_settled() -> bool:
            nonlocal first
            before, first = first, counts()
            return first[0] > before[0] and first[1] == before[1] + 2 * (first[0] - before[0])

        until(is_settled, why="what has changed last is stored")
        polls = 0
        while last[0] < first[0] + 4:
            assert len(server.sessions()) == 2
            assert len(server.kernels()) == 2
            polls += 1
            last = counts()

        def is_even() -> bool:
            nonlocal last
            last = counts()
            return last[1] - first[1] == 2 * (last[0] - first[0])

        # One that is too many never goes away.
        until(is_even, why="two statements for each renewal, and none for a request")
        done = last[0] - first[0]
        print(f"{2 * polls} requests and {done} renewals: {last[1] - first[1]} statements")
        assert last[1] - first[1] == 2 * done
        if tap is not None:
            on_the_wire = tap.statements[first[2] : last[2]]
            assert len(on_the_wire) == 2 * done, on_the_wire
            assert all("jupyter_servers" in statement for statement in on_the_wire), on_the_wire
