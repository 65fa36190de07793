"""Kernels on a gateway that are started under an id which the session's row names before."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado import web
from tornado.httpclient import HTTPClientError

from jupyter_session_store.errors import KernelNotStarted, StoreUnavailable
from jupyter_session_store.kernels.gateway.api import is_over
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import READY, STARTING, Liveness, SessionRecord
from jupyter_session_store.servers.heartbeat import now
from jupyter_session_store.testing import record
from tests.databases.database import Database
from tests.unit.dummies import (
    NOTEBOOK,
    SHARED,
    DummyKernelManager,
    SharedAuthority,
    SharedKernelManager,
    failing,
    first_row,
    kernels_of,
    renewed,
    shared_manager,
    stored,
)


@pytest.fixture
def manager(database: Database) -> Iterator[PersistentSessionManager]:
    manager = shared_manager(database.url, preassigned=True, claim_timeout=0.3)
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


@pytest.fixture
def kernels(manager: PersistentSessionManager) -> DummyKernelManager:
    return kernels_of(manager)


@pytest.fixture
def authority(manager: PersistentSessionManager) -> SharedAuthority:
    assert isinstance(manager.kernel_manager, SharedKernelManager)
    return manager.kernel_manager.authority


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass for what is left to be finished, however busy the machine is."""
    monkeypatch.setattr("jupyter_session_store.sessions.recovery.now", lambda: now() + seconds)


async def test_the_row_names_the_kernel_before_it_starts(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    creating = asyncio.ensure_future(manager.create_session(**NOTEBOOK))
    row = await first_row(manager)
    assert row.state == STARTING
    assert row.kernel_id is not None
    assert kernels.started == []
    kernels.starting.set()
    model = await creating
    assert model["kernel"]["id"] == row.kernel_id == kernels.started[0]
    assert [one.state for one in await stored(manager)] == [READY]


def of_gateway(status: int, cause: Exception) -> web.HTTPError:
    """Return the error of a request to a gateway, as Jupyter Server raises it."""
    error = web.HTTPError(status)
    error.__cause__ = cause
    return error


ANSWERED = of_gateway(500, HTTPClientError(500))
TIMED_OUT = of_gateway(599, HTTPClientError(599))


@pytest.mark.parametrize(
    ("error", "over"),
    [
        (ANSWERED, True),
        (TIMED_OUT, False),
        (of_gateway(504, HTTPClientError(504)), False),
        (of_gateway(502, HTTPClientError(502)), False),
        (of_gateway(404, socket.gaierror()), True),
        (of_gateway(503, ConnectionRefusedError()), True),
        (of_gateway(503, ConnectionResetError()), False),
        (NoSuchKernel("python2"), True),
        (web.HTTPError(404), True),
        (asyncio.TimeoutError(), False),
        (asyncio.CancelledError(), False),
        (BrokenPipeError(), False),
    ],
    ids=repr,
)
def test_what_may_still_go_on_in_the_gateway(error: BaseException, over: bool) -> None:
    assert is_over(error) is over


async def test_a_start_that_the_gateway_refused_leaves_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    kernels.start_error = ANSWERED
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK)
    assert len(authority.shut_down_here) == 1
    assert await stored(manager) == []


