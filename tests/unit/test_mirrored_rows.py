"""Rows and memory: what becomes of a row that is lost or edited, and who shares a memory."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from jupyter_session_store.errors import (
    StoreUnavailable,
)
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.paths import claim_of
from jupyter_session_store.sessions import mirror as mirrors
from jupyter_session_store.sessions.local import LocalSessions
from jupyter_session_store.sessions.mirror import mirror_of
from jupyter_session_store.testing import record
from tests.databases import Database
from tests.unit.dummies import (
    DummyKernelManager,
    assert_equal_after_renewal,
    failing,
    in_memory,
    kernels_of,
    make_manager,
    renewed,
    settle,
    shared_manager,
    store_away,
    stored,
)
from tests.unit.test_mirror import (
    create,
    ids,
    impatient,
    log,
    manager,
    of_database,
    rename_id,
    sent_by,
    until_equal,
)

__all__ = ["impatient", "manager", "of_database"]


# ---------------------------------------------------------- what happens to the rows


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM jupyter_sessions WHERE path = '1'"],
        ["TRUNCATE"],
        ["TRUNCATE", "DELETE FROM jupyter_servers"],
        ["UPDATE jupyter_sessions SET path = 'x', version = version - 1"],
        ["UPDATE jupyter_sessions SET name = 'by hand', version = version + 1"],
        ["UPDATE jupyter_sessions SET claim = NULL, state = 'closing', version = 77"],
        ["UPDATE jupyter_sessions SET session_id = 'other' WHERE path = '2'"],
        ["UPDATE jupyter_sessions SET authority = 'server:gone' WHERE path = '2'"],
    ],
    ids=["lost", "all lost", "registration too", "older", "newer", "state", "id", "authority"],
)
async def test_rows_are_made_equal_by_the_next_renewal(
    database: Database, of_database: PersistentSessionManager, statements: list[str]
) -> None:
    manager = of_database
    for i in range(4):
        await create(manager, f"{i}")
    await manager.update_session(in_memory(manager)[0].session_id, name="n")
    await renewed(manager)
    listed, before = await manager.list_sessions(), in_memory(manager)
    truncate = "DELETE FROM" if database.kind == "sqlite" else "TRUNCATE"
    for statement in statements:
        database.execute(statement.replace("TRUNCATE", f"{truncate} jupyter_sessions"))
    assert await manager.list_sessions() == listed
    if "server:gone" in statements[0]:
        # A row of the same id is another server's, until that is evicted.
        await renewed(manager)
        manager.store.evict(manager.scope, [], manager.server_id, timeout=30)
        await manager.update_session(before[2].session_id, path="2")
    await assert_equal_after_renewal(manager)
    rows = await stored(manager)
    assert [row.session_id for row in rows] == [row.session_id for row in before]
    assert [(row.path, row.claim, row.state) for row in rows] == [
        (row.path, claim_of(manager.scope, row.path), "ready") for row in before
    ]
    assert await manager.list_sessions() == listed
    sent = sent_by(manager)
    await renewed(manager)
    assert sent_by(manager) - sent == 2


async def test_a_row_that_nobody_here_made_goes(manager: PersistentSessionManager) -> None:
    model = await create(manager, "a")
    await manager.store.add(record("extra", manager.scope, path="b"))
    assert await manager.list_sessions() == [model]
    # It holds the claim, which is asked for: memory knows better.
    created = await manager.get_or_create_session("b", "", "notebook")
    assert ids(await manager.list_sessions()) == [model["id"], created["id"]]
    await assert_equal_after_renewal(manager)
    assert [row.session_id for row in await stored(manager)] == [model["id"], created["id"]]
    assert all(row.claim for row in await stored(manager))


async def test_a_change_of_a_row_that_is_lost_puts_it_back(
    database: Database, of_database: PersistentSessionManager
) -> None:
    manager = of_database
    model = await create(manager, "a")
    database.execute("DELETE FROM jupyter_sessions")
    renamed = await manager.change_session(model["id"], path="b")
    assert await manager.list_sessions() == [renamed]
    await assert_equal_after_renewal(manager)
    assert [row.path for row in await stored(manager)] == ["b"]


# ------------------------------------------------------- changes and synchronisations


async def test_changes_made_during_a_synchronisation_are_not_undone(
    manager: PersistentSessionManager,
) -> None:
    kept, gone, moved = [await create(manager, name) for name in ("kept", "gone", "moved")]
    mirror = manager.store.mirror
    made: list[asyncio.Future[Any]] = []

    def change() -> None:
        """Change everything, without waiting for the store."""
        asked = [
            create(manager, "new"),
            manager.update_session(kept["id"], path="renamed"),
            manager.delete_session(gone["id"]),
            manager.change_session(moved["id"], kernel_name="other"),
        ]
        made.extend(asyncio.ensure_future(one) for one in asked)

    async def with_changes(*arguments: Any) -> Any:
        del manager.store.mirror
        await manager.store.remove(manager.scope, await stored(manager))
        change()
        while manager.sessions.unsynchronized < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return await mirror(*arguments)

    manager.store.mirror = with_changes  # type: ignore[method-assign, assignment]
    await renewed(manager)
    await asyncio.gather(*made)
    listed = await manager.list_sessions()
    assert sorted(model["path"] for model in listed) == ["moved", "new", "renamed"]
    await assert_equal_after_renewal(manager)
    assert await manager.list_sessions() == listed
    assert len(kernels_of(manager).list_kernel_ids()) == 3


async def test_changes_made_after_the_snapshot_are_not_undone(
    manager: PersistentSessionManager,
) -> None:
    kept, gone = [await create(manager, name) for name in ("kept", "gone")]
    mirror, paths = manager.store.mirror, {"renamed", "new"}

    async def then_changed(*arguments: Any) -> Any:
        mirrored = await mirror(*arguments)
        if not made:
            made.append(asyncio.ensure_future(manager.update_session(kept["id"], path="renamed")))
            made.append(asyncio.ensure_future(manager.delete_session(gone["id"])))
            made.append(asyncio.ensure_future(create(manager, "new")))
            while len(paths & {row.path for row in in_memory(manager)}) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
        return mirrored

    made: list[asyncio.Future[Any]] = []
    manager.store.mirror = then_changed  # type: ignore[method-assign, assignment]
    await manager.store.remove(manager.scope, await stored(manager))
    await renewed(manager)
    await asyncio.gather(*made)
    del manager.store.mirror
    assert [model["path"] for model in await manager.list_sessions()] == ["renamed", "new"]
    assert await stored(manager) == in_memory(manager)
    await assert_equal_after_renewal(manager)


async def test_an_id_is_renamed_whether_the_store_is_there_or_not(
    manager: PersistentSessionManager,
) -> None:
    model = await create(manager, "a")
    other = await create(manager, "b")
    await rename_id(manager, model["id"], "one")
    assert {row.session_id for row in await stored(manager)} == {"one", other["id"]}
    assert manager.sessions.unsynchronized == 0
    with store_away(manager):
        await rename_id(manager, "one", "two")
        await rename_id(manager, other["id"], "one")
        assert ids(await manager.list_sessions()) == ["two", "one"]
        assert {row.session_id for row in await stored(manager)} == {"one", other["id"]}
    await assert_equal_after_renewal(manager)
    # Many at once.
    renames = [
        rename_id(manager, "two", "three"),
        rename_id(manager, "one", "two"),
        rename_id(manager, "three", "one"),
    ]
    await asyncio.gather(*renames)
    assert ids(await manager.list_sessions()) == ["one", "two"]
    await assert_equal_after_renewal(manager)
    assert [(row.session_id, row.path) for row in await stored(manager)] == [
        ("one", "a"),
        ("two", "b"),
    ]


@pytest.mark.parametrize("_round", range(3))
async def test_many_changes_with_many_failures_end_equal(  # noqa: PLR0915
    manager: PersistentSessionManager,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    _round: int,
) -> None:
    rng = random.Random(seed + _round)
    kernels = kernels_of(manager)
    verbs = ("add", "mirror_change", "remove", "mirror")
    real = {verb: getattr(manager.store, verb) for verb in verbs}

    def shaky(verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*arguments: Any, **options: Any) -> Any:
            fate = rng.random()
            if fate < 0.15:
                raise StoreUnavailable("before")
            if fate < 0.2:
                await asyncio.sleep(0.08)
            done = await real[verb](*arguments, **options)
            if fate > 0.85:
                raise StoreUnavailable("after")
            return done

        return ask

    for verb in real:
        monkeypatch.setattr(manager.store, verb, shaky(verb))
    paths = [f"{i}.ipynb" for i in range(6)]
    #: The sessions as their clients know them.
    expected: dict[str, str | None] = {}

    async def change() -> None:
        choice = rng.random()
        path = rng.choice(paths)
        known = rng.choice(list(expected)) if expected else None
        if choice < 0.35 or known is None:
            model = await create(manager, path)
            expected[model["id"]] = path
        elif choice < 0.55:
            expected[known] = path
            await manager.update_session(known, path=path)
        elif choice < 0.65:
            await manager.change_session(known, kernel_name=rng.choice(["x", "y"]))
        elif choice < 0.75:
            renamed = f"id-{rng.randrange(10**9)}"
            expected[renamed] = expected.pop(known)
            await rename_id(manager, known, renamed)
        elif choice < 0.9:
            del expected[known]
            await manager.delete_session(known)
        elif choice < 0.95:
            with suppress(StoreUnavailable):
                await asyncio.wrap_future(manager.lease.renew_now())
        else:
            rows = await stored(manager)
            await real["remove"](manager.scope, rows[: rng.randrange(3)])

    for _ in range(40):
        await change()
    # And some at once, each to another session.
    chosen = rng.sample(list(expected), min(4, len(expected)))
    await asyncio.gather(*(manager.update_session(one, name="n") for one in chosen))
    await settle(manager)
    for verb, done in real.items():
        monkeypatch.setattr(manager.store, verb, done)
    await until_equal(manager)
    listed = {model["id"]: model["path"] for model in await manager.list_sessions()}
    assert listed == expected, f"seed {seed}"
    assert {row.session_id: row.path for row in await stored(manager)} == expected, f"seed {seed}"
    used = {row.kernel_id for row in in_memory(manager)}
    assert set(kernels.list_kernel_ids()) == used, f"seed {seed}"
    claimed = [row.path for row in await stored(manager) if row.claim]
    assert len(claimed) == len(set(claimed)), f"seed {seed}"


# -------------------------------------------------------------- who shares a memory


async def test_two_managers_over_one_kernel_manager_share_their_memory(database: Database) -> None:
    kernels = DummyKernelManager()
    one, two = (make_manager(database.url, kernels) for _ in range(2))
    model = await create(one, "a")
    assert await two.list_sessions() == [model]
    with store_away(one), store_away(two):
        renamed = await two.change_session(model["id"], path="b")
        assert await one.get_session(path="b") == renamed
        created = await one.create_session(path="c", type="file", name="")
        assert ids(await two.list_sessions()) == [model["id"], created["id"]]
        await two.delete_session(created["id"])
    await assert_equal_after_renewal(two)
    assert ids(await one.list_sessions()) == [model["id"]]
    assert one.sessions.unsynchronized == 0
    two.close()
    assert ids(await one.list_sessions()) == [model["id"]]
    await create(one, "d")
    await assert_equal_after_renewal(one)
    one.close()


@pytest.mark.parametrize("repository", ["sqlalchemy", "memory"])
async def test_two_stores_in_memory_are_two(repository: str) -> None:
    kernels = DummyKernelManager()
    one, two = (make_manager(":memory:", kernels, repository=repository) for _ in range(2))
    model = await create(one, "a")
    assert await two.list_sessions() == []
    assert await one.list_sessions() == [model]
    one.close()
    two.close()


def test_who_shares_a_memory() -> None:
    scope = record("a").scope
    other = type(scope)(scope.namespace, "server:other")
    one, two = DummyKernelManager(), DummyKernelManager()
    mine = mirror_of(one, scope, "store", log)
    assert mirror_of(one, record("b").scope, "store", log) is mine
    for kernels, which, store in (
        (two, scope, "store"),
        (one, other, "store"),
        (one, scope, "another store"),
        (one, scope, None),
    ):
        assert mirror_of(kernels, which, store, log) is not mine
    assert mirror_of(one, scope, None, log) is not mirror_of(one, scope, None, log)
    # It ends with its kernels.
    gone = mirrors._mirrors
    assert one in gone
    number = len(gone)
    del one, kernels
    gc.collect()
    assert len(gone) < number


async def test_sessions_of_a_gateway_are_in_no_memory(database: Database) -> None:
    manager = shared_manager(database.url)
    assert not isinstance(manager.sessions, LocalSessions)
    assert not manager.works_without_store
    assert manager.sessions.unsynchronized == 0
    failing(manager, "find", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await manager.list_sessions()
    manager.close()


async def test_a_closed_manager_is_unavailable(manager: PersistentSessionManager) -> None:
    model = await create(manager, "a")
    before = manager.works_without_store
    manager.close()
    assert (before, manager.works_without_store) == (True, False)
    asked: dict[str, Awaitable[Any]] = {
        "list": manager.list_sessions(),
        "exists": manager.session_exists("a"),
        "get": manager.get_session(session_id=model["id"]),
        "create": create(manager, "b"),
        "update": manager.update_session(model["id"], path="b"),
        "delete": manager.delete_session(model["id"]),
    }
    outcomes = await asyncio.gather(*asked.values(), return_exceptions=True)
    assert [
        name
        for name, outcome in zip(asked, outcomes, strict=True)
        if not isinstance(outcome, StoreUnavailable)
    ] == []
    # One that was started in vain is not left.
    assert kernels_of(manager).list_kernel_ids() == [model["kernel"]["id"]]


# ---------------------------------------------------------------------- overrides


async def test_overrides_are_honoured(database: Database) -> None:
    called: list[str] = []

    class Manager(PersistentSessionManager):
        async def row_to_model(self, row: Any, tolerate_culled: bool = False) -> Any:
            called.append("row_to_model")
            model = await super().row_to_model(row, tolerate_culled)
            return None if model is None else {**model, "extra": row.path}

        async def kernel_culled(self, kernel_id: str) -> bool:
            called.append("kernel_culled")
            return await super().kernel_culled(kernel_id)

        async def save_session(self, session_id: str, *args: Any, **kwargs: Any) -> Any:
            called.append("save_session")
            return await super().save_session(session_id, *args, **kwargs)

        async def update_session(self, session_id: str, **kwargs: Any) -> None:
            called.append("update_session")
            await super().update_session(session_id, **kwargs)

    plain = make_manager(database.url)
    manager = Manager(
        kernel_manager=DummyKernelManager(),
        contents_manager=plain.contents_manager,
        database_filepath=database.url,
    )

    async def calls_of(verb: Awaitable[Any]) -> tuple[set[str], Any]:
        called.clear()
        result = await verb
        return set(called), result

    for away in (False, True):
        with store_away(manager) if away else nullcontext():
            names, model = await calls_of(manager.get_or_create_session("a", "", "notebook"))
            assert {"save_session", "row_to_model"} <= names
            assert model["extra"] == "a"
            names, listed = await calls_of(manager.list_sessions())
            assert names == {"row_to_model", "kernel_culled"}
            assert listed == [model]
            names, changed = await calls_of(manager.change_session(model["id"], path="b"))
            assert {"update_session", "row_to_model"} <= names
            assert changed["extra"] == "b"
            names, found = await calls_of(manager.get_session(path="b"))
            assert "row_to_model" in names
            assert found == changed
            await manager.delete_session(model["id"])
            assert await manager.list_sessions() == []
    await assert_equal_after_renewal(manager)
    assert await stored(manager) == []
    manager.close()
    plain.close()
