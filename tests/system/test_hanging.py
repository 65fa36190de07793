"""A database whose connection hangs: its host answers, and nobody speaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from ..databases import Database
from ..hanging import HangingProxy
from .cluster import KERNEL_MANAGER
from .faults import store_lines
from .gateway import Gateway
from .parity import LIGHT_KERNEL, add_light_kernel, light_config
from .rows import rows_of
from .server import TIME_TO_START, JupyterServer
from .test_local_outages import is_in_step
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.only("postgresql", "mysql", reason="SQLite is reached through no network"),
    pytest.mark.timeout(300),
]

NewServer = Callable[..., JupyterServer]
#: Seconds that a request waits for the store, as the documentation says, and for a busy machine.
BOUND = 10.0 + 10.0
#: The same with kernels beside the server: it waits 1 s for the store, and whoever waited for the
#: connection, 5.25 s at least.
LOCAL_BOUND = 1.0 + 4.0
#: What the heartbeat does by itself is not the question.
NO_RENEWAL = "c.PersistentSessionManager.lease_seconds = 3600"
#: To connect again takes a busy machine a while.
LATE = "from jupyter_session_store.sql import database\ndatabase._LATE = 60.0\n"


@pytest.fixture
def proxy(database: Database) -> Iterator[HangingProxy]:
    with HangingProxy(database) as proxy:
        yield proxy


def check(
    server: JupyterServer, proxy: HangingProxy, database: Database, bound: float, *verbs: str
) -> None:
    """Check that each request is answered in time, and done by a new connection, and once."""
    session = server.create("a.ipynb")
    requests: list[tuple[str, int, Callable[[], httpx.Response]]] = [
        ("list", 200, lambda: server.api.get("/api/sessions")),
        ("rename", 200, lambda: server.patch(session["id"], path="b.ipynb")),
        ("create", 201, lambda: server.post("c.ipynb")),
        ("delete", 204, lambda: server.delete(session["id"])),
    ]
    for name, status, request in requests:
        if name in verbs:
            proxy.hang()
        began = time.monotonic()
        answer = request()
        seconds = time.monotonic() - began
        print(f"{name}: answered after {seconds:.2f} s")
        assert answer.status_code == status, answer.text
        assert seconds < bound
        until(lambda: is_in_step(server, database), why="a new connection has done it")
    (left,) = server.sessions()
    assert left["path"] == "c.ipynb"
    assert [row.session_id for row in rows_of(database)] == [left["id"]]
    assert store_lines(server.log) == [], "the store was there all the time"
    assert server.own_frames() == []
    assert server.uncaught() == []


def test_a_server_goes_on(database: Database, proxy: HangingProxy, new_server: NewServer) -> None:
    config = (
        f"c.SessionManager.database_filepath = {proxy.url!r}\n{NO_RENEWAL}\n{TIME_TO_START}{LATE}"
    )
    server = new_server(light_config(config))
    add_light_kernel(server, LIGHT_KERNEL)
    server.start()
    check(server, proxy, database, LOCAL_BOUND, "rename", "create", "delete")
    assert len(server.kernels()) == 1


@pytest.mark.extended("each verb through a connection that hangs, once more with a gateway")
def test_a_server_with_a_gateway_goes_on(
    database: Database, proxy: HangingProxy, new_server: NewServer
) -> None:
    gateway = Gateway()
    gateway.start()
    try:
        server = new_server(
            f"c.SessionManager.database_filepath = {proxy.url!r}\n{NO_RENEWAL}\n{TIME_TO_START}"
            f"{LATE}{gateway.client_config}{KERNEL_MANAGER}"
        )
        server.start()
        check(server, proxy, database, BOUND, "list", "rename", "create", "delete")
        assert len(gateway.kernels()) == 1
    finally:
        gateway.close()
