"""Two replicas on one gateway and one store: what the one does while the other is half way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tornado import web

from jupyter_session_store.errors import StoreUnavailable, WaitTimedOut
from jupyter_session_store.kernels.gateway import api
from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import CLOSING, READY, STARTING, SessionRecord
from tests.databases.database import Database
from tests.unit.dummies import first_row, renewed, settle, stored
from tests.unit.fake_gateway import FakeGateway, replica

T = TypeVar("T")

HOW: dict[str, Any] = {"name": "", "type": "notebook", "kernel_name": "python3"}


@pytest.fixture
def replicas(
    database: Database, tmp_path: Path, gateway: FakeGateway
) -> Iterator[tuple[PersistentSessionManager, PersistentSessionManager]]:
    one, two = (replica(tmp_path, database.url) for _ in range(2))
    yield one, two
    for manager in (one, two):
        assert manager._pending_sessions._records == []
        manager.close()


Replicas = tuple[PersistentSessionManager, PersistentSessionManager]


async def evict(manager: PersistentSessionManager, other: PersistentSessionManager) -> None:
    """Have a replica evict another, as if that had not renewed its lease."""
    manager.tasks.use_running_loop()
    servers = manager.store.renew(manager.lease.server, [], timeout=5)
    dead = [server for server in servers if server.server_id == other.server_id]
    unfinished = manager.store.evict(manager.scope, dead, manager.server_id, timeout=5)
    manager.sessions.on_renewed(unfinished)
    await asyncio.sleep(0.05)
    await settle(manager)


async def until(ask: Callable[[], Awaitable[T]], is_so: Callable[[T], bool]) -> None:
    """Wait until what is stored is so."""
    for _ in range(2000):
        if is_so(await ask()):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come to that")


async def row_of(manager: PersistentSessionManager, place: int) -> SessionRecord:
    return (await stored(manager))[place]


async def settled(one: PersistentSessionManager, gateway: FakeGateway) -> list[str | None]:
    """Check that each session has its kernel and each kernel a session; return the paths."""
    rows = await stored(one)
    assert {row.state for row in rows} <= {READY}
    assert sorted(str(row.kernel_id) for row in rows) == sorted(gateway.models)
    return [row.path for row in rows]


async def test_a_move_to_a_kernel_that_another_replica_has_ended_changes_nothing(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    other = await one.create_session(path="2", **HOW)
    await two.delete_session(other["id"])
    # Its entry is stale.
    assert other["kernel"]["id"] in one.kernel_manager
    with pytest.raises(web.HTTPError, match="400"):
        await one.change_session(session["id"], kernel_id=other["kernel"]["id"])
    await settle(one)
    assert await settled(one, gateway) == ["1"]


async def test_a_move_to_a_kernel_that_another_replica_is_ending_changes_nothing(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    other = await one.create_session(path="2", **HOW)
    await two.list_sessions()
    gateway.ending.clear()
    ending = asyncio.ensure_future(one.delete_session(other["id"]))
    await until(lambda: row_of(two, 1), lambda row: row.state == CLOSING)
    moving = asyncio.ensure_future(
        two.change_session(session["id"], kernel_id=other["kernel"]["id"])
    )
    await asyncio.sleep(0.1)
    gateway.ending.set()
    await ending
    with pytest.raises(web.HTTPError, match="400"):
        await moving
    assert await settled(one, gateway) == ["1"]
    assert [model["id"] for model in await two.list_sessions()] == [session["id"]]


async def test_a_move_that_the_closer_has_not_seen_is_taken_back(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked before the closer's mark, and wrote after the closer had counted again."""
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    other = await one.create_session(path="2", **HOW)
    target = other["kernel"]["id"]
    await two.list_sessions()
    users = one.sessions.kernels
    counted, has_users = asyncio.Event(), users.has_users

    async def counting(*arguments: Any, **how: Any) -> bool:
        used = await has_users(*arguments, **how)
        counted.set()
        return used

    monkeypatch.setattr(users, "has_users", counting)
    looked, move = asyncio.Event(), two.store.move

    async def late(*arguments: Any) -> Any:
        looked.set()
        await counted.wait()
        return await move(*arguments)

    monkeypatch.setattr(two.store, "move", late)
    gateway.ending.clear()
    moving = asyncio.ensure_future(two.change_session(session["id"], kernel_id=target))
    await looked.wait()
    ending = asyncio.ensure_future(one.delete_session(other["id"]))
    await until(lambda: row_of(two, 0), lambda row: row.kernel_id == target)
    gateway.ending.set()
    await ending
    with pytest.raises(web.HTTPError, match="400"):
        await moving
    await settle(two)
    assert await settled(one, gateway) == ["1"]
    assert (await stored(one))[0].kernel_id == session["kernel"]["id"]