async def test_a_kernel_whose_start_was_not_answered_is_looked_for_until_it_cannot_come(
    manager: PersistentSessionManager,
    kernels: DummyKernelManager,
    authority: SharedAuthority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A 404 says nothing: the gateway may be about to start it."""
    authority.launch_limit = 3600
    kernels.start_error = TIMED_OUT
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK)
    (row,) = await stored(manager)
    assert (row.state, row.path, authority.shut_down_here) == (STARTING, None, [row.kernel_id])
    await renewed(manager)
    (row,) = await stored(manager)
    # It stands in nobody's way.
    kernels.start_error = None
    model = await manager.create_session(**NOTEBOOK)
    assert await manager.list_sessions() == [model]
    later(monkeypatch, 3600)
    await renewed(manager)
    assert authority.shut_down_here == [row.kernel_id] * 3
    assert [one.session_id for one in await stored(manager)] == [model["id"]]


async def test_a_gateway_that_was_not_reached_started_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    kernels.start_error = of_gateway(503, ConnectionRefusedError())
    authority.after_shutdown = Liveness.UNKNOWN
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK)
    assert await stored(manager) == []


async def test_a_row_whose_insert_was_not_answered_blocks_nobody(
    manager: PersistentSessionManager,
) -> None:
    add = manager.store.add

    async def made_but_lost(new: Any) -> None:
        await add(new)
        failing(manager, "remove", StoreUnavailable("test"))
        raise StoreUnavailable("test")

    remove = manager.store.remove
    manager.store.add = made_but_lost  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        await manager.create_session(**NOTEBOOK)
    assert len(await stored(manager)) == 1
    manager.store.add, manager.store.remove = add, remove  # type: ignore[method-assign]
    await renewed(manager)
    assert await stored(manager) == []


async def test_a_session_that_was_saved_without_an_answer_keeps_its_kernel(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    """Another server may have handed it out in the meantime."""
    update, find = manager.store.update, manager.store.find

    async def made_but_lost(*arguments: Any, **how: Any) -> None:
        await update(*arguments, **how)
        failing(manager, "find", StoreUnavailable("test"))
        raise StoreUnavailable("test")

    manager.store.update = made_but_lost  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await manager.create_session(**NOTEBOOK)
    manager.store.update, manager.store.find = update, find  # type: ignore[method-assign]
    await renewed(manager)
    assert (kernels.shut_down, authority.shut_down_here) == ([], [])
    assert [row.state for row in await stored(manager)] == [READY]


async def test_a_kernel_that_another_server_took_over_is_left_to_it(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    """This one was evicted while its start was not answered."""
    kernels.start_error = TIMED_OUT
    authority.after_shutdown = Liveness.UNKNOWN
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK)
    (row,) = await stored(manager)
    await manager.store.remove(SHARED, [row])
    await manager.store.add(row.replace(server_id="another", state=READY))
    authority.shut_down_here.clear()
    await renewed(manager)
    assert authority.shut_down_here == []
    assert [one.server_id for one in await stored(manager)] == ["another"]


async def test_a_row_stays_until_its_kernel_is_known_to_be_gone(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    kernels.start_error = ANSWERED
    authority.after_shutdown = Liveness.UNKNOWN
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK)
    assert [row.path for row in await stored(manager)] == [None]
    await renewed(manager)
    assert len(await stored(manager)) == 1
    authority.after_shutdown = Liveness.GONE
    await renewed(manager)
    assert len(authority.shut_down_here) == 3
    assert await stored(manager) == []


async def test_a_kernel_that_cannot_be_shut_down_again_is_ended_later(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    update = manager.store.update
    failing(manager, "update", StoreUnavailable("test"))
    kernels.shutdown_error = web.HTTPError(503, "the gateway is away")
    with pytest.raises(StoreUnavailable):
        await manager.create_session(**NOTEBOOK)
    manager.store.update = update  # type: ignore[method-assign]
    (row,) = await stored(manager)
    assert (row.state, row.kernel_id) == (STARTING, kernels.started[0])
    kernels.shutdown_error = None
    await renewed(manager)
    assert kernels.shut_down == kernels.started
    assert await stored(manager) == []


async def test_a_move_whose_start_was_not_answered_leaves_no_kernel(
    manager: PersistentSessionManager,
    kernels: DummyKernelManager,
    authority: SharedAuthority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.launch_limit = 3600
    model = await manager.create_session(**NOTEBOOK)
    kernels.start_error = TIMED_OUT
    with pytest.raises(KernelNotStarted):
        await manager.change_session(model["id"], kernel_name="other")
    later(monkeypatch, 3600)
    await renewed(manager)
    assert len(authority.shut_down_here) == 2
    await renewed(manager)
    assert len(authority.shut_down_here) == 2
    assert await manager.list_sessions() == [model]


async def test_a_kernel_that_another_server_started_is_shut_down_by_whoever_leaves_it_last(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    authority.liveness = Liveness.ALIVE
    await manager.store.add(record("theirs", SHARED, kernel_id="elsewhere"))
    authority.after_shutdown = Liveness.UNKNOWN
    with pytest.raises(StoreUnavailable):
        await manager.delete_session("theirs")
    assert [row.state for row in await stored(manager)] == [READY]
    authority.after_shutdown = Liveness.GONE
    await manager.delete_session("theirs")
    assert authority.shut_down_here == ["elsewhere"] * 2
    assert await stored(manager) == []


async def test_a_client_cannot_name_a_kernel_that_is_anothers(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    authority.liveness = Liveness.ALIVE
    with pytest.raises(NoSuchKernel):
        await manager.create_session(**NOTEBOOK, kernel_id="theirs")
    authority.liveness = Liveness.UNKNOWN
    with pytest.raises(StoreUnavailable):
        await manager.create_session(**NOTEBOOK, kernel_id="theirs")
    assert (kernels.started, authority.shut_down_here) == ([], [])
    assert await stored(manager) == []


async def test_a_kernel_whose_id_the_client_chose_is_not_ended(
    manager: PersistentSessionManager, kernels: DummyKernelManager, authority: SharedAuthority
) -> None:
    """Another may have started it under this id in the meantime."""
    kernels.start_error = ANSWERED
    with pytest.raises(web.HTTPError):
        await manager.create_session(**NOTEBOOK, kernel_id="mine")
    assert authority.shut_down_here == []
    assert await stored(manager) == []
    kernels.start_error = None
    model = await manager.create_session(**NOTEBOOK, kernel_id="mine")
    assert model["kernel"]["id"] == "mine"


async def test_a_gateway_that_chooses_the_id_itself(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    start = kernels.start_kernel

    async def start_under_another(**how: Any) -> str:
        return await start(**{**how, "kernel_id": "its own"})

    kernels.start_kernel = start_under_another  # type: ignore[method-assign]
    model = await manager.create_session(**NOTEBOOK)
    assert manager._context.usage._reserved == set()
    assert model["kernel"]["id"] == "its own"
    assert [row.kernel_id for row in await stored(manager)] == ["its own"]


async def test_an_id_that_another_create_has_reserved_stays_reserved(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    add = manager.store.add

    async def meanwhile(new: SessionRecord) -> None:
        await add(new)
        assert manager._context.usage.reserve("mine")

    manager.store.add = meanwhile  # type: ignore[method-assign, assignment]
    with pytest.raises(DuplicateKernelError, match="mine"):
        await manager.create_session(**NOTEBOOK, kernel_id="mine")
    assert manager._context.usage.is_reserved("mine")
    assert kernels.started == []


async def test_a_move_names_both_kernels_until_it_is_over(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    """So that who evicts this server ends the one of them that no session is on."""
    model = await manager.create_session(**NOTEBOOK)
    before = model["kernel"]["id"]
    kernels.starting.clear()
    moving = asyncio.ensure_future(manager.change_session(model["id"], kernel_name="python3"))
    marks: list[SessionRecord] = []
    while len(marks) < 2:
        await asyncio.sleep(0.005)
        marks = [row for row in await stored(manager) if row.state == STARTING]
    assert [row.path for row in marks] == [None, None]
    assert not any(row.claim or row.keeps_kernel_alive for row in marks)
    assert await manager.list_sessions() == [model]
    kernels.starting.set()
    moved = await moving
    assert {row.kernel_id for row in marks} == {before, moved["kernel"]["id"]}
    assert kernels.shut_down == [before]
    assert [row.session_id for row in await stored(manager)] == [model["id"]]


async def test_a_move_whose_kernel_did_not_start_leaves_no_row(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.start_error = NoSuchKernel("none")
    with pytest.raises(KernelNotStarted):
        await manager.change_session(model["id"], kernel_name="none")
    assert [row.session_id for row in await stored(manager)] == [model["id"]]
    assert kernels.shut_down == []
