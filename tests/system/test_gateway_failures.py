"""A gateway that cannot be asked: its sessions stay, are listed as unknown, and go on after it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket

from ..databases import Database
from .bad_gateway import EMPTY_LIST, FAULTS, SILENCE, Proxy
from .channels import Channels
from .client import Model
from .cluster import replica_config
from .gateway import Gateway
from .rows import rows_of
from .server import JupyterServer
from .test_gateway import frozen
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.spread,
    pytest.mark.timeout(600),
    pytest.mark.only(
        "sqlite", "postgresql", reason="it is the gateway that fails: a file and a server"
    ),
]

NewServer = Callable[..., JupyterServer]

#: Seconds in which every answer has to come: those that ask a gateway which is silent take five.
BOUND = 20.0
NAME = "c.PersistentSessionManager.gateway_name = 'the gateway'\n"


@dataclass
class Scene:
    """Two replicas that reach their gateway through a proxy, and sessions of one of them."""

    database: Database
    gateway: Gateway
    proxy: Proxy
    config: str
    holder: JupyterServer
    other: JupyterServer
    sessions: list[Model]

    @property
    def ids(self) -> list[str]:
        """The ids of the sessions, in the order of a list."""
        return [session["id"] for session in self.sessions]


@pytest.fixture
def scene(database: Database, new_server: NewServer, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        gateway = Gateway()
        stack.callback(gateway.close)
        gateway.start()
        proxy = stack.enter_context(Proxy(gateway))
        config = replica_config(database, gateway).replace(gateway.url, proxy.url) + NAME
        holder, other = (new_server(config, root=tmp_path) for _ in range(2))
        for server in (holder, other):
            server.start()
            server.api.timeout = BOUND
        sessions = [holder.create(f"{place}.ipynb") for place in range(3)]
        yield Scene(database, gateway, proxy, config, holder, other, sessions)
        print(gateway.log)


def states(server: JupyterServer) -> list[tuple[str, str]]:
    """Return the sessions that a server lists, and the states of their kernels."""
    return [(model["id"], model["kernel"]["execution_state"]) for model in server.sessions()]


def check_unknown(scene: Scene, *, silent: bool = False) -> None:
    """Check what both replicas answer while the gateway cannot be asked.

    Who ends a kernel of a silent gateway waits as long as `c.GatewayClient.request_timeout` says.
    """

    def check(server: JupyterServer) -> None:
        first = scene.sessions[0]
        assert states(server) == [(session_id, "unknown") for session_id in scene.ids]
        alone = server.model(server.get(first["id"]), 200)
        assert alone["kernel"]["execution_state"] == "unknown"
        assert alone["kernel"]["id"] == first["kernel"]["id"]
        # The same session, and no second kernel.
        assert server.create("0.ipynb")["id"] == first["id"]
        assert server.api.get("/api/kernels").status_code == 503
        if not silent:
            refused = server.delete(first["id"])
            assert refused.status_code == 503, refused.text

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(check, (scene.holder, scene.other)))


def check_well(scene: Scene) -> None:
    """Check that both replicas serve every session again."""
    for server in (scene.holder, scene.other):
        until(
            lambda server=server: "unknown" not in dict(states(server)).values(),  # type: ignore[misc]
            why="the gateway says again how its kernels are",
        )
        kernels = sorted(model["kernel"]["id"] for model in scene.sessions)
        assert sorted(server.kernels()) == kernels
        assert server.execute(scene.sessions[0]["kernel"]["id"], "print(x)") == "5\n"


def unchanged(database: Database) -> list[tuple[object, ...]]:
    """Return what is stored, but for when and by whom it was written last."""
    return [(row.session_id, row.path, row.kernel_id, row.state) for row in rows_of(database)]


def test_whatever_is_wrong_sessions_stay(scene: Scene, share: Callable[..., Sequence[str]]) -> None:
    scene.holder.execute(scene.sessions[0]["kernel"]["id"], "x = 5")
    check_well(scene)
    before = unchanged(scene.database)
    for fault in share(tuple(FAULTS), ("sqlite", "postgresql")):
        print(f"--- {fault}")
        with scene.proxy.failing(fault):
            check_unknown(scene, silent=fault == SILENCE)
        check_well(scene)
        until(lambda: unchanged(scene.database) == before, why="what was refused is taken back")
    with frozen(scene.gateway):
        check_unknown(scene, silent=True)
    check_well(scene)
    with scene.proxy.failing(EMPTY_LIST):
        check_well(scene)
    assert unchanged(scene.database) == before
    assert sorted(scene.gateway.kernels()) == sorted(m["kernel"]["id"] for m in scene.sessions)


def test_a_list_asks_the_gateway_once(scene: Scene, new_server: NewServer, tmp_path: Path) -> None:
    kernel_id = scene.sessions[0]["kernel"]["id"]
    body = {"type": "file", "name": "", "kernel": {"id": kernel_id}}
    for place in range(97):
        answer = scene.holder.api.post("/api/sessions", json={"path": f"more-{place}", **body})
        assert answer.status_code == 201, answer.text
    fresh = new_server(scene.config, root=tmp_path)
    fresh.start()
    for server in (scene.holder, scene.other, fresh):
        before = scene.proxy.requests
        assert len(server.sessions()) == 100
        assert scene.proxy.requests == before + 1
    assert fresh.execute(kernel_id, "print('attached')") == "attached\n"


def test_a_front_end_has_one_connection_to_its_kernel(scene: Scene) -> None:
    """A browser gives a websocket up whose protocol was not chosen, and comes again without."""
    kernel_id = scene.sessions[0]["kernel"]["id"]
    # What comes while a kernel starts waits at the gateway, and is mixed up there.
    scene.holder.execute(kernel_id, "x = 5")
    where = f"ws://127.0.0.1:{scene.holder.port}/api/kernels/{kernel_id}/channels"
    address = f"{where}?token={scene.holder.token}&session_id=a-front-end"

    def connections() -> int:
        return int(scene.gateway.api.get(f"/api/kernels/{kernel_id}").json()["connections"])

    def are_closed() -> bool:
        return connections() == 0

    def opened() -> int:
        return scene.gateway.log.count(f"Connecting to kernel {kernel_id}.")

    @contextmanager
    def given_up() -> Iterator[None]:
        """Wait until the gateway has closed what it opens for a websocket.

        It mixes up what one front end connects while it still opens or closes the last. What is
        given up at once is opened there a moment later, if at all.
        """
        before, end = opened(), time.monotonic() + 3
        yield
        until(lambda: opened() > before or time.monotonic() > end, why="it is opened, or never")
        until(are_closed, why="what is given up is closed")

    for _ in range(5):
        offered = ["v1.kernel.websocket.jupyter.org"]
        with (
            given_up(),
            pytest.raises(websocket.WebSocketException, match="Invalid WebSocket Header"),
        ):
            websocket.create_connection(address, subprotocols=offered, timeout=BOUND)
        with given_up():
            websocket.create_connection(address, timeout=BOUND).close()
    with Channels(address) as channels:
        assert channels.execute("print('heard')") == "heard\n"
        until(lambda: connections() == 1, why="there is one connection")
    until(are_closed, why="so is this one")


def test_a_gateway_whose_name_does_not_resolve(
    scene: Scene, new_server: NewServer, tmp_path: Path
) -> None:
    """Jupyter Server turns that into a 404, and so a stock manager removes what it knew."""
    config = scene.config.replace(scene.proxy.url, "http://no-such-host.invalid:8888")
    lost = new_server(config, root=tmp_path)
    lost.start()
    lost.api.timeout = BOUND
    before = unchanged(scene.database)
    assert states(lost) == [(session_id, "unknown") for session_id in scene.ids]
    assert lost.get(scene.ids[0]).json()["kernel"]["execution_state"] == "unknown"
    assert lost.delete(scene.ids[0]).status_code == 503
    lost.stop()
    until(lambda: unchanged(scene.database) == before, why="what was refused is taken back")
    assert "unknown" not in dict(states(scene.holder)).values()


def test_a_gateway_that_comes_back_without_its_kernels(scene: Scene) -> None:
    servers = (scene.holder, scene.other)
    scene.gateway.kill()
    for server in servers:
        assert states(server) == [(session_id, "unknown") for session_id in scene.ids]
    scene.gateway.start()
    for server in servers:
        until(lambda server=server: server.sessions() == [], why="the gateway says it")  # type: ignore[misc]
    until(lambda: rows_of(scene.database) == [], why="the rows go soon after")

    def removed() -> list[int]:
        logs = (server.log for server in servers)
        return [int(count) for log in logs for count in re.findall(r"Removed (\d+) session", log)]

    # The line is written after the rows are gone.
    until(lambda: sum(removed()) >= 3, why="what was removed is told")
    for server in servers:
        server.stop()
    assert sum(removed()) == 3, removed()
