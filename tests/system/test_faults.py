"""A database that is away or locked: a server's own sessions go on, and are in it afterwards.

What is refused meanwhile where kernels are shared is told in test_shared_faults.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from jupyter_session_store.sql.schema import migrating

from ..databases import DRIVER_ERRORS, Database, Instance
from ..migrations.support import engine_of
from ..wire import WireTap
from .conftest import Running, stored_in
from .faults import (
    Outage,
    Watch,
    locked,
    number_of_waiting_statements,
    store_lines,
    ticking,
)
from .process import OTHER_KERNEL
from .rows import dump, rows_of
from .server import PATIENT, TIME_TO_START, TIME_TO_STOP, JupyterServer
from .test_monitoring import HEALTH
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NewServer = Callable[..., JupyterServer]
#: Seconds in which an event loop must get round, on a machine that is busy with other tests.
STALL = 1.0
#: Seconds that the shortest of the databases' own time-outs makes a statement wait for a lock.
#: Whoever is answered before has not waited for the database.
SHORTEST_WAIT = 3.5
#: Seconds for an answer that waits for nothing, on a busy machine: less than one that gives the
#: database its chance.
WITHOUT_WAITING = 1.0
#: Seconds for a stop without kernels: 2 for the store, and the rest for a busy machine. Whoever
#: waited for the database's own time-out would take 5 at least.
STOP = 4.75
#: The same with a kernel to shut down, against a network that holds everything back: whoever
#: waited for that would take 10, and as long as the kernel takes.
STOP_WITH_KERNEL = 10.0
LONG_LOCK = 30.0
#: What the heartbeat does by itself is not the question. A renewal that waits for a lock holds up
#: the reads behind it, and one that meets a restart logs that the store is away.
NO_RENEWAL = "c.PersistentSessionManager.lease_seconds = 3600"


def ids_of(database: Database) -> list[str]:
    """Return the ids of the sessions that are stored, the oldest first; none without the tables."""
    try:
        return [row.session_id for row in rows_of(database)]
    except DRIVER_ERRORS:
        return []


def is_stored(server: JupyterServer, database: Database) -> bool:
    """Return whether what a server lists is what is stored."""
    listed = [
        (one["id"], one["path"], one["kernel"]["id"], one["kernel"]["name"])
        for one in server.sessions()
    ]
    rows = rows_of(database)
    return listed == [(row[0], row.path, row.kernel_id, row.kernel_name) for row in rows]


def test_a_server_starts_without_its_database(database: Database, new_server: NewServer) -> None:
    with Outage(database) as outage:
        config = f"c.SessionManager.database_filepath = {outage.url!r}\n{TIME_TO_STOP}"
        server = ticking(new_server, config)
        with outage.running():
            server.start()
            with Watch(server, "/api") as watch, ThreadPoolExecutor(6) as threads:
                asked = [threads.submit(server.api.get, "/api/sessions") for _ in range(5)]
                posted = threads.submit(server.post, "a.ipynb")
                assert [one.result().status_code for one in asked] == [200] * 5
                session = server.model(posted.result(), 201)
            kernel_id = server.model(server.api.post("/api/kernels", json={}), 201)["id"]
            assert server.execute(kernel_id, "print('here')") == "here\n"
            assert server.execute(session["kernel"]["id"], "print('up')") == "up\n"
            assert server.kernels() == [session["kernel"]["id"], kernel_id]
            assert watch.statuses == {200}
            assert watch.stall < STALL

        until(lambda: ids_of(database) == [session["id"]], why="it is back, and has what was made")
        assert [model["id"] for model in server.sessions()] == [session["id"]]
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []
        server.stop()
        assert rows_of(database) == []
        assert "wrote error" not in server.log, "the polls of a database that is away say nothing"


def test_a_running_server_loses_its_database(database: Database, new_server: NewServer) -> None:
    with Outage(database) as outage:
        config = f"c.SessionManager.database_filepath = {outage.url!r}\n{NO_RENEWAL}{TIME_TO_START}"
        server = ticking(new_server, config)
        server.start()
        kept, moved, gone = (server.create(f"{name}.ipynb") for name in ("kept", "moved", "gone"))
        kernel_id = kept["kernel"]["id"]
        with server.channels(kernel_id) as channels, ThreadPoolExecutor(8) as threads:
            channels.execute("x = 5")
            # While a kernel is being started, Jupyter Server itself may answer 500 to /api/status.
            with outage.running(), Watch(server, "/api") as watch:
                writes = [
                    threads.submit(server.post, "new.ipynb"),
                    threads.submit(server.patch, kept["id"], path="renamed.ipynb"),
                    threads.submit(server.patch, moved["id"], kernel={"name": OTHER_KERNEL}),
                    threads.submit(server.delete, gone["id"]),
                ]
                assert channels.execute("x") == "5"
                answers = [write.result() for write in writes]
                assert [one.status_code for one in answers] == [201, 200, 200, 204]
                new, renamed, onto = (one.json() for one in answers[:3])
                wanted = [
                    (kept["id"], "renamed.ipynb", kernel_id),
                    (moved["id"], "moved.ipynb", onto["kernel"]["id"]),
                    (new["id"], "new.ipynb", new["kernel"]["id"]),
                ]
                assert (renamed["id"], renamed["path"]) == wanted[0][:2]
                assert onto["kernel"]["id"] != moved["kernel"]["id"]
                for _ in range(5):
                    listed = server.sessions()
                    assert [(m["id"], m["path"], m["kernel"]["id"]) for m in listed] == wanted
                assert server.model(server.get(kept["id"]), 200)["path"] == "renamed.ipynb"
                assert server.get(gone["id"]).status_code == 404
                assert channels.execute("x") == "5"
                until(lambda: store_lines(server.log) == ["away"], why="it is told")
            until(lambda: is_stored(server, database), why="it is back")
            assert channels.execute("x") == "5", "over the websocket that was there before"

        assert watch.statuses == {200}
        assert watch.stall < STALL
        assert [(row[0], row.path, row.kernel_id) for row in rows_of(database)] == wanted
        assert sorted(server.kernels()) == sorted(one[2] for one in wanted)
        assert server.number_of_kernel_processes() == 3
        for session_id, *_ in wanted:
            assert server.delete(session_id).status_code == 204
        until(lambda: rows_of(database) == [], why="all are removed")
        assert server.kernels() == []
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []


def test_nobody_waits_for_a_lock(database: Database, new_server: NewServer) -> None:
    server = ticking(new_server, stored_in(database))
    server.start()
    # On one kernel: how long the shutdown of one takes is not the question.
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    others = [server.create(path, kernel={"id": kernel_id}) for path in ("b.ipynb", "c.ipynb")]
    ids = [one["id"] for one in (first, *others)]
    until(lambda: is_stored(server, database), why="they are stored")
    before = dump(database)
    with locked(database), Watch(server) as watch, ThreadPoolExecutor(3) as threads:
        began = time.monotonic()
        renamed, deleted, created = (
            one.result()
            for one in (
                threads.submit(server.patch, ids[0], path="d.ipynb"),
                threads.submit(server.delete, ids[1]),
                threads.submit(server.post, "e.ipynb", kernel={"id": kernel_id}),
            )
        )
        waited = time.monotonic() - began
        assert [one.status_code for one in (renamed, deleted, created)] == [200, 204, 201]
        assert dump(database) == before, "the lock was no lock"
        # Once it is known, nobody waits at all.
        began = time.monotonic()
        for name in "fghij":
            server.model(server.patch(ids[2], path=f"{name}.ipynb"), 200)
        waited_then = time.monotonic() - began
        assert dump(database) == before, "the lock was no lock"
    assert watch.statuses == {200}
    assert watch.stall < STALL
    assert waited < SHORTEST_WAIT
    assert waited_then < 5 * WITHOUT_WAITING
    until(lambda: is_stored(server, database), why="it is back")
    new = created.json()["id"]
    assert [(row.session_id, row.path) for row in rows_of(database)] == [
        (ids[0], "d.ipynb"),
        (ids[2], "j.ipynb"),
        (new, "e.ipynb"),
    ]
    assert server.uncaught() == []


def test_kernels_are_neither_lost_nor_doubled_by_a_lock(
    database: Database, new_server: NewServer
) -> None:
    server = ticking(new_server, stored_in(database))
    server.start()
    session = server.create("a.ipynb")
    # While a kernel is being started, Jupyter Server itself may answer 500 to /api/status.
    with ThreadPoolExecutor(2) as threads, Watch(server, "/api") as watch:
        with locked(database):
            create = threads.submit(server.post, "b.ipynb")
            move = threads.submit(server.patch, session["id"], kernel={"name": OTHER_KERNEL})
            created = server.model(create.result(), 201)
            moved = server.model(move.result(), 200)
            # Who asks again gets what is there.
            assert server.create("b.ipynb")["id"] == created["id"]
            for model, text in ((created, "created"), (moved, "moved")):
                assert server.execute(model["kernel"]["id"], f"print({text!r})") == f"{text}\n"
        kernels = sorted(model["kernel"]["id"] for model in (created, moved))
        until(lambda: is_stored(server, database), why="it is back")
    assert watch.statuses == {200}
    assert watch.stall < STALL
    assert session["kernel"]["id"] not in kernels
    assert sorted(server.kernels()) == kernels
    assert server.number_of_kernel_processes() == 2
    assert sorted(row.kernel_id for row in rows_of(database)) == kernels
    assert server.uncaught() == []


@pytest.mark.extended("a lock that is held longer than a lease")
def test_a_lock_that_is_held_longer_than_the_lease(
    database: Database, new_server: NewServer
) -> None:
    """No renewal is possible meanwhile, and no request needs one."""
    config = f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = 5"
    server = ticking(new_server, config)
    server.start()
    session = server.create("a.ipynb")
    kernel = {"id": session["kernel"]["id"]}
    made, seconds = [session["id"]], [0.0]
    with locked(database, "jupyter_sessions", "jupyter_servers"), Watch(server, "/api") as watch:
        began = time.monotonic()
        while time.monotonic() - began < LONG_LOCK:
            asked = time.monotonic()
            made.append(server.create(f"{len(seconds)}.ipynb", kernel=kernel)["id"])
            seconds.append(time.monotonic() - asked)
            assert [model["id"] for model in server.sessions()] == made
            time.sleep(0.1)
    print(f"{len(seconds)} POSTs, the slowest took {max(seconds):.1f} s")
    # The machine may be slow once; who waits for the database does so each time.
    assert max(map(min, pairwise(seconds))) < SHORTEST_WAIT
    assert watch.stall < STALL
    until(lambda: is_stored(server, database), why="it is back")
    assert [row.session_id for row in rows_of(database)] == made
    assert server.kernels() == [kernel["id"]]
    assert store_lines(server.log) == ["away", "back"]
    assert "never retrieved" not in server.log
    assert server.uncaught() == []


def test_a_delete_leaves_the_kernel_to_the_other_session(shared: Running) -> None:
    server, database = shared.server, shared.database
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    second = server.create("b.ipynb", kernel={"id": kernel_id})
    with locked(database):
        assert server.delete(first["id"]).status_code == 204
        assert [model["id"] for model in server.sessions()] == [second["id"]]
        assert server.kernels() == [kernel_id], "the second session uses it"
        assert ids_of(database) == [first["id"], second["id"]], "the lock was no lock"
        assert server.delete(second["id"]).status_code == 204
        assert server.kernels() == []
        assert server.sessions() == []
    until(lambda: rows_of(database) == [], why="it is back")


def seconds_of_stop(server: JupyterServer) -> float:
    """Stop a server in order; return how long its process took to end."""
    began = time.monotonic()
    server.stop()
    return time.monotonic() - began


def test_a_locked_database_does_not_delay_an_orderly_stop(
    database: Database, new_server: NewServer
) -> None:
    server = new_server(stored_in(database))
    left: list[str] = []

    def seconds_under_a_lock() -> float:
        server.start()
        session = server.create("a.ipynb")
        until(lambda: session["id"] in ids_of(database), why="it is stored")
        # How long a kernel takes to end is not the question; its session stays until one looks.
        kernel_id = session["kernel"]["id"]
        assert server.api.delete(f"/api/kernels/{kernel_id}").status_code == 204
        left.append(session["id"])
        before, said = dump(database), len(server.log)
        assert len(before) == len(left)
        with locked(database):
            seconds = seconds_of_stop(server)
            # Else what the server has sent may be carried out when the lock is gone.
            until(lambda: number_of_waiting_statements(database) == 0, why="it is given up")
        assert "The sessions of this server stay in the store: " in server.log[said:]
        assert dump(database) == before
        return seconds

    # The machine may be slow once; who waits for the database does so each time.
    assert any(seconds_under_a_lock() < STOP for _ in range(3))
    server.start()
    assert server.sessions() == [], "whose kernel was another server's is not this one's to show"
    again = server.create("a.ipynb")
    assert again["id"] not in left, "what was left behind holds no path"
    # Nobody but its authority may say that it is gone.
    until(lambda: sorted(ids_of(database)) == sorted([*left, again["id"]]), why="it is stored")


@pytest.mark.only("postgresql", "mysql", reason="SQLite is reached through no network")
def test_a_network_that_lost_its_way(database: Database, new_server: NewServer) -> None:
    with WireTap.to(database) as tap:
        url = f"c.SessionManager.database_filepath = {tap.url(database)!r}"
        server = ticking(new_server, f"{url}{TIME_TO_START}")
        server.start()
        session = server.create("a.ipynb")
        with Watch(server) as watch, ThreadPoolExecutor(4) as threads:
            tap.pause()
            polls = [threads.submit(server.api.get, "/api/sessions") for _ in range(4)]
            assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
            assert [poll.result().status_code for poll in polls] == [200] * 4
            renamed = server.model(server.patch(session["id"], path="renamed.ipynb"), 200)
            assert renamed["path"] == "renamed.ipynb"
            until(lambda: store_lines(server.log) == ["away"], why="nobody answers")
            assert [model["path"] for model in server.sessions()] == ["renamed.ipynb"]
        assert watch.statuses == {200}
        assert watch.stall < STALL
        tap.resume()
        tap.cut()
        # What was held may have reached it before this server does.
        until(lambda: store_lines(server.log) == ["away", "back"], why="it is back")
        until(lambda: is_stored(server, database), why="what was changed is in it")
        # Not when its kernel was active: that may still be on its way.
        before = rows_of(database)
        tap.pause()
        assert seconds_of_stop(server) < STOP_WITH_KERNEL
        # The statement that was held back must not be carried out now.
        tap.cut()
        tap.resume()
    assert "The sessions of this server stay in the store: " in server.log
    assert rows_of(database) == before


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no server")
def test_the_database_server_is_stopped_and_started(
    own_server: Instance, new_server: NewServer
) -> None:
    database = own_server.create_database()
    server = new_server(f"{stored_in(database)}{PATIENT}{NO_RENEWAL}")
    server.start()
    session = server.create("a.ipynb")

    own_server.restart()
    # The connection is dead, and the database is not: nobody notices.
    server.model(server.patch(session["id"], path="b.ipynb"), 200)
    until(lambda: [row.path for row in rows_of(database)] == ["b.ipynb"], why="it is stored")
    assert store_lines(server.log) == []

    own_server.kill()
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    renamed = server.model(server.patch(session["id"], path="renamed.ipynb"), 200)
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    own_server.start()
    assert [model["path"] for model in server.sessions()] == [renamed["path"]] == ["renamed.ipynb"]
    until(lambda: is_stored(server, database), why="it is back")
    assert store_lines(server.log) == ["away", "back"]
    assert server.own_frames() == []
    assert server.delete(session["id"]).status_code == 204
    assert server.kernels() == []
    until(lambda: rows_of(database) == [], why="it is removed")


@pytest.mark.only("sqlite", reason="only SQLite is a file")
def test_a_file_that_is_deleted_under_a_server(database: Database, new_server: NewServer) -> None:
    server = new_server(f"{stored_in(database)}{TIME_TO_START}")
    server.start()
    first = server.create("a.ipynb")
    path = Path(database.url.removeprefix("sqlite:///"))
    for name in (path, *path.parent.glob(f"{path.name}-*")):
        name.unlink()
    answer = server.api.get(HEALTH)
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})
    second = server.create("b.ipynb")
    assert [model["id"] for model in server.sessions()] == [first["id"], second["id"]]
    assert not path.exists()
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    until(lambda: is_stored(server, database), why="the tables are there")
    until(lambda: server.api.get(HEALTH).json() == {"status": "well"}, why="it is well")
    assert ids_of(database) == [first["id"], second["id"]]
    assert store_lines(server.log) == ["away", "back"]
    assert "make an empty one: jupyter session-store upgrade" in server.log
    assert server.own_frames() == []
