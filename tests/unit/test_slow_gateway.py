"""A gateway that is slow keeps nobody waiting but those who have asked it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.gateway.gateway_client import GatewayClient, gateway_request
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from jupyter_session_store.errors import WaitTimedOut
from jupyter_session_store.kernels.gateway import api
from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import READY, Liveness
from tests.unit.dummies import settle, stored
from tests.unit.fake_gateway import FakeGateway, replica

HOW: dict[str, Any] = {"name": "", "type": "notebook", "kernel_name": "python3"}
AT_ONCE = 10


@pytest.fixture
def manager(tmp_path: Path, gateway: FakeGateway) -> Iterator[PersistentSessionManager]:
    manager = replica(tmp_path)
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


class Gate:
    """Holds all GETs of a gateway for single kernels, until it lets those that are there go."""

    def __init__(self, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ask = gateway.ask
        self._waiting: list[asyncio.Event] = []
        #: Whether it holds none that comes from now on.
        self.is_open = False
        monkeypatch.setattr(api, "request", self._request)

    async def _request(self, method: str, kernel_id: str | None = None, **how: Any) -> Answer:
        if method == "GET" and kernel_id is not None and not self.is_open:
            event = asyncio.Event()
            self._waiting.append(event)
            await event.wait()
        return await self._ask(method, kernel_id, **how)

    async def until_waiting(self, number: int) -> None:
        """Wait until so many requests are there at once."""
        for _ in range(2000):
            if len(self._waiting) >= number:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{len(self._waiting)} requests at once, and not {number}")

    def let_go(self) -> None:
        """Answer all that are there."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()


@pytest.mark.parametrize("kernels", ["one kernel", "a kernel each"])
async def test_attaching_requests_run_side_by_side(
    manager: PersistentSessionManager,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    kernels: str,
) -> None:
    number = 1 if kernels == "one kernel" else AT_ONCE
    sessions = [await manager.create_session(path=f"{n}", **HOW) for n in range(number)]
    unrelated = [await manager.create_session(path=f"x{n}", **HOW) for n in range(3)]
    gate = Gate(gateway, monkeypatch)
    attaching = [
        asyncio.ensure_future(
            manager.get_or_create_session(
                path=f"b{n}", **HOW, kernel_id=sessions[n % number]["kernel"]["id"]
            )
        )
        for n in range(AT_ONCE)
    ]
    # Each asks so many times, one after the other; all are at the same one.
    for other in unrelated:
        await gate.until_waiting(AT_ONCE)
        await manager.delete_session(other["id"])
        gate.let_go()
    models = await asyncio.gather(*attaching)
    await settle(manager)
    rows = await stored(manager)
    assert {row.state for row in rows} == {READY}
    assert len(rows) == number + AT_ONCE
    assert {row.kernel_id for row in rows} == set(gateway.models)
    assert {model["kernel"]["id"] for model in models} == set(gateway.models)


@pytest.mark.parametrize("how", ["deleted", "moved away"])
async def test_a_kernel_that_is_ended_while_a_session_attaches_is_not_used(
    manager: PersistentSessionManager,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """At whichever of its questions: then a kernel is started under its id."""
    for round_ in range(3):
        session = await manager.create_session(path=f"{how} {round_}", **HOW)
        kernel_id = session["kernel"]["id"]
        with monkeypatch.context() as patched:
            gate = Gate(gateway, patched)
            attaching = asyncio.ensure_future(
                manager.get_or_create_session(path=f"b {round_}", **HOW, kernel_id=kernel_id)
            )
            for _ in range(round_):
                await gate.until_waiting(1)
                gate.let_go()
            await gate.until_waiting(1)
            gate.is_open = True
            if how == "deleted":
                await manager.delete_session(session["id"])
            else:
                moved = await manager.change_session(session["id"], kernel_name="python3")
                assert moved["kernel"]["id"] != kernel_id
            gate.let_go()
            model = await attaching
        await settle(manager)
        rows = await stored(manager)
        assert {row.state for row in rows} == {READY}
        assert model["kernel"]["id"] == kernel_id
        assert model["id"] in {row.session_id for row in rows}
        assert {row.kernel_id for row in rows} == set(gateway.models)


async def test_an_attach_whose_wait_fails_leaves_no_kernel_without_a_session(
    manager: PersistentSessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other session was closed meanwhile, and has seen this one."""
    first = await manager.create_session(path="a", **HOW)
    kernel_id = first["kernel"]["id"]

    async def closed_meanwhile(kernel_id: str, deadline: float) -> None:
        await manager.delete_session(first["id"])
        raise WaitTimedOut("the kernel is being shut down elsewhere")

    monkeypatch.setattr(manager.sessions.kernels, "wait_until_not_closing", closed_meanwhile)
    with pytest.raises(WaitTimedOut):
        await manager.create_session(path="b", **HOW, kernel_id=kernel_id)
    await settle(manager)
    assert [(one["path"], one["kernel"]["id"]) for one in await manager.list_sessions()] == [
        ("b", kernel_id)
    ]


async def test_an_override_that_saves_a_session_may_delete_another(
    tmp_path: Path, gateway: FakeGateway
) -> None:
    """No lock is held while it does what it likes."""

    class Manager(PersistentSessionManager):
        async def save_session(self, session_id: str, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
            for model in await self.list_sessions():
                if model["path"] == "old":
                    await self.delete_session(model["id"])
            return await super().save_session(session_id, **kwargs)

    manager = replica(tmp_path, ":memory:", Manager)
    first = await manager.create_session(path="a", **HOW)
    await manager.create_session(path="old", **HOW)
    attached = await asyncio.wait_for(
        manager.create_session(path="b", **HOW, kernel_id=first["kernel"]["id"]), 30
    )
    assert {model["id"] for model in await manager.list_sessions()} == {first["id"], attached["id"]}
    manager.close()


class _Slow(web.RequestHandler):
    async def get(self, kernel_id: str) -> None:
        self.settings["asked"].append(kernel_id)
        await self.settings["go"].wait()
        self.finish({"id": kernel_id})

    def delete(self, kernel_id: str) -> None:
        self.set_status(204)


async def test_what_jupyter_server_asks_does_not_wait_behind_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of which its own client would make ten at once."""
    # What is asked does not give up here, however busy the machine is.
    monkeypatch.setattr(api, "TIMEOUT", 60.0)
    monkeypatch.setattr(api.request, "__kwdefaults__", {"timeout": 60.0})
    asked: list[str] = []
    go = asyncio.Event()
    app = web.Application([(r"/api/kernels/(.*)", _Slow)], asked=asked, go=go)
    server = HTTPServer(app)
    socket, port = bind_unused_port()
    server.add_socket(socket)
    GatewayClient.clear_instance()
    client: Any = GatewayClient.instance()
    client.url = f"http://127.0.0.1:{port}"
    try:
        questions = [asyncio.ensure_future(api.get_status(f"k{number}")) for number in range(30)]
        response = await gateway_request(f"{client.url}/api/kernels/other", method="DELETE")
        assert response.code == 204
        for _ in range(2000):
            if len(asked) == len(questions):
                break
            await asyncio.sleep(0.005)
        assert len(asked) == len(questions)
        go.set()
        answers = await asyncio.gather(*questions)
        assert {answer.liveness for answer in answers} == {Liveness.ALIVE}
    finally:
        go.set()
        server.stop()
        await server.close_all_connections()
        GatewayClient.clear_instance()
