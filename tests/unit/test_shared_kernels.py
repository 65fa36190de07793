"""Sessions whose kernels other servers use too: the path first, then the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from jupyter_client.kernelspec import NoSuchKernel

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import READY, STARTING, Liveness, SessionRecord
from jupyter_session_store.testing import record, server
from tests.databases.database import Database
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    failing,
    first_row,
    kernels_of,
    settle,
    shared_manager,
    stored,
)
from tests.unit.dummies import SHARED as SCOPE


@pytest.fixture
def manager(database: Database) -> Iterator[PersistentSessionManager]:
    manager = shared_manager(database.url, claim_timeout=0.3)
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


@pytest.fixture
def patient(database: Database) -> Iterator[PersistentSessionManager]:
    """A manager that waits for another server for as long as a test may take."""
    manager = shared_manager(database.url, claim_timeout=30)
    kernels: Any = manager.kernel_manager
    kernels.authority.liveness = Liveness.ALIVE
    yield manager
    manager.close()


@pytest.fixture
def kernels(manager: PersistentSessionManager) -> DummyKernelManager:
    return kernels_of(manager)


async def test_the_path_is_claimed_before_the_kernel_starts(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    creating = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    row = await first_row(manager)
    assert (row.state, row.claim, row.kernel_id) == (
        STARTING,
        claim_of(SCOPE, "a.ipynb"),
        None,
    )
    assert row.server_id == manager.server_id
    assert await manager.list_sessions() == []
    kernels.starting.set()
    model = await creating
    assert await manager.list_sessions() == [model]
    (row,) = await stored(manager)
    assert (row.state, row.kernel_id) == (READY, kernels.started[0])
    assert row.kernel_model is not None


async def test_a_kernel_that_does_not_start_leaves_no_row(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.start_error = NoSuchKernel("bad")
    with pytest.raises(NoSuchKernel):
        await manager.get_or_create_session(**NOTEBOOK)
    assert await stored(manager) == []


async def test_a_claimed_path_starts_no_kernel(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    theirs = record("theirs", SCOPE, path="a.ipynb", state=STARTING, kernel_id=None)
    await manager.store.add(theirs)
    with pytest.raises(StoreUnavailable, match="claim_timeout"):
        await manager.get_or_create_session(**NOTEBOOK)
    assert kernels.started == []
    assert await stored(manager) == [theirs]


async def test_who_waits_gets_the_session_of_the_other_server(
    patient: PersistentSessionManager, database: Database
) -> None:
    manager, kernels = patient, cast("DummyKernelManager", patient.kernel_manager)
    other = shared_manager(database.url)
    other_kernels: Any = other.kernel_manager
    other_kernels.starting.clear()
    first = asyncio.ensure_future(other.get_or_create_session(**NOTEBOOK))
    await first_row(other)
    second = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    await asyncio.sleep(0.1)
    assert not second.done()
    other_kernels.starting.set()
    assert (await first)["id"] == (await second)["id"]
    assert kernels.started == []
    assert len(await stored(manager)) == 1
    other.close()


async def test_a_create_that_cannot_be_finished_leaves_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    """Its row is removed when the store is back: after the next renewal."""
    store = manager.store
    remove, update = store.remove, store.update
    failing(manager, "update", StoreUnavailable("test"))
    failing(manager, "remove", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await manager.create_session(**NOTEBOOK)
    assert kernels.shut_down == kernels.started
    assert len(await stored(manager)) == 1
    store.remove, store.update = remove, update  # type: ignore[method-assign]
    await asyncio.wrap_future(manager.lease.renew_now())
    await asyncio.sleep(0)
    await settle(manager)
    assert await stored(manager) == []


@pytest.mark.parametrize("liveness", list(Liveness))
async def test_what_an_evicted_server_was_creating_is_finished(
    manager: PersistentSessionManager, liveness: Liveness
) -> None:
    shared_kernels: Any = manager.kernel_manager.authority
    shared_kernels.liveness = liveness
    half = record("half", SCOPE, state=STARTING, kernel_id="k", server_id="two")
    manager.store.renew(server("two", SCOPE.namespace), [], timeout=30)
    await manager.store.add(half)
    await manager.list_sessions()
    (seen,) = (
        one
        for one in manager.store.renew(server("three", SCOPE.namespace), [], timeout=30)
        if one.server_id == "two"
    )
    # As the heartbeat does when it has found a dead one.
    unfinished = manager.store.evict(SCOPE, [seen], manager.server_id, timeout=30)
    manager.sessions.on_renewed(unfinished)
    await asyncio.sleep(0.05)
    await settle(manager)
    states = {row.session_id: row.state for row in await stored(manager)}
    expected = {Liveness.ALIVE: {"half": READY}, Liveness.GONE: {}}
    assert states == expected.get(liveness, {"half": STARTING})


async def test_the_last_session_is_counted_again_after_its_mark(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    """Another server attaches between the mark and the look."""
    model = await manager.create_session(**NOTEBOOK)
    kernel_id = model["kernel"]["id"]
    begin_close = manager.store.begin_close

    async def then_attached(*arguments: Any) -> Any:
        closing = await begin_close(*arguments)
        await manager.store.add(record("theirs", SCOPE, kernel_id=kernel_id))
        return closing

    manager.store.begin_close = then_attached  # type: ignore[method-assign, assignment]
    await manager.delete_session(model["id"])
    assert kernels.shut_down == []
    assert [row.session_id for row in await stored(manager)] == ["theirs"]


async def test_who_attaches_gives_way_to_a_closer(
    patient: PersistentSessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, kernels = patient, cast("DummyKernelManager", patient.kernel_manager)
    first = await manager.create_session(**NOTEBOOK)
    kernel_id = first["kernel"]["id"]
    await manager.store.begin_close(SCOPE, first["id"], "another server")
    users = manager.sessions.kernels
    gave_way, wait = asyncio.Event(), users.wait_until_not_closing

    async def waiting(*arguments: Any) -> None:
        gave_way.set()
        await wait(*arguments)

    monkeypatch.setattr(users, "wait_until_not_closing", waiting)
    attaching = asyncio.ensure_future(
        manager.create_session(path="b", type="file", kernel_id=kernel_id)
    )
    await asyncio.wait_for(gave_way.wait(), 30)
    await asyncio.sleep(0.2)
    assert not attaching.done()
    # Its own row is there as well, for the closer to see.
    closing, own = await stored(manager)
    assert (closing.session_id, own.path) == (first["id"], "b")
    await manager.store.remove(SCOPE, [closing])
    # The closer had seen it, and let the kernel live.
    assert (await attaching)["kernel"]["id"] == kernel_id
    assert kernels.started == [kernel_id]


async def test_who_attaches_to_a_kernel_that_ended_elsewhere_gets_a_new_one(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    first = await manager.create_session(**NOTEBOOK, kernel_id="k")
    saved: list[SessionRecord] = []
    add = manager.store.add

    async def after_the_end(new: SessionRecord) -> None:
        saved.append(new)
        await add(new)
        if len(saved) == 1:
            kernels.die("k")

    manager.store.add = after_the_end  # type: ignore[method-assign, assignment]
    attached = await manager.create_session(path="b", type="file", kernel_id="k")
    assert [row.state for row in saved] == [READY, STARTING]
    assert kernels.started == ["k", "k"]
    assert attached["kernel"]["id"] == first["kernel"]["id"] == "k"
