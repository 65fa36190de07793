"""A database that is away or locked, with kernels on a gateway: 503, no change, no lost kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ..databases import Database
from .cluster import KERNEL_MANAGER
from .faults import Outage, Watch, is_refusal, locked, store_lines, ticking
from .gateway import Gateway, gateway
from .process import OTHER_KERNEL
from .rows import dump, rows_of
from .server import TIME_TO_START, JupyterServer
from .test_faults import LONG_LOCK, NO_RENEWAL, SHORTEST_WAIT, STALL, ids_of
from .test_gateway import frozen
from .waiting import until

__all__ = ["gateway"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

NewServer = Callable[..., JupyterServer]
#: Seconds that a request waits for the store, as the documentation says, and for a kernel that is
#: started first on a busy machine.
REQUEST = 10.0 + 5.0


@pytest.fixture
def new_shared(gateway: Gateway, new_server: NewServer) -> NewServer:
    """A function that makes a server of the gateway, not started yet."""

    def new(url: str, more: str = "") -> JupyterServer:
        config = f"c.SessionManager.database_filepath = {url!r}\n{more}\n"
        return ticking(new_server, f"{config}{gateway.client_config}{KERNEL_MANAGER}")

    return new


def is_back(server: JupyterServer) -> bool:
    return server.api.get("/api/sessions").status_code == 200


def test_a_server_starts_without_its_database(database: Database, new_shared: NewServer) -> None:
    with Outage(database) as outage:
        server = new_shared(outage.url)
        with outage.running():
            server.start()
            with Watch(server) as watch, ThreadPoolExecutor(6) as threads:
                asked = [threads.submit(server.api.get, "/api/sessions") for _ in range(5)]
                asked.append(threads.submit(server.post, "a.ipynb"))
                answers = [one.result() for one in asked]
            assert all(map(is_refusal, answers)), answers
            assert watch.statuses == {200}
            assert watch.stall < STALL
        until(lambda: is_back(server), why="it is back")
        session = server.create("a.ipynb")
        assert ids_of(database) == [session["id"]]
        assert server.execute(session["kernel"]["id"], "print('up')") == "up\n"
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []


def test_a_running_server_loses_its_database(
    database: Database, gateway: Gateway, new_shared: NewServer
) -> None:
    with Outage(database) as outage:
        server = new_shared(outage.url, f"{NO_RENEWAL}{TIME_TO_START}")
        server.start()
        session = server.create("a.ipynb")
        session_id, kernel_id = session["id"], session["kernel"]["id"]
        before = dump(database)
        with server.channels(kernel_id) as channels, ThreadPoolExecutor(8) as threads:
            channels.execute("x = 5")
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
                if database.kind == "sqlite":
                    # What holds a file keeps others from writing, and not from reading. What was
                    # begun and is answered goes on, and gives up before long.
                    until(lambda: is_back(server), why="no write is in the way of a read")
                    reads = [server.api.get("/api/sessions") for _ in range(5)]
                    assert [read.status_code for read in reads] == [200] * 5
                else:
                    reads = [server.api.get("/api/sessions") for _ in range(5)]
                    assert all(map(is_refusal, reads)), reads
                assert channels.execute("x") == "5"
            until(lambda: is_back(server), why="it is back")
            assert channels.execute("x") == "5", "over the websocket that was there before"

        assert watch.statuses == {200}
        assert watch.stall < STALL
        assert dump(database) == before
        assert [model["id"] for model in server.sessions()] == [session_id]
        assert gateway.kernels() == [kernel_id]
        assert server.model(server.patch(session_id, path="c.ipynb"), 200)["path"] == "c.ipynb"
        assert server.delete(session_id).status_code == 204
        assert rows_of(database) == []
        assert gateway.kernels() == []
        assert store_lines(server.log) == ["away", "back"]
        assert server.own_frames() == []


def test_a_kernel_whose_session_cannot_be_saved_is_shut_down(
    database: Database, gateway: Gateway, new_shared: NewServer
) -> None:
    server = new_shared(database.url)
    server.start()
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    with ThreadPoolExecutor(1) as threads, Watch(server, "/api") as watch, ExitStack() as stack:
        thaw = stack.enter_context(ExitStack())
        thaw.enter_context(frozen(gateway))
        create = threads.submit(server.post, "b.ipynb")
        until(
            lambda: [row.state for row in rows_of(database)] == ["ready", "starting"],
            why="its kernel is being started",
        )
        stack.enter_context(locked(database))
        began = time.monotonic()
        thaw.close()
        until(lambda: gateway.hosts(2), why="it starts")
        assert is_refusal(create.result())
        assert time.monotonic() - began > SHORTEST_WAIT, "the lock was no lock"
        until(lambda: gateway.hosts(1), why="it is shut down again")
    assert watch.statuses == {200}
    assert watch.stall < STALL
    assert gateway.kernels() == [kernel_id]
    until(lambda: ids_of(database) == [session["id"]], why="what was refused is no session")
    until(lambda: is_back(server), why="it is back")
    again = server.create("b.ipynb")
    assert server.execute(again["kernel"]["id"], "print('up')") == "up\n"
    assert server.uncaught() == []


@pytest.mark.extended("a lock that is held longer than a lease, with kernels on a gateway")
def test_a_lock_that_is_held_longer_than_the_lease(
    database: Database, gateway: Gateway, new_shared: NewServer
) -> None:
    """No renewal is possible meanwhile, and each request has to wait for one first."""
    server = new_shared(database.url, "c.PersistentSessionManager.lease_seconds = 5")
    server.start()
    session = server.create("a.ipynb")
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
    until(lambda: is_back(server), why="it is back")
    until(lambda: gateway.kernels() == [session["kernel"]["id"]], why="what was refused is undone")
    until(lambda: ids_of(database) == [session["id"]], why="what was refused is no session")
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert store_lines(server.log) == ["away", "back"]
    assert "never retrieved" not in server.log
    assert server.uncaught() == []


def test_a_refused_delete_leaves_the_kernel_to_the_other_session(
    database: Database, gateway: Gateway, new_shared: NewServer
) -> None:
    server = new_shared(database.url)
    server.start()
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    second = server.create("b.ipynb", kernel={"id": kernel_id})
    with locked(database):
        assert is_refusal(server.delete(first["id"]))
    until(lambda: is_back(server), why="it is back")
    assert [model["id"] for model in server.sessions()] == [first["id"], second["id"]]

    assert server.delete(second["id"]).status_code == 204
    assert gateway.kernels() == [kernel_id], "the first session, whose delete was refused, uses it"
    assert server.delete(first["id"]).status_code == 204
    assert gateway.kernels() == []
    assert rows_of(database) == []
