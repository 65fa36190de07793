"""Changing sessions: what happens to the kernel that one leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tornado import web

from jupyter_session_store.errors import InvalidValue, KernelNotStarted, StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.sessions import moving
from jupyter_session_store.testing import record
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    assert_equal_after_renewal,
    failing,
    in_memory,
    kernels_of,
    losing_answers,
    settle,
    shared_manager,
    store_away,
    stored,
)


@pytest.fixture(params=["local", "shared"])
def each(
    request: pytest.FixtureRequest, manager: PersistentSessionManager
) -> Iterator[PersistentSessionManager]:
    """A manager over its own kernels, on each repository, or over kernels that others use too."""
    if request.param == "local":
        yield manager
        return
    sharing = shared_manager(":memory:", repository=manager.repository)
    yield sharing
    sharing.close()


@pytest.fixture
def sharing(manager: PersistentSessionManager) -> Iterator[PersistentSessionManager]:
    """A manager over kernels that others use too, on each repository."""
    sharing = shared_manager(":memory:", repository=manager.repository)
    yield sharing
    sharing.close()


async def test_a_rename_tells_the_kernel(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    await manager.update_session(model["id"], path="dir/b.ipynb", name="b.ipynb")
    kernel: Any = kernels.get_kernel(model["kernel"]["id"])
    assert kernel.env["JPY_SESSION_NAME"].endswith("b.ipynb")
    assert (await manager.get_session(path="dir/b.ipynb"))["name"] == "b.ipynb"


async def test_a_move_shuts_the_left_kernel_down(each: PersistentSessionManager) -> None:
    manager, kernels = each, kernels_of(each)
    model = await manager.create_session(**NOTEBOOK)
    moved = await manager.change_session(model["id"], kernel_name="other", path="b")
    assert moved["path"] == "b"
    assert moved["kernel"]["name"] == "other"
    assert kernels.shut_down == [model["kernel"]["id"]]
    (record,) = await stored(manager)
    assert (record.kernel_id, record.kernel_name) == (moved["kernel"]["id"], "other")


async def test_a_move_keeps_a_kernel_that_others_use(each: PersistentSessionManager) -> None:
    manager, kernels = each, kernels_of(each)
    model = await manager.create_session(**NOTEBOOK)
    shared = model["kernel"]["id"]
    await manager.create_session(path="c", type="console", kernel_id=shared)
    await manager.change_session(model["id"], kernel_name="other")
    assert kernels.shut_down == []
    assert shared in kernels


async def test_a_move_to_a_kernel_by_id(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(web.HTTPError) as error:
        await manager.change_session(model["id"], kernel_id="nobody")
    assert error.value.status_code == 400
    other = await kernels.start_kernel()
    moved = await manager.change_session(model["id"], kernel_id=other, kernel_name="ignored")
    assert moved["kernel"]["id"] == other
    assert kernels.shut_down == [model["kernel"]["id"]]
    same = await manager.change_session(model["id"], kernel_id=other)
    assert same["kernel"]["id"] == other
    assert kernels.shut_down == [model["kernel"]["id"]]


async def test_two_moves_that_race_leave_no_kernel_behind(each: PersistentSessionManager) -> None:
    manager, kernels = each, kernels_of(each)
    model = await manager.create_session(**NOTEBOOK)
    kernels.starting.clear()
    moves = [
        asyncio.ensure_future(manager.change_session(model["id"], kernel_name=f"k{i}"))
        for i in range(5)
    ]
    await asyncio.sleep(0.01)
    kernels.starting.set()
    await asyncio.gather(*moves)
    (record,) = await stored(manager)
    assert list(kernels.list_kernel_ids()) == [record.kernel_id]
    assert len(kernels.started) == 6
    assert len(kernels.shut_down) == 5


async def test_a_move_that_is_not_saved_leaves_no_kernel(sharing: PersistentSessionManager) -> None:
    kernels = kernels_of(sharing)
    model = await sharing.create_session(**NOTEBOOK)
    failing(sharing, "move", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await sharing.change_session(model["id"], kernel_name="other")
    assert list(kernels.list_kernel_ids()) == [model["kernel"]["id"]]


async def test_a_move_that_the_store_refuses_leaves_no_kernel(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    before = await stored(manager)
    failing(manager, "mirror_change", InvalidValue("name", "is odd", "another"))
    with pytest.raises(InvalidValue):
        await manager.change_session(model["id"], kernel_name="other", name="n")
    assert list(kernels.list_kernel_ids()) == [model["kernel"]["id"]]
    assert await manager.list_sessions() == [model]
    assert in_memory(manager) == before
    del manager.store.mirror_change
    await assert_equal_after_renewal(manager)
    assert await stored(manager) == before


async def test_a_session_moves_while_the_store_is_away(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    with store_away(manager):
        moved = await manager.change_session(model["id"], kernel_name="other")
        assert moved["kernel"]["name"] == "other"
        assert await manager.list_sessions() == [moved]
        assert kernels.shut_down == [model["kernel"]["id"]]
        assert list(kernels.list_kernel_ids()) == [moved["kernel"]["id"]]
        assert [row.kernel_id for row in await stored(manager)] == [model["kernel"]["id"]]
    await assert_equal_after_renewal(manager)
    (row,) = await stored(manager)
    assert (row.kernel_id, row.kernel_name) == (moved["kernel"]["id"], "other")


async def test_a_local_move_whose_answer_is_lost_is_made_once(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    losing_answers(manager, "mirror_change")
    moved = await manager.change_session(model["id"], kernel_name="other")
    assert await manager.list_sessions() == [moved]
    assert kernels.shut_down == [model["kernel"]["id"]]
    await assert_equal_after_renewal(manager)
    assert [row.kernel_id for row in await stored(manager)] == [moved["kernel"]["id"]]


async def test_a_move_of_a_session_that_is_deleted_meanwhile_leaves_no_kernel(
    each: PersistentSessionManager,
) -> None:
    manager, kernels = each, kernels_of(each)
    model = await manager.create_session(**NOTEBOOK)
    kernels.starting.clear()
    move = asyncio.ensure_future(manager.change_session(model["id"], kernel_name="other"))
    await asyncio.sleep(0.02)
    await manager.delete_session(model["id"])
    kernels.starting.set()
    with pytest.raises(web.HTTPError) as error:
        await move
    assert error.value.status_code == 404
    assert kernels.list_kernel_ids() == []


async def test_a_move_whose_old_kernel_cannot_be_counted_keeps_both() -> None:
    """On another server, a session may have attached to it since."""
    manager = shared_manager(":memory:", repository="memory")
    kernels: Any = manager.kernel_manager
    model = await manager.create_session(**NOTEBOOK)
    find = manager.store.find

    async def find_not_by_kernel(scope: Any, **criteria: Any) -> Any:
        if "kernel_id" in criteria:
            raise StoreUnavailable("test")
        return await find(scope, **criteria)

    manager.store.find = find_not_by_kernel  # type: ignore[method-assign]
    moved = await manager.change_session(model["id"], kernel_name="other")
    assert kernels.shut_down == []
    assert await manager.get_session(session_id=model["id"]) == moved
    assert moved["kernel"]["id"] in kernels
    manager.close()


async def test_a_move_sees_who_attached_on_another_server_meanwhile() -> None:
    manager = shared_manager(":memory:", repository="memory")
    kernels: Any = manager.kernel_manager
    model = await manager.create_session(**NOTEBOOK)
    left = model["kernel"]["id"]
    move = manager.store.move

    async def then_attached(*arguments: Any) -> Any:
        moved = await move(*arguments)
        await manager.store.add(record("theirs", manager.scope, kernel_id=left))
        return moved

    manager.store.move = then_attached  # type: ignore[method-assign, assignment]
    await manager.change_session(model["id"], kernel_name="other")
    assert kernels.shut_down == []
    manager.close()


async def test_a_session_that_another_server_moves_first_moves_on(
    manager: PersistentSessionManager,
) -> None:
    sharing = shared_manager(":memory:", repository=manager.repository)
    kernels = kernels_of(sharing)
    model = await sharing.create_session(**NOTEBOOK)
    elsewhere = await kernels.start_kernel()
    move = sharing.store.move
    moves: list[str] = []

    async def late(scope: Any, session_id: str, kernel_id: str, changes: Any) -> Any:
        if not moves:
            await sharing.store.update(scope, session_id, {"kernel_id": elsewhere})
        moves.append(kernel_id)
        return await move(scope, session_id, kernel_id, changes)

    sharing.store.move = late  # type: ignore[method-assign]
    moved = await sharing.change_session(model["id"], kernel_name="other")
    assert moves == [model["kernel"]["id"], elsewhere]
    assert kernels.shut_down == [elsewhere]
    assert moved["kernel"]["name"] == "other"
    sharing.close()


async def test_a_move_whose_answer_was_lost_leaves_one_kernel(
    sharing: PersistentSessionManager,
) -> None:
    """The row was changed: the session is on the new kernel, and the old one ends."""
    manager, kernels = sharing, kernels_of(sharing)
    model = await manager.create_session(**NOTEBOOK)
    answer = losing_answers(manager, "move")
    with pytest.raises(StoreUnavailable):
        await manager.change_session(model["id"], kernel_name="other")
    answer()
    (listed,) = await manager.list_sessions()
    assert listed["kernel"]["name"] == "other"
    assert list(kernels.list_kernel_ids()) == [listed["kernel"]["id"]]


@pytest.mark.parametrize("saved", [True, False])
async def test_a_move_in_an_outage_is_settled_after_it(
    sharing: PersistentSessionManager, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    manager, kernels = sharing, kernels_of(sharing)
    monkeypatch.setattr(moving, "_SETTLE_SECONDS", 0.001)
    model = await manager.create_session(**NOTEBOOK)
    move = manager.store.move

    async def lost(*arguments: Any) -> None:
        if saved:
            await move(*arguments)
        failing(manager, "find", StoreUnavailable("test"))
        raise StoreUnavailable("test")

    manager.store.move = lost  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        await manager.change_session(model["id"], kernel_name="other")
    await asyncio.sleep(0.05)
    assert len(kernels.list_kernel_ids()) == 2, "which of them is needed is not known"
    del manager.store.move, manager.store.find
    await settle(manager)
    (listed,) = await manager.list_sessions()
    assert listed["kernel"]["name"] == ("other" if saved else model["kernel"]["name"])
    assert list(kernels.list_kernel_ids()) == [listed["kernel"]["id"]]


async def test_a_session_that_is_being_deleted_does_not_move(
    each: PersistentSessionManager,
) -> None:
    manager, kernels = each, kernels_of(each)
    model = await manager.create_session(**NOTEBOOK)
    kernels.shutting_down.clear()
    deleting = asyncio.ensure_future(manager.delete_session(model["id"]))
    await asyncio.sleep(0.02)
    moving = asyncio.ensure_future(manager.change_session(model["id"], kernel_name="other"))
    await asyncio.sleep(0.02)
    kernels.shutting_down.set()
    with pytest.raises(web.HTTPError) as error:
        await moving
    assert error.value.status_code == 404
    await deleting
    assert await stored(manager) == []
    assert kernels.list_kernel_ids() == []


async def test_a_left_kernel_that_cannot_be_shut_down_does_not_undo_the_move(
    manager: PersistentSessionManager,
    kernels: DummyKernelManager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.shutdown_error = RuntimeError("stuck")
    moved = await manager.change_session(model["id"], kernel_name="other")
    assert await manager.list_sessions() == [moved]
    assert f"Kernel {model['kernel']['id']}, which its session has left" in caplog.text


async def test_a_kernel_that_does_not_start_moves_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.start_error = web.HTTPError(503, "the gateway is away")
    with pytest.raises(KernelNotStarted) as error:
        await manager.change_session(model["id"], kernel_name="other")
    assert error.value.__cause__ is kernels.start_error
    assert await manager.list_sessions() == [model]
