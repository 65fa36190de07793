"""Two managers over one kernel manager, and overrides that go their own way: no kernel is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tornado import web

from jupyter_session_store.errors import InvalidValue, SchemaMismatch
from jupyter_session_store.manager import PersistentSessionManager
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    SharedKernelManager,
    failing,
    make_manager,
    settle,
    stored,
)
from tests.unit.fake_gateway import FakeGateway, replica


def kernel_ids(manager: PersistentSessionManager) -> set[str]:
    return set(manager.kernel_manager.list_kernel_ids())


@pytest.mark.parametrize("_round", range(5))
async def test_two_managers_over_one_kernel_manager_delete_at_once(
    tmp_path: Path, _round: int
) -> None:
    kernels, url = DummyKernelManager(), str(tmp_path / "sessions.db")
    one, two = make_manager(url, kernels), make_manager(url, kernels)
    first = await one.create_session(**NOTEBOOK)
    kernel_id = first["kernel"]["id"]
    second = await two.create_session(path="b", name="", type="notebook", kernel_id=kernel_id)
    await asyncio.gather(
        one.delete_session(first["id"]), two.delete_session(second["id"]), return_exceptions=True
    )
    rows = await stored(one)
    one.close()
    two.close()
    assert rows == []
    assert kernels.list_kernel_ids() == []


@pytest.mark.parametrize("how", ["wait_for", "task", "plain"])
async def test_a_create_that_goes_on_in_a_task_of_its_own_keeps_the_claim(
    tmp_path: Path, gateway: FakeGateway, how: str
) -> None:
    class Manager(PersistentSessionManager):
        async def create_session(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            create = super().create_session(*args, **kwargs)
            if how == "wait_for":
                return await asyncio.wait_for(create, 30)
            return await (asyncio.ensure_future(create) if how == "task" else create)

    replicas = [replica(tmp_path, kind=Manager) for _ in range(2)]
    gateway.starting.clear()
    both = asyncio.gather(
        *(one.get_or_create_session("p", "", "notebook", "python3") for one in replicas)
    )
    await asyncio.sleep(0.2)
    gateway.starting.set()
    first, second = await both
    rows = await stored(replicas[0])
    for one in replicas:
        one.close()
    assert first["id"] == second["id"]
    assert len(rows) == len(gateway.models) == 1


@pytest.mark.parametrize("whose", ["session", "kernel"])
async def test_an_id_that_cannot_be_stored_leaves_no_kernel(whose: str) -> None:
    class Manager(PersistentSessionManager):
        def new_session_id(self) -> str:
            return "x" * 300 if whose == "session" else super().new_session_id()

    class Kernels(DummyKernelManager):
        async def start_kernel(  # type: ignore[override]
            self, *, kernel_id: str | None = None, **how: Any
        ) -> str:
            return await super().start_kernel(
                kernel_id="k" * 300 if whose == "kernel" else kernel_id, **how
            )

    manager = make_manager(kind=Manager, kernels=Kernels())
    with pytest.raises(InvalidValue):
        await manager.create_session(**NOTEBOOK)
    await settle(manager)
    assert kernel_ids(manager) == set()
    manager.close()


async def test_session_exists_may_be_a_plain_function() -> None:
    class Manager(PersistentSessionManager):
        def session_exists(self, path: str) -> bool:  # type: ignore[override]
            return False

    manager = make_manager(kind=Manager)
    model = await manager.get_or_create_session("p", "", "notebook")
    assert model["path"] == "p"
    manager.close()


@pytest.mark.parametrize("hook", ["get_session", "row_to_model"])
async def test_a_row_without_a_kernel_can_be_deleted(hook: str) -> None:
    class Manager(PersistentSessionManager):
        pass

    async def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await getattr(PersistentSessionManager, hook)(self, *args, **kwargs)

    setattr(Manager, hook, plain)
    manager = make_manager(kind=Manager, kernels=SharedKernelManager())
    model = await manager.create_session(**NOTEBOOK)
    # A row that was edited by hand, where sessions are read from the store.
    await manager.store.update(manager.scope, model["id"], {"kernel_id": None})
    with pytest.raises(web.HTTPError, match="404"):
        await manager.delete_session(model["id"])
    assert await stored(manager) == []
    manager.close()


async def test_get_session_may_use_kernels_while_a_session_is_attached() -> None:
    """It is called when no lock is held any more."""

    class Manager(PersistentSessionManager):
        busy = False

        async def get_session(self, **kwargs: Any) -> dict[str, Any]:
            model = await super().get_session(**kwargs)
            if model["path"] == "second" and not self.busy:
                self.busy = True
                await self.create_session("third", "", "notebook", kernel_id=model["kernel"]["id"])
            return model

    manager = make_manager(kind=Manager)
    first = await manager.create_session("first", "", "notebook")
    kernel_id = first["kernel"]["id"]
    await asyncio.wait_for(
        manager.create_session("second", "", "notebook", kernel_id=kernel_id), 30
    )
    assert {row.path for row in await stored(manager)} == {"first", "second", "third"}
    manager.close()


async def test_a_move_by_an_override_to_a_kernel_that_is_deleted_meanwhile_is_taken_back() -> None:
    class Manager(PersistentSessionManager):
        async def update_session(self, session_id: str, **kwargs: Any) -> None:
            await asyncio.sleep(0.05)
            await super().update_session(session_id, **kwargs)

    manager = make_manager(kind=Manager)
    first = await manager.create_session("1", "", "notebook")
    second = await manager.create_session("2", "", "notebook")
    moved, _ = await asyncio.gather(
        manager.change_session(first["id"], kernel_id=second["kernel"]["id"]),
        manager.delete_session(second["id"]),
        return_exceptions=True,
    )
    await settle(manager)
    assert isinstance(moved, web.HTTPError)
    assert [model["id"] for model in await manager.list_sessions()] == [first["id"]]
    assert kernel_ids(manager) == {first["kernel"]["id"]}
    manager.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_rename_leaves_the_kernel_of_a_session_that_is_kept_elsewhere(shared: bool) -> None:
    class Manager(PersistentSessionManager):
        kept: Any = None

        async def save_session(
            self, session_id: str, *args: Any, kernel_id: str | None = None, **kwargs: Any
        ) -> dict[str, Any]:
            self.kept = {"id": session_id, **kwargs, "kernel": {"id": kernel_id}}
            return dict(self.kept)

        async def get_session(self, **kwargs: Any) -> dict[str, Any]:
            return dict(self.kept)

        async def update_session(self, session_id: str, **kwargs: Any) -> None:
            self.kept.update(kwargs)

    manager = make_manager(kind=Manager, kernels=SharedKernelManager() if shared else None)
    model = await manager.create_session(**NOTEBOOK)
    renamed = await manager.change_session(model["id"], path="b.ipynb")
    assert renamed["path"] == "b.ipynb"
    assert kernel_ids(manager) == {model["kernel"]["id"]}
    manager.close()


async def test_a_move_whose_model_cannot_be_shown_leaves_no_kernel() -> None:
    class Manager(PersistentSessionManager):
        fails = False

        async def update_session(self, session_id: str, **kwargs: Any) -> None:
            await super().update_session(session_id, **kwargs)
            self.fails = True

        async def get_session(self, **kwargs: Any) -> dict[str, Any]:
            if self.fails:
                raise web.HTTPError(500)
            return await super().get_session(**kwargs)

    manager = make_manager(kind=Manager)
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(web.HTTPError):
        await manager.change_session(model["id"], kernel_name="python3")
    await settle(manager)
    assert kernel_ids(manager) == {row.kernel_id for row in await stored(manager)}
    manager.close()


async def test_a_fault_of_the_store_does_not_hide_the_error_of_an_override() -> None:
    class Manager(PersistentSessionManager):
        async def update_session(self, session_id: str, **kwargs: Any) -> None:
            failing(self, "find", SchemaMismatch("test"))
            raise RuntimeError("mine")

    manager = make_manager(kind=Manager)
    model = await manager.create_session(**NOTEBOOK)
    with pytest.raises(RuntimeError, match="mine"):
        await manager.change_session(model["id"], kernel_name="python3")
    manager.close()


async def test_a_move_that_cannot_be_taken_back_leaves_its_old_kernel_usable(
    tmp_path: Path, gateway: FakeGateway
) -> None:
    """A look that fails must not leave others waiting for a shutdown that does not come."""
    manager = replica(tmp_path)
    session = await manager.create_session("1", "", "notebook", "python3")
    target = (await manager.create_session("2", "", "notebook", "python3"))["kernel"]["id"]
    move, moves = manager.store.move, 0

    async def unfit(*args: Any) -> Any:
        nonlocal moves
        moves += 1
        if moves == 2:
            raise SchemaMismatch("test")
        moved = await move(*args)
        del gateway.models[target]
        return moved

    manager.store.move = unfit  # type: ignore[method-assign, assignment]
    with pytest.raises(SchemaMismatch):
        await manager.change_session(session["id"], kernel_id=target)
    manager.store.move = move  # type: ignore[method-assign]
    kernel_id = session["kernel"]["id"]
    await asyncio.wait_for(manager.create_session("3", "", "notebook", None, kernel_id), 30)
    manager.close()


async def test_a_move_to_the_kernel_that_another_replica_has_just_left_leaves_no_kernel(
    tmp_path: Path, gateway: FakeGateway
) -> None:
    """The session was on the kernel when it was looked at, and is on another when it is written."""
    one, two = (replica(tmp_path) for _ in range(2))
    session = await one.create_session("1", "", "notebook", "python3")
    kernel_id = session["kernel"]["id"]
    model_of, moved, looking = one.kernel_manager.kernel_model, False, False
    find = one.store.find

    async def late(scope: Any, **criteria: Any) -> Any:
        nonlocal moved
        found = await find(scope, **criteria)
        if looking and criteria == {"session_id": session["id"]} and not moved:
            moved = True
            await two.change_session(session["id"], kernel_name="python3")
        return found

    async def model(wanted: str) -> Any:
        nonlocal looking
        looking = True
        return await model_of(wanted)

    one.store.find = late  # type: ignore[method-assign]
    one.kernel_manager.kernel_model = model
    with pytest.raises(web.HTTPError, match="400"):
        await one.change_session(session["id"], kernel_id=kernel_id)
    await settle(one)
    assert moved
    assert {row.kernel_id for row in await stored(one)} == gateway.models.keys()
    one.close()
    two.close()
