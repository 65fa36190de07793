"""Creating sessions: one a path, and no kernel left without a session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado import web

from jupyter_session_store.errors import InvalidValue, SessionConflict
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import SessionRecord
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    assert_equal_after_renewal,
    failing,
    in_memory,
    settle,
    store_away,
    stored,
)


async def test_one_session_a_path_however_many_ask(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    asking = [asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK)) for _ in range(50)]
    await asyncio.sleep(0.05)
    kernels.starting.set()
    first = await asking[0]
    asking += [asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK)) for _ in range(50)]
    models = await asyncio.gather(*asking)
    assert {model["id"] for model in models} == {first["id"]}
    assert len(kernels.started) == 1
    assert len(await stored(manager)) == 1


async def test_python_may_have_two_sessions_on_a_path(
    manager: PersistentSessionManager,
) -> None:
    first = await manager.create_session(**NOTEBOOK)
    second = await manager.create_session(**NOTEBOOK)
    assert first["id"] != second["id"]
    assert [record.claim is None for record in await stored(manager)] == [False, True]


async def test_who_loses_the_path_gets_the_holder(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    """Another server of the same authority creates it between look and save."""
    rival = await manager.create_session(path="b.ipynb", type="notebook")
    kernels.starting.clear()
    posting = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    while not kernels.starting._waiters:  # noqa: ASYNC110 (it has looked once it starts a kernel)
        await asyncio.sleep(0)
    await manager.update_session(rival["id"], path="a.ipynb")
    kernels.starting.set()
    assert (await posting)["id"] == rival["id"]
    assert kernels.shut_down == kernels.started[1:]
    assert len(kernels.started) == 2
    (record,) = await stored(manager)
    assert record.claim is not None


async def test_a_caller_who_goes_away_changes_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    leaving = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    staying = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    await asyncio.sleep(0.01)
    leaving.cancel()
    kernels.starting.set()
    model = await staying
    assert [record.session_id for record in await stored(manager)] == [model["id"]]


async def test_a_failed_start_is_told_to_all_who_want_the_same(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    kernels.start_error = NoSuchKernel("nope")
    asking = [
        asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK, kernel_name="nope"))
        for _ in range(5)
    ]
    await asyncio.sleep(0.01)
    kernels.starting.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoSuchKernel] * 5
    assert await stored(manager) == []
    kernels.start_error = None
    await manager.get_or_create_session(**NOTEBOOK)


async def test_who_wants_another_kernel_tries_after_a_failed_start(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    kernels.start_error = NoSuchKernel("nope")
    leader = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK, kernel_name="nope"))
    await asyncio.sleep(0.01)
    follower = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK, kernel_name="good"))
    await asyncio.sleep(0.01)
    kernels.starting.set()
    with pytest.raises(NoSuchKernel):
        await leader
    kernels.start_error = None
    assert (await follower)["kernel"]["name"] == "good"


async def test_a_cancelled_create_leaves_no_kernel(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    creating = asyncio.ensure_future(manager.create_session(**NOTEBOOK))
    await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert manager._pending_sessions._records == []
    kernels.starting.set()
    await settle(manager)
    assert len(kernels.started) == 1
    assert kernels.shut_down == kernels.started
    assert await stored(manager) == []


@pytest.mark.parametrize("error", [InvalidValue("path", "is odd", "another"), SessionConflict("s")])
async def test_a_kernel_whose_session_is_refused_is_shut_down(
    manager: PersistentSessionManager, kernels: DummyKernelManager, error: Exception
) -> None:
    failing(manager, "add", error)
    with pytest.raises(type(error)):
        await manager.create_session(**NOTEBOOK)
    assert len(kernels.started) == 1
    assert kernels.shut_down == kernels.started
    assert manager._pending_sessions._records == []
    assert await manager.list_sessions() == []
    assert not await manager.session_exists("a.ipynb")
    del manager.store.add
    await assert_equal_after_renewal(manager)


async def test_an_attached_kernel_stays_when_its_session_is_refused(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernel_id = await kernels.start_kernel()
    failing(manager, "add", SessionConflict("s"))
    with pytest.raises(SessionConflict):
        await manager.create_session(**NOTEBOOK, kernel_id=kernel_id)
    assert kernels.shut_down == []
    assert await manager.list_sessions() == []


@pytest.mark.parametrize("attached", [False, True])
async def test_a_session_is_created_while_the_store_is_away(
    manager: PersistentSessionManager, kernels: DummyKernelManager, attached: bool
) -> None:
    kernel_id = await kernels.start_kernel() if attached else None
    with store_away(manager):
        model = await manager.create_session(**NOTEBOOK, kernel_id=kernel_id)
        assert await manager.list_sessions() == [model]
        assert (await manager.get_or_create_session(**NOTEBOOK))["id"] == model["id"]
        assert manager.sessions.unsynchronized == 1
        assert await stored(manager) == []
    await assert_equal_after_renewal(manager)
    assert [row.session_id for row in await stored(manager)] == [model["id"]]
    assert kernels.started == [model["kernel"]["id"]]
    assert kernels.shut_down == []


async def test_a_client_supplied_kernel_id(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    kernels.starting.clear()
    first = asyncio.ensure_future(manager.create_session(**NOTEBOOK, kernel_id="mine"))
    await asyncio.sleep(0.01)
    with pytest.raises(DuplicateKernelError, match="mine"):
        await manager.create_session(path="b", type="notebook", kernel_id="mine")
    kernels.starting.set()
    assert (await first)["kernel"]["id"] == "mine"
    second = await manager.create_session(path="b", type="notebook", kernel_id="mine")
    assert second["kernel"]["id"] == "mine"
    assert kernels.started == ["mine"]


async def test_a_path_whose_kernel_died_can_be_created_again(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    first = await manager.get_or_create_session(**NOTEBOOK)
    kernels.die(first["kernel"]["id"])
    second = await manager.get_or_create_session(**NOTEBOOK)
    assert second["id"] != first["id"]
    await settle(manager)
    (record,) = await stored(manager)
    assert record.session_id == second["id"]
    assert record.claim is not None


async def test_who_asks_in_the_moment_after_a_failed_create_starts_anew(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    """Between the end of a task and its callbacks, the event loop takes one step."""
    kernels.start_error = NoSuchKernel("bad")
    failing_create = asyncio.ensure_future(
        manager.get_or_create_session(**NOTEBOOK, kernel_name="bad")
    )
    await asyncio.sleep(0)
    (leader,) = (task for task in asyncio.all_tasks() if "SessionCreator" in repr(task.get_coro()))
    while not leader.done():  # noqa: ASYNC110 (one step of the loop is what counts)
        await asyncio.sleep(0)
    # Not in a task of its own: that would begin only after the callbacks.
    kernels.start_error = None
    model = await manager.get_or_create_session(**NOTEBOOK, kernel_name="good")
    assert model["kernel"]["name"] == "good"
    with pytest.raises(NoSuchKernel):
        await failing_create
    assert len(await stored(manager)) == 1


async def test_a_failed_create_leaves_its_kernel_to_who_attached_to_it(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    add = manager.store.add
    attaching: list[asyncio.Future[dict[str, Any]]] = []

    async def attach_then_fail(record: SessionRecord) -> None:
        manager.store.add = add  # type: ignore[method-assign]
        # Not waited for: its own change of the store comes after this one.
        attaching.append(
            asyncio.ensure_future(
                manager.create_session(path="b", type="file", kernel_id=record.kernel_id)
            )
        )
        while len(in_memory(manager)) < 2:  # noqa: ASYNC110 (steps of the loop are what counts)
            await asyncio.sleep(0)
        raise SessionConflict(record.session_id)

    manager.store.add = attach_then_fail  # type: ignore[method-assign]
    with pytest.raises(SessionConflict):
        await manager.create_session(**NOTEBOOK)
    (other,) = attaching
    assert kernels.shut_down == []
    assert await manager.list_sessions() == [await other]
    await assert_equal_after_renewal(manager)


async def test_a_given_kernel_id_is_reserved_until_its_session_is_saved(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    add = manager.store.add

    async def late_add(record: SessionRecord) -> None:
        with pytest.raises(DuplicateKernelError):
            await manager.create_session(path="b", type="file", kernel_id="mine")
        await add(record)

    manager.store.add = late_add  # type: ignore[method-assign]
    await manager.create_session(**NOTEBOOK, kernel_id="mine")
    manager.store.add = add  # type: ignore[method-assign]
    await manager.create_session(path="b", type="file", kernel_id="mine")
    assert kernels.started == ["mine"]


async def test_a_session_without_a_kernel_does_not_hold_its_path_for_ever(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(web.HTTPError) as error:
        await manager.update_session(model["id"], kernel_id=None)
    assert error.value.status_code == 404
    created = await manager.get_or_create_session(**NOTEBOOK)
    assert await manager.list_sessions() == [created]
    assert kernels.shut_down == []
