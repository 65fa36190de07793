"""Deleting sessions: who shuts the kernel down, and what a failure leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado import web

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import CLOSING, READY, Liveness
from jupyter_session_store.sessions.shared import SharedSessions
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    assert_equal_after_renewal,
    failing,
    kernels_of,
    losing_answers,
    renewed,
    settle,
    shared_manager,
    store_away,
    stored,
)


async def two_on_one_kernel(
    manager: PersistentSessionManager,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Create two sessions that share a kernel; return them and its id."""
    first = await manager.create_session(**NOTEBOOK)
    kernel_id: str = first["kernel"]["id"]
    second = await manager.create_session(path="b", type="file", kernel_id=kernel_id)
    return first, second, kernel_id


async def test_the_last_session_on_a_kernel_ends_it(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    first, second, kernel_id = await two_on_one_kernel(manager)
    await manager.delete_session(first["id"])
    assert kernels.shut_down == []
    assert await manager.list_sessions() == [second]
    await manager.delete_session(second["id"])
    assert kernels.shut_down == [kernel_id]
    assert await stored(manager) == []


async def test_kernels_that_a_user_has_shut_down_are_nothing_to_warn_of(
    manager: PersistentSessionManager,
    kernels: DummyKernelManager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As Shut Down All does with the kernels; a front end that lists the sessions then."""
    caplog.set_level(logging.INFO)
    for path in ("a", "b", "c"):
        await manager.create_session(path=path, type="file")
    await kernels.shutdown_all()
    assert await manager.list_sessions() == []
    await settle(manager)
    assert await stored(manager) == []
    told = [one for one in caplog.records if "session(s) whose kernels are gone" in one.message]
    assert [one.levelno for one in told] == [logging.INFO]
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


async def test_two_deletes_at_once_end_the_kernel_once(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    first, second, kernel_id = await two_on_one_kernel(manager)
    await asyncio.gather(manager.delete_session(first["id"]), manager.delete_session(second["id"]))
    assert kernels.shut_down == [kernel_id]
    assert await stored(manager) == []


async def test_a_failed_shutdown_keeps_the_session(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.shutdown_error = RuntimeError("stuck")
    with pytest.raises(RuntimeError, match="stuck"):
        await manager.delete_session(model["id"])
    (record,) = await stored(manager)
    assert record.state == READY
    assert await manager.list_sessions() == [model]
    kernels.shutdown_error = None
    await manager.delete_session(model["id"])
    assert await stored(manager) == []


async def test_a_session_is_deleted_while_the_store_is_away(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    other = await manager.create_session(path="b", type="file")
    with store_away(manager):
        await manager.delete_session(model["id"])
        assert kernels.shut_down == [model["kernel"]["id"]]
        assert await manager.list_sessions() == [other]
        assert manager.sessions.unsynchronized == 1
        assert len(await stored(manager)) == 2
    await assert_equal_after_renewal(manager)
    assert [row.session_id for row in await stored(manager)] == [other["id"]]


async def test_sessions_on_one_kernel_are_counted_while_the_store_is_away(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    first, second, kernel_id = await two_on_one_kernel(manager)
    with store_away(manager):
        await manager.delete_session(first["id"])
        assert kernels.shut_down == []
        assert await manager.list_sessions() == [second]
        await manager.delete_session(second["id"])
        assert kernels.shut_down == [kernel_id]
        assert await manager.list_sessions() == []
    await assert_equal_after_renewal(manager)
    assert await stored(manager) == []


@pytest.fixture(params=["sqlalchemy", "memory"])
def sharing(request: pytest.FixtureRequest) -> Iterator[PersistentSessionManager]:
    """A manager over kernels that other servers use too: it marks what it closes."""
    manager = shared_manager(":memory:", repository=request.param)
    kernels: Any = manager.kernel_manager
    kernels.authority.liveness = Liveness.ALIVE
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


def shut_down(manager: PersistentSessionManager) -> list[str]:
    """Return the kernels that were shut down."""
    return kernels_of(manager).shut_down


async def test_a_store_that_cannot_be_written_keeps_a_shared_kernel(
    sharing: PersistentSessionManager,
) -> None:
    """It can be read: a SQLite file that another process has locked, a database that only reads."""
    model = await sharing.create_session(**NOTEBOOK)
    failing(sharing, "begin_close", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await sharing.delete_session(model["id"])
    assert shut_down(sharing) == []
    assert await sharing.list_sessions() == [model]
    del sharing.store.begin_close
    await sharing.delete_session(model["id"])
    assert await stored(sharing) == []


async def test_a_refused_delete_leaves_a_shared_kernel_to_the_other_session(
    sharing: PersistentSessionManager,
) -> None:
    """The mark was made, and its answer was lost."""
    first, second, kernel_id = await two_on_one_kernel(sharing)
    answer = losing_answers(sharing, "begin_close")
    with pytest.raises(StoreUnavailable):
        await sharing.delete_session(first["id"])
    answer()
    await sharing.delete_session(second["id"])
    assert shut_down(sharing) == []
    assert await sharing.list_sessions() == [first]
    await sharing.delete_session(first["id"])
    assert shut_down(sharing) == [kernel_id]


async def test_a_failed_shutdown_of_a_shared_kernel_is_told_even_if_the_store_fails_too(
    sharing: PersistentSessionManager,
) -> None:
    kernels: Any = sharing.kernel_manager
    model = await sharing.create_session(**NOTEBOOK)
    kernels.shutdown_error = RuntimeError("stuck")
    update = sharing.store.update
    failing(sharing, "update", StoreUnavailable("test"))
    with pytest.raises(RuntimeError, match="stuck"):
        await sharing.delete_session(model["id"])
    assert await sharing.list_sessions() == [model]
    sharing.store.update = update  # type: ignore[method-assign]
    kernels.shutdown_error = None
    await sharing.delete_session(model["id"])
    assert await stored(sharing) == []


async def test_a_mark_whose_answer_was_lost_is_taken_back_after_the_next_renewal(
    sharing: PersistentSessionManager,
) -> None:
    """Else another server takes its own session for the last, and ends the kernel."""
    first, _second, _kernel_id = await two_on_one_kernel(sharing)
    losing_answers(sharing, "begin_close")
    with pytest.raises(StoreUnavailable):
        await sharing.delete_session(first["id"])
    assert {row.state for row in await stored(sharing)} == {CLOSING, READY}
    await renewed(sharing)
    assert {row.state for row in await stored(sharing)} == {READY}


async def test_the_mark_of_another_server_is_not_taken_back(
    sharing: PersistentSessionManager,
) -> None:
    model = await sharing.create_session(**NOTEBOOK)
    await sharing.store.begin_close(sharing.scope, model["id"], "another")
    assert isinstance(sharing.sessions, SharedSessions)
    recovery = sharing.sessions.recovery
    recovery.uncertain_closes.track(model["id"])
    await recovery.recover()
    assert [row.state for row in await stored(sharing)] == [CLOSING]
    assert not recovery.uncertain_closes


async def test_a_kernel_that_is_half_started_is_not_attached_to(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    other = await manager.create_session(**NOTEBOOK)
    kernels.starting.clear()
    first = asyncio.ensure_future(manager.create_session(path="b", type="file", kernel_id="mine"))
    await asyncio.sleep(0.02)
    held = kernels.get_kernel(other["kernel"]["id"])
    kernels._kernels["mine"] = held
    with pytest.raises(DuplicateKernelError, match="mine"):
        await manager.create_session(path="c", type="file", kernel_id="mine")
    with pytest.raises(web.HTTPError) as error:
        await manager.change_session(other["id"], kernel_id="mine")
    assert error.value.status_code == 400
    kernels.starting.set()
    await first


async def test_deleting_a_session_whose_kernel_died(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.die(model["kernel"]["id"])
    with pytest.raises(web.HTTPError) as error:
        await manager.delete_session(model["id"])
    assert error.value.status_code == 404
    assert await stored(manager) == []


async def test_who_attaches_while_the_kernel_ends_gets_a_new_one(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK, kernel_id="k")
    kernels.shutting_down.clear()
    deleting = asyncio.ensure_future(manager.delete_session(model["id"]))
    await asyncio.sleep(0.02)
    attaching = asyncio.ensure_future(manager.create_session(path="b", type="file", kernel_id="k"))
    await asyncio.sleep(0.02)
    assert not attaching.done()
    kernels.shutting_down.set()
    await deleting
    attached = await attaching
    assert kernels.started == ["k", "k"]
    assert kernels.shut_down == ["k"]
    assert await manager.list_sessions() == [attached]


async def test_a_post_while_the_session_is_deleted_creates_a_new_one(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.shutting_down.clear()
    deleting = asyncio.ensure_future(manager.delete_session(model["id"]))
    await asyncio.sleep(0.02)
    assert len(await stored(manager)) == 1
    posting = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    await asyncio.sleep(0.02)
    kernels.shutting_down.set()
    await deleting
    created = await posting
    assert created["id"] != model["id"]
    assert await manager.list_sessions() == [created]


async def test_a_cancelled_delete_is_finished(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.shutting_down.clear()
    deleting = asyncio.ensure_future(manager.delete_session(model["id"]))
    await asyncio.sleep(0.02)
    deleting.cancel()
    kernels.shutting_down.set()
    await settle(manager)
    assert await stored(manager) == []
    assert kernels.list_kernel_ids() == []


async def test_a_session_whose_removal_failed_still_uses_its_shared_kernel(
    sharing: PersistentSessionManager,
) -> None:
    """Its delete was refused: another's must not take the kernel with it."""
    first, second, kernel_id = await two_on_one_kernel(sharing)
    failing(sharing, "remove", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await sharing.delete_session(first["id"])
    del sharing.store.remove
    await sharing.delete_session(second["id"])
    assert shut_down(sharing) == []
    assert await sharing.list_sessions() == [first]
    await sharing.delete_session(first["id"])
    assert shut_down(sharing) == [kernel_id]
    assert await stored(sharing) == []