@pytest.mark.parametrize("reading", ["list", "get"])
async def test_a_session_that_moves_while_it_is_read_is_shown(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    """JupyterLab disposes what is missing from a list."""
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    other = await one.create_session(path="2", **HOW)
    asked, go, ask = asyncio.Event(), asyncio.Event(), gateway.ask
    reader: asyncio.Task[Any] | None = None

    async def late(method: str, kernel_id: str | None = None, **how: Any) -> Answer:
        if asyncio.current_task() is reader and not go.is_set():
            asked.set()
            await go.wait()
        return await ask(method, kernel_id, **how)

    monkeypatch.setattr(api, "request", late)
    read = one.list_sessions() if reading == "list" else one.get_session(session_id=session["id"])
    reader = asyncio.ensure_future(read)
    await asked.wait()
    moved = await two.change_session(session["id"], kernel_name="python3")
    go.set()
    result = await reader
    models = result if reading == "list" else [result, other]
    assert [model["id"] for model in models] == [session["id"], other["id"]]
    assert models[0]["kernel"]["id"] == moved["kernel"]["id"]


async def test_a_kernel_that_cannot_be_ended_now_is_ended_later(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, _ = replicas
    session = await one.create_session(path="1", **HOW)
    gateway.status = 500
    moved = await one.change_session(session["id"], kernel_name="python3")
    assert moved["kernel"]["id"] != session["kernel"]["id"]
    assert len(gateway.models) == 2
    gateway.status = 204
    await renewed(one)
    assert await settled(one, gateway) == ["1"]


async def test_a_kernel_started_in_vain_that_cannot_be_ended_now_is_ended_later(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    gateway.starting.clear()
    moving = asyncio.ensure_future(one.change_session(session["id"], kernel_name="python3"))
    await until(lambda: stored(one), lambda rows: [row.state for row in rows].count(STARTING) == 2)
    await two.delete_session(session["id"])
    gateway.status = 500
    gateway.starting.set()
    with pytest.raises(web.HTTPError, match="404"):
        await moving
    assert len(gateway.models) == 1
    gateway.status = 204
    await renewed(one)
    assert await settled(one, gateway) == []


async def test_a_late_finish_does_not_undo_what_an_evictor_has_given_up(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    gateway.starting.clear()
    creating = asyncio.ensure_future(one.get_or_create_session(path="1", **HOW))
    await first_row(one)
    # The gateway says that there is no such kernel yet.
    await evict(two, one)
    gateway.starting.set()
    model = await creating
    assert model["path"] == "1"
    await renewed(one)
    listed = await two.list_sessions()
    assert [one_of["path"] for one_of in listed] == ["1"]
    assert listed[0]["kernel"]["id"] in gateway.models


async def test_a_late_finish_does_not_undo_what_another_replica_has_made_of_it(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    started, go, update = asyncio.Event(), asyncio.Event(), one.store.update

    async def late(*arguments: Any, **how: Any) -> Any:
        started.set()
        await go.wait()
        return await update(*arguments, **how)

    monkeypatch.setattr(one.store, "update", late)
    creating = asyncio.ensure_future(one.get_or_create_session(path="1", **HOW))
    await started.wait()
    await evict(two, one)
    (adopted,) = await two.list_sessions()
    moved = await two.change_session(adopted["id"], kernel_name="python3")
    go.set()
    assert (await creating)["kernel"]["id"] == moved["kernel"]["id"]
    await renewed(one)
    assert await settled(two, gateway) == ["1"]


async def test_a_gateway_that_chooses_ids_leaves_no_row_of_a_failed_create(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = replicas
    gateway.takes_ids = False
    with monkeypatch.context() as patched:

        async def fail(*arguments: Any, **how: Any) -> None:
            await asyncio.sleep(0)
            raise StoreUnavailable("test")

        patched.setattr(one.store, "update", fail)
        with pytest.raises(StoreUnavailable):
            await one.get_or_create_session(path="1", **HOW)
    await renewed(one)
    assert await settled(one, gateway) == []
    await one.get_or_create_session(path="1", **HOW)
    assert await settled(one, gateway) == ["1"]


async def test_a_create_on_a_kernel_that_another_replica_has_ended_starts_it_anew(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    kernel_id = session["kernel"]["id"]
    await two.delete_session(session["id"])
    assert kernel_id in one.kernel_manager
    model = await one.get_or_create_session(path="2", **HOW, kernel_id=kernel_id)
    assert model["kernel"]["id"] == kernel_id
    assert await settled(one, gateway) == ["2"]


async def test_a_list_on_its_way_brings_no_ended_kernel_back(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = replicas
    await one.create_session(path="1", **HOW)
    session = await one.create_session(path="2", **HOW)
    answered, go, ask = asyncio.Event(), asyncio.Event(), gateway.ask

    async def late(method: str, kernel_id: str | None = None, **how: Any) -> Answer:
        answer = await ask(method, kernel_id, **how)
        if kernel_id is None:
            answered.set()
            await go.wait()
        return answer

    monkeypatch.setattr(api, "request", late)
    listing = asyncio.ensure_future(one.list_sessions())
    await answered.wait()
    await one.delete_session(session["id"])
    go.set()
    assert [model["path"] for model in await listing] == ["1"]
    assert session["kernel"]["id"] not in one.kernel_manager


async def test_a_path_whose_session_another_replica_is_closing_is_waited_for(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    gateway.ending.clear()
    closing = asyncio.ensure_future(one.delete_session(session["id"]))
    await until(lambda: row_of(one, 0), lambda row: row.state == CLOSING)
    posting = asyncio.ensure_future(two.get_or_create_session(path="1", **HOW))
    asking = asyncio.ensure_future(two.session_exists("1"))
    await asyncio.sleep(0.2)
    assert not posting.done()
    assert not asking.done()
    gateway.ending.set()
    await closing
    model = await posting
    assert model["id"] != session["id"]
    assert model["kernel"]["id"] != session["kernel"]["id"]
    await asking
    assert await settled(two, gateway) == ["1"]


async def test_a_close_that_fails_elsewhere_leaves_its_session_to_who_has_waited(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    gateway.ending.clear()
    closing = asyncio.ensure_future(one.delete_session(session["id"]))
    await until(lambda: row_of(one, 0), lambda row: row.state == CLOSING)
    posting = asyncio.ensure_future(two.get_or_create_session(path="1", **HOW))
    await asyncio.sleep(0.1)
    await one.store.update(one.scope, session["id"], {"state": READY})
    assert (await posting)["id"] == session["id"]
    gateway.ending.set()
    await closing


async def test_a_close_that_another_replica_fails_at_meanwhile_is_refused_too(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is ready again then, and is no other one that would keep its kernel."""
    one, two = replicas
    session = await one.create_session(path="1", **HOW)
    await two.list_sessions()
    gateway.status = 500
    has_users = one.sessions.kernels.has_users

    async def late(*arguments: Any, **how: Any) -> bool:
        with pytest.raises(StoreUnavailable):
            await two.delete_session(session["id"])
        return await has_users(*arguments, **how)

    monkeypatch.setattr(one.sessions.kernels, "has_users", late)
    with pytest.raises(StoreUnavailable):
        await one.delete_session(session["id"])
    assert await settled(one, gateway) == ["1"]


async def test_nobody_waits_for_ever_for_a_session_that_is_being_closed(
    replicas: Replicas, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    monkeypatch.setattr(type(two._context), "deadline", lambda _: 0.0)
    session = await one.create_session(path="1", **HOW)
    await one.store.begin_close(one.scope, session["id"], one.server_id)
    with pytest.raises(WaitTimedOut, match="is being closed elsewhere"):
        await two.get_or_create_session(path="1", **HOW)
    assert set(gateway.models) == {session["kernel"]["id"]}
    assert len(await stored(two)) == 1
