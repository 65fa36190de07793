"""The session manager's interface: its answers, its errors and its end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from tornado import web

from jupyter_session_store.errors import InvalidValue, SessionConflict, StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import READY
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    assert_equal_after_renewal,
    make_manager,
    settle,
    store_away,
    stored,
)


async def test_a_session_is_created_read_and_listed(manager: PersistentSessionManager) -> None:
    model = await manager.create_session(**NOTEBOOK, kernel_name="bar")
    assert model["notebook"] == {"path": "a.ipynb", "name": ""}
    assert model["kernel"]["name"] == "bar"
    assert model["kernel"]["execution_state"] == "idle"
    assert await manager.session_exists("a.ipynb")
    assert not await manager.session_exists("A.ipynb")
    assert await manager.get_session(session_id=model["id"]) == model
    assert await manager.get_session(path="a.ipynb", type="notebook") == model
    assert await manager.list_sessions() == [model]
    (record,) = await stored(manager)
    assert record.kernel_name == "bar"
    assert record.kernel_model is not None
    assert record.state == READY


async def test_what_is_no_notebook_has_no_deprecated_key(
    manager: PersistentSessionManager,
) -> None:
    model = await manager.create_session(path="c", name="foo", type="console")
    assert "notebook" not in model


@pytest.mark.parametrize("attribute", ["cursor", "connection"])
def test_sqlite_internals_say_what_to_use(
    manager: PersistentSessionManager, attribute: str
) -> None:
    with pytest.raises(AttributeError, match="use its methods"):
        getattr(manager, attribute)


async def test_stock_errors(manager: PersistentSessionManager) -> None:
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(TypeError, match="must specify a column"):
        await manager.get_session()
    with pytest.raises(TypeError, match="No such column: bad"):
        await manager.get_session(bad="x")
    with pytest.raises(TypeError, match="No such column: bad"):
        await manager.update_session(model["id"], bad="x")
    for missing in ("nobody", "x" * 5000, "a\0b", "\ud800", 5, ["x"]):
        with pytest.raises(web.HTTPError) as error:
            await manager.get_session(session_id=missing)
        assert error.value.status_code == 404
        with pytest.raises(web.HTTPError) as error:
            await manager.update_session(missing, path="b")  # type: ignore[arg-type]
        assert error.value.status_code == 404
        with pytest.raises(web.HTTPError) as error:
            await manager.delete_session(missing)  # type: ignore[arg-type]
        assert error.value.status_code == 404
        assert not await manager.session_exists(missing)  # type: ignore[arg-type]
    await manager.update_session(model["id"])
    assert await manager.list_sessions() == [model]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "x" * 4097),
        ("name", "x" * 1025),
        ("type", "x" * 256),
        ("path", "a\0b"),
        ("name", "\ud800"),
        ("type", 5),
        ("path", ["a"]),
        ("kernel_name", "x" * 256),
        ("kernel_id", "../kernel"),
        ("kernel_id", b"bytes"),
    ],
)
async def test_bad_input_starts_and_changes_nothing(
    manager: PersistentSessionManager, kernels: DummyKernelManager, field: str, value: Any
) -> None:
    with pytest.raises(InvalidValue, match=field):
        await manager.create_session(**{**NOTEBOOK, field: value})
    with pytest.raises(InvalidValue, match=field):
        await manager.get_or_create_session(**{**NOTEBOOK, field: value})
    assert kernels.started == []
    model = await manager.create_session(**NOTEBOOK)
    before = await stored(manager)
    if field in ("path", "name", "type"):
        with pytest.raises(InvalidValue, match=field):
            await manager.update_session(model["id"], **{field: value})
        with pytest.raises(InvalidValue, match=field):
            await manager.change_session(model["id"], kernel_name="other", **{field: value})
    assert await stored(manager) == before
    assert len(kernels.started) == 1


async def test_saving_a_session_without_a_kernel_is_refused(
    manager: PersistentSessionManager,
) -> None:
    for kernel_id in (None, "nobody"):
        with pytest.raises(web.HTTPError) as error:
            await manager.save_session("s", path="p", kernel_id=kernel_id)
        assert error.value.status_code == 404
    assert await stored(manager) == []


async def test_saving_under_anothers_id_is_refused(manager: PersistentSessionManager) -> None:
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(SessionConflict):
        await manager.save_session(model["id"], path="b", kernel_id=model["kernel"]["id"])


# --------------------------------------------------------------------- gone kernels


async def test_only_what_is_gone_is_left_out(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    dead = await manager.create_session(**NOTEBOOK)
    alive = await manager.create_session(path="b", type="file")
    kernels.die(dead["kernel"]["id"])
    assert await manager.list_sessions() == [alive]
    assert not await manager.session_exists("a.ipynb")
    with pytest.raises(web.HTTPError) as error:
        await manager.get_session(session_id=dead["id"])
    assert error.value.status_code == 404
    await settle(manager)
    assert [record.session_id for record in await stored(manager)] == [alive["id"]]


async def test_a_failed_removal_is_made_up_for(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kernels.die(model["kernel"]["id"])
    with store_away(manager):
        for _ in range(2):
            assert await manager.list_sessions() == []
            await settle(manager)
        assert len(await stored(manager)) == 1
        assert manager.sessions.unsynchronized == 1
    await assert_equal_after_renewal(manager)
    assert await stored(manager) == []


async def test_another_servers_sessions_are_left_alone(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    mine = await manager.create_session(**NOTEBOOK)
    (record,) = await stored(manager)
    theirs = record.replace(
        session_id="theirs", authority="server:other", kernel_id="k2", claim=None
    )
    await manager.store.add(theirs)
    assert await manager.list_sessions() == [mine]
    for verb in (
        manager.get_session(session_id="theirs"),
        manager.update_session("theirs", path="q"),
        manager.delete_session("theirs"),
    ):
        with pytest.raises(web.HTTPError) as error:
            await verb
        assert error.value.status_code == 404
    await settle(manager)
    assert await manager.store.find(theirs.scope) == [theirs]


async def test_one_rows_failure_does_not_fail_the_list(
    manager: PersistentSessionManager, kernels: DummyKernelManager, monkeypatch: Any
) -> None:
    bad = await manager.create_session(**NOTEBOOK)
    good = await manager.create_session(path="b", type="file")
    kernel_model: Any = kernels.kernel_model

    def failing_model(kernel_id: str) -> Any:
        if kernel_id == bad["kernel"]["id"]:
            raise web.HTTPError(404, "it went away this very moment")
        return kernel_model(kernel_id)

    monkeypatch.setattr(kernels, "kernel_model", failing_model)
    assert good in await manager.list_sessions()


# -------------------------------------------------------------------------- the end


async def test_two_managers_over_one_kernel_manager_share_their_sessions(
    tmp_path: Any, kernels: DummyKernelManager
) -> None:
    url = str(tmp_path / "sessions.db")
    first = make_manager(url, kernels)
    model = await first.create_session(**NOTEBOOK)
    first.close()
    second = make_manager(url, kernels)
    assert await second.get_session(session_id=model["id"]) == model
    second.close()


async def test_close_removes_what_was_shut_down(tmp_path: Any, kernels: DummyKernelManager) -> None:
    url = str(tmp_path / "sessions.db")
    first = make_manager(url, kernels)
    ended = await first.create_session(**NOTEBOOK)
    running = await first.create_session(path="b", type="file")
    await kernels.shutdown_kernel(ended["kernel"]["id"])
    first.close()
    first.close()
    with pytest.raises(StoreUnavailable) as refused:
        await first.list_sessions()
    assert "closed" in str(refused.value.__cause__)
    second = make_manager(url, kernels)
    assert [record.session_id for record in await stored(second)] == [running["id"]]
    second.close()


def test_a_manager_that_is_collected_in_a_cycle_says_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", said.append)

    def make() -> weakref.ref[Any]:
        manager: Any = make_manager(str(tmp_path / "sessions.db"))
        manager.itself = manager
        return weakref.ref(manager)

    gone = make()
    gc.collect()
    assert gone() is None
    assert said == []


async def test_a_dropped_manager_leaves_no_thread(tmp_path: Any) -> None:
    # Not their number: one that an earlier test has left may end meanwhile.
    before = set(threading.enumerate())

    def new() -> set[threading.Thread]:
        return set(threading.enumerate()) - before

    manager: PersistentSessionManager | None = make_manager(str(tmp_path / "sessions.db"))
    assert manager is not None
    await manager.create_session(**NOTEBOOK)
    assert len(new()) == 2, "the store's, and the heartbeat"
    gone = weakref.ref(manager)
    del manager
    for _ in range(1500):
        gc.collect()
        if gone() is None and not new():
            break
        await asyncio.sleep(0.02)
    assert gone() is None
    assert new() == set()
