"""A database that is away or locked: 503, no change, and everything else goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_session_store.sql.schema import migrating

from ..databases import Database, Instance
from ..migrations.support import engine_of
from ..wire import WireTap
from .conftest import Running, stored_in
from .faults import (
    Outage,
    Watch,
    is_refusal,
    locked,
    number_of_waiting_statements,
    store_lines,
    ticking,
)
from .process import OTHER_KERNEL
from .rows import dump, rows_of
from .server import JupyterServer
from .test_monitoring import HEALTH
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NewServer = Callable[..., JupyterServer]
#: Seconds in which an event loop must get round, on a machine that is busy with other tests.
STALL = 1.0
#: Seconds that the shortest of the databases' own time-outs makes a statement wait for a lock.
SHORTEST_WAIT = 3.5
#: Seconds for a stop without kernels: 2 for the store, and the rest for a busy machine. Whoever
#: waited for the database's own time-out would take 5 at least.
STOP = 4.0
#: The same with a kernel to shut down, against a network that holds everything back: whoever
#: waited for that would take 10, and as long as the kernel takes.
STOP_WITH_KERNEL = 10.0
#: Seconds that a request waits for the store, as the documentation says, and for a kernel that is
#: started first on a busy machine.
REQUEST = 10.0 + 5.0
LONG_LOCK = 30.0
#: What the heartbeat does by itself is not the question. A renewal that waits for a lock holds up
#: the reads behind it, and one that meets a restart logs that the store is away.
NO_RENEWAL = "c.PersistentSessionManager.lease_seconds = 3600"


def test_a_server_starts_without_its_database(database: Database, new_server: NewServer) -> None:
    with Outage(database) as outage:
        server = ticking(new_server, f"c.SessionManager.database_filepath = {outage.url!r}")
        with outage.running():
            server.start()
            with Watch(server) as watch, ThreadPoolExecutor(6) as threads:
                asked = [threads.submit(server.api.get, "/api/sessions") for _ in range(5)]
                asked.append(threads.submit(server.post, "a.ipynb"))
                answers = [one.result() for one in asked]
            kernel_id = server.model(server.api.post("/api/kernels", json={}), 201)["id"]
            assert all(map(is_refusal, answers)), answers
            assert server.execute(kernel_id, "print('here')") == "here\n"
            assert server.kernels() == [kernel_id]
            assert watch.statuses == {200}
            assert watch.stall < STALL

        until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
        session = server.create("a.ipynb")
        assert [row.session_id for row in rows_of(database)] == [session["id"]]
        assert server.execute(session["kernel"]["id"], "print('up')") == "up\n"
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []
        server.stop()
        assert "wrote error" not in server.log, "the polls of a database that is away say nothing"


def test_a_running_server_loses_its_database(database: Database, new_server: NewServer) -> None:
    with Outage(database) as outage:
        config = f"c.SessionManager.database_filepath = {outage.url!r}\n{NO_RENEWAL}"
        server = ticking(new_server, config)
        server.start()
        session = server.create("a.ipynb")
        session_id, kernel_id = session["id"], session["kernel"]["id"]
        before = dump(database)
        with server.channels(kernel_id) as channels, ThreadPoolExecutor(8) as threads:
            channels.execute("x = 5")
            # Where reads go on, kernels are started: see below for /api/status.
            with outage.running(), Watch(server, "/api") as watch:
                writes = [
                    threads.submit(server.post, "b.ipynb"),
                    threads.submit(server.patch, session_id, path="c.ipynb"),
                    threads.submit(server.patch, session_id, kernel={"name": OTHER_KERNEL}),
                    threads.submit(server.delete, session_id),
                ]
                assert channels.execute("x") == "5"
                refused = [write.result() for write in writes]
                assert all(map(is_refusal, refused)), refused
                reads = [server.api.get("/api/sessions") for _ in range(5)]
                # What holds a SQLite file keeps others from writing, and not from reading.
                readable = database.kind == "sqlite"
                assert all(
                    read.status_code == 200 if readable else is_refusal(read) for read in reads
                )
                assert is_refusal(server.patch(session_id, path="c.ipynb"))
                assert channels.execute("x") == "5"
            until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
            assert channels.execute("x") == "5", "over the websocket that was there before"

        assert watch.statuses == {200}
        assert watch.stall < STALL
        assert dump(database) == before
        assert [model["id"] for model in server.sessions()] == [session_id]
        assert server.kernels() == [kernel_id]
        assert server.number_of_kernel_processes() == 1
        assert server.model(server.patch(session_id, path="c.ipynb"), 200)["path"] == "c.ipynb"
        assert server.delete(session_id).status_code == 204
        assert rows_of(database) == []
        assert server.kernels() == []
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []


def test_the_event_loop_waits_for_no_lock(database: Database, new_server: NewServer) -> None:
    server = ticking(new_server, stored_in(database))
    server.start()
    ids = [server.create(path)["id"] for path in ("a.ipynb", "b.ipynb", "c.ipynb")]
    kernel_id = server.get(ids[0]).json()["kernel"]["id"]
    with locked(database), Watch(server) as watch, ThreadPoolExecutor(3) as threads:
        began = time.monotonic()
        writes = [
            threads.submit(server.patch, ids[0], path="d.ipynb"),
            threads.submit(server.delete, ids[1]),
            threads.submit(server.post, "e.ipynb", kernel={"id": kernel_id}),
        ]
        assert all(is_refusal(write.result()) for write in writes)
        waited = time.monotonic() - began
    assert watch.statuses == {200}
    assert waited > SHORTEST_WAIT, "the lock was no lock, and the watch saw nothing"
    assert watch.stall < STALL
    until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
    assert [model["id"] for model in server.sessions()] == ids
    assert server.uncaught() == []


def test_a_kernel_whose_session_cannot_be_saved_is_shut_down(
    database: Database, new_server: NewServer
) -> None:
    server = ticking(new_server, stored_in(database))
    server.start()
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    # While a kernel is being started, Jupyter Server itself may answer 500 to /api/status.
    with ThreadPoolExecutor(2) as threads, Watch(server, "/api") as watch:
        with locked(database):
            create = threads.submit(server.post, "b.ipynb")
            move = threads.submit(server.patch, session["id"], kernel={"name": OTHER_KERNEL})
            until(
                lambda: len(server.kernel_processes()) > 1, why="kernels start, which reads allow"
            )
            refused = [create.result(), move.result()]
            assert all(map(is_refusal, refused)), refused
            until(lambda: server.kernels() == [kernel_id], why="they are shut down again")
        until(lambda: len(server.kernel_processes()) == 1, why="they are shut down again")
    assert watch.statuses == {200}
    assert watch.stall < STALL

    until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
    # A statement that waited may be carried out unheard; it comes to nothing.
    until(lambda: [model["id"] for model in server.sessions()] == [session["id"]], why="no more")
    until(lambda: len(rows_of(database)) == 1, why="what was not answered is no session")
    again = server.create("b.ipynb")
    assert server.execute(again["kernel"]["id"], "print('up')") == "up\n"
    assert server.uncaught() == []


@pytest.mark.extended("a lock that is held longer than a lease")
def test_a_lock_that_is_held_longer_than_the_lease(
    database: Database, new_server: NewServer
) -> None:
    """No renewal is possible meanwhile, and each request has to wait for one first."""
    config = f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = 5"
    server = ticking(new_server, config)
    server.start()
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    seconds: list[float] = []
    with locked(database, "jupyter_sessions", "jupyter_servers"), Watch(server, "/api") as watch:
        began = time.monotonic()
        while time.monotonic() - began < LONG_LOCK:
            asked = time.monotonic()
            answer = server.post(f"{len(seconds)}.ipynb")
            seconds.append(time.monotonic() - asked)
            assert is_refusal(answer), answer.text
    print(f"POSTs were refused after {', '.join(f'{one:.1f}' for one in seconds)} s")
    assert max(seconds) < REQUEST
    assert watch.stall < STALL
    until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
    until(lambda: server.kernels() == [kernel_id], why="what was refused is undone")
    until(lambda: len(rows_of(database)) == 1, why="what was refused is no session")
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert store_lines(server.log) == ["away", "back"]
    assert "never retrieved" not in server.log
    assert server.uncaught() == []


def test_a_refused_delete_leaves_the_kernel_to_the_other_session(shared: Running) -> None:
    server, database = shared.server, shared.database
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    second = server.create("b.ipynb", kernel={"id": kernel_id})
    with locked(database):
        assert is_refusal(server.delete(first["id"]))
    until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
    assert {model["id"] for model in server.sessions()} == {first["id"], second["id"]}

    assert server.delete(second["id"]).status_code == 204
    assert server.kernels() == [kernel_id], "the first session, whose delete was refused, uses it"
    assert server.delete(first["id"]).status_code == 204
    assert server.kernels() == []
    assert rows_of(database) == []


def seconds_of_stop(server: JupyterServer) -> float:
    """Stop a server in order; return how long its process took to end."""
    began = time.monotonic()
    server.stop()
    return time.monotonic() - began


def test_a_locked_database_does_not_delay_an_orderly_stop(
    server: JupyterServer, database: Database
) -> None:
    session = server.create("a.ipynb")
    # How long a kernel takes to end is not the question; its session stays until somebody looks.
    assert server.api.delete(f"/api/kernels/{session['kernel']['id']}").status_code == 204
    before = dump(database)
    assert len(before) == 1
    with locked(database):
        assert seconds_of_stop(server) < STOP
        # Else what the server has sent may be carried out when the lock is gone.
        until(lambda: number_of_waiting_statements(database) == 0, why="the database gives it up")
    assert "The sessions of this server stay in the store: " in server.log
    assert dump(database) == before
    server.start()
    assert server.sessions() == [], "whose kernel was another server's is not this one's to show"
    again = server.create("a.ipynb")
    assert again["id"] != session["id"], "what was left behind holds no path"
    assert sorted(row.session_id for row in rows_of(database)) == sorted(
        [session["id"], again["id"]]
    ), "nobody but its authority may say that it is gone"


@pytest.mark.only("postgresql", "mysql", reason="SQLite is reached through no network")
def test_a_network_that_lost_its_way(database: Database, new_server: NewServer) -> None:
    with WireTap.to(database) as tap:
        server = ticking(new_server, f"c.SessionManager.database_filepath = {tap.url(database)!r}")
        server.start()
        session = server.create("a.ipynb")
        with Watch(server) as watch, ThreadPoolExecutor(4) as threads:
            tap.pause()
            polls = [threads.submit(server.api.get, "/api/sessions") for _ in range(4)]
            assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
            assert all(is_refusal(poll.result()) for poll in polls)
        assert watch.statuses == {200}
        assert watch.stall < STALL
        assert store_lines(server.log) == ["away"]
        tap.resume()
        tap.cut()
        until(lambda: server.api.get("/api/sessions").status_code == 200, why="it is back")
        assert [model["id"] for model in server.sessions()] == [session["id"]]
        assert store_lines(server.log) == ["away", "back"]
        before = dump(database)
        tap.pause()
        assert seconds_of_stop(server) < STOP_WITH_KERNEL
        # The statement that was held back must not be carried out now.
        tap.cut()
        tap.resume()
    assert "The sessions of this server stay in the store: " in server.log
    assert dump(database) == before


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no server")
def test_the_database_server_is_stopped_and_started(
    own_server: Instance, new_server: NewServer
) -> None:
    database = own_server.create_database()
    server = new_server(f"{stored_in(database)}\n{NO_RENEWAL}")
    server.start()
    session = server.create("a.ipynb")
    before = dump(database)

    own_server.restart()
    # The connection is dead, and the database is not: no client notices.
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert store_lines(server.log) == []

    own_server.kill()
    assert all(is_refusal(server.api.get("/api/sessions")) for _ in range(3))
    assert is_refusal(server.delete(session["id"]))
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    own_server.start()
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert dump(database) == before
    assert store_lines(server.log) == ["away", "back"]
    assert server.own_frames() == []
    assert server.delete(session["id"]).status_code == 204
    assert server.kernels() == []


@pytest.mark.only("sqlite", reason="only SQLite is a file")
def test_a_file_that_is_deleted_under_a_server(database: Database, new_server: NewServer) -> None:
    server = new_server(stored_in(database))
    server.start()
    server.create("a.ipynb")
    path = Path(database.url.removeprefix("sqlite:///"))
    for name in (path, *path.parent.glob(f"{path.name}-*")):
        name.unlink()
    assert server.api.get(HEALTH).status_code == 503
    assert is_refusal(server.api.get("/api/sessions"))
    assert is_refusal(server.post("b.ipynb"))
    assert not path.exists()
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    until(lambda: server.api.get(HEALTH).status_code == 200, why="the tables are there")
    server.create("b.ipynb")
    assert store_lines(server.log) == ["away", "back"]
    assert "make an empty one: jupyter session-store upgrade" in server.log
    assert server.own_frames() == []
