"""Kernels that a gateway hosts: only the gateway says that one is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from ..databases import Database
from .conftest import stored_in
from .gateway import Gateway, gateway
from .rows import dump, row_of, rows_of
from .server import JupyterServer
from .waiting import until

__all__ = ["gateway"]

pytestmark = [pytest.mark.system, pytest.mark.spread]

NewServer = Callable[..., JupyterServer]


@contextmanager
def frozen(gateway: Gateway) -> Iterator[None]:
    """Let a gateway answer nothing, while its kernels run on."""
    process = psutil.Process(gateway.pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def kernel_of(server: JupyterServer, session_id: str) -> dict[str, Any]:
    """Return the kernel of a session, which a list and a look at it alone show alike."""
    (kernel,) = (one["kernel"] for one in server.sessions() if one["id"] == session_id)
    alone: dict[str, Any] = server.model(server.get(session_id), 200)["kernel"]
    assert alone == kernel
    return alone


def polled(server: JupyterServer) -> list[str]:
    """Ask as a front end does: for the kernels, which asks the gateway, and for the sessions."""
    server.api.get("/api/kernels")
    return [model["id"] for model in server.sessions()]


def test_the_main_job_with_a_gateway(
    database: Database, new_server: NewServer, gateway: Gateway
) -> None:
    server = new_server(stored_in(database) + "\n" + gateway.client_config)
    server.start()
    session = server.create("a.ipynb")
    session_id, kernel_id = session["id"], session["kernel"]["id"]
    assert gateway.kernels() == [kernel_id]
    assert server.kernel_processes() == []
    assert row_of(database, session_id).kernel_id == kernel_id
    ((authority,),) = database.rows("SELECT authority FROM jupyter_sessions")
    assert authority.startswith("gateway:http://127.0.0.1:")
    assert server.execute(kernel_id, "print(6 * 7)") == "42\n"
    assert [model["id"] for model in server.sessions()] == [session_id]
    assert server.create("a.ipynb")["id"] == session_id
    moved = server.model(server.patch(session_id, path="b.ipynb"), 200)
    assert (moved["path"], moved["kernel"]["id"]) == ("b.ipynb", kernel_id)

    killed = server.create("killed.ipynb")
    gateway.api.delete(f"/api/kernels/{killed['kernel']['id']}")
    until(
        lambda: polled(server) == [session_id],
        why="the gateway says that the kernel is gone",
    )
    until(lambda: len(rows_of(database)) == 1, why="its row goes soon after")
    assert server.get(killed["id"]).status_code == 404

    assert server.delete(session_id).status_code == 204
    assert rows_of(database) == []
    assert gateway.kernels() == []
    assert server.own_frames() == []


def test_a_gateway_that_is_away_ends_no_session(
    database: Database, new_server: NewServer, gateway: Gateway
) -> None:
    server = new_server(stored_in(database) + "\n" + gateway.client_config)
    server.start()
    ids = [server.create(path)["id"] for path in ("a.ipynb", "b.ipynb")]
    before = dump(database)

    gateway.kill()
    for _ in range(3):
        assert polled(server) == ids
        assert server.get(ids[0]).status_code == 200
    refused = server.delete(ids[0])
    assert refused.status_code == 503, "its kernel cannot be asked to end"
    rows = [row[:-2] for row in dump(database)]
    assert rows == [row[:-2] for row in before], "all but the times are as before"
    assert [model["id"] for model in server.sessions()] == ids

    # A gateway that comes back without them says so.
    gateway.start()
    until(lambda: polled(server) == [], why="the gateway says that the kernels are gone")
    until(lambda: rows_of(database) == [], why="the rows go soon after")


def test_a_kernel_that_cannot_be_asked_for_is_shown_as_unknown(
    database: Database, new_server: NewServer, gateway: Gateway
) -> None:
    config = stored_in(database) + "\n" + gateway.client_config
    first = new_server(config)
    first.start()
    session = first.create("a.ipynb")
    session_id, kernel_id = session["id"], session["kernel"]["id"]
    assert first.execute(kernel_id, "x = 5") == ""
    before = dump(database)

    with frozen(gateway):
        # The first server's kernel manager holds the kernel, and shows what it saw last. A
        # replica that starts now has nothing but the store.
        replica = new_server(config, root=first.root)
        replica.start()
        last_known = {**session["kernel"], "execution_state": "unknown"}
        assert kernel_of(replica, session_id) == last_known
        assert replica.create("a.ipynb")["id"] == session_id, "no second kernel for the path"
        assert kernel_of(first, session_id)["id"] == kernel_id
        print(f"who holds it says that it is {kernel_of(first, session_id)['execution_state']}")
        assert dump(database) == before

    assert gateway.kernels() == [kernel_id]
    until(
        lambda: (
            polled(first) == [session_id]
            and kernel_of(first, session_id)["execution_state"] in ("idle", "busy")
        ),
        why="the gateway says again how its kernel is",
    )
    assert first.execute(kernel_id, "print(x)") == "5\n"
    assert [model["id"] for model in replica.sessions()] == [session_id]
    assert dump(database) == before
    assert gateway.kernels() == [kernel_id]
    for server in (first, replica):
        assert server.own_frames() == []


def test_a_server_that_starts_again_ends_no_session_of_a_gateway(
    database: Database, new_server: NewServer, gateway: Gateway
) -> None:
    server = new_server(stored_in(database) + "\n" + gateway.client_config)
    server.start()
    session = server.create("a.ipynb")
    before = dump(database)

    server.kill()
    assert gateway.kernels() == [session["kernel"]["id"]]
    server.start()
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert server.get(session["id"]).json()["kernel"]["id"] == session["kernel"]["id"]
    assert server.create("a.ipynb")["id"] == session["id"]
    assert dump(database) == before
    assert gateway.kernels() == [session["kernel"]["id"]]
