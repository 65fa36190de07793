"""What a failover of the database loses of shared sessions comes back from the servers' memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, insert, select
from sqlalchemy.pool import NullPool

from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import READY, SessionRecord
from jupyter_session_store.servers.heartbeat import now
from jupyter_session_store.sessions.remembered import RememberedSessions
from jupyter_session_store.sessions.shared_store import SharedStore
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.tables import SESSIONS
from tests.databases.database import Database
from tests.unit.dummies import settle, stored
from tests.unit.fake_gateway import FakeGateway
from tests.unit.test_replicas import HOW, Replicas, replicas

__all__ = ["replicas"]


@dataclass(frozen=True)
class Scene:
    """Two replicas, their gateway, and a database that can lose what it was told last."""

    one: PersistentSessionManager
    two: PersistentSessionManager
    gateway: FakeGateway
    engine: Engine

    @contextmanager
    def failover(self) -> Iterator[None]:
        """Bring the sessions back to what they are now, after what happens meanwhile."""
        with self.engine.connect() as connection:
            before = [dict(row) for row in connection.execute(select(SESSIONS)).mappings()]
        yield
        with self.engine.begin() as connection:
            connection.execute(delete(SESSIONS))
            if before:
                connection.execute(insert(SESSIONS), before)

    async def check(self) -> list[SessionRecord]:
        """Check that each session has its kernel and each kernel a session; return the rows."""
        await settle(self.one)
        rows = await stored(self.one)
        assert {row.state for row in rows} <= {READY}
        assert sorted(str(row.kernel_id) for row in rows) == sorted(self.gateway.models)
        return rows


@pytest.fixture
def scene(replicas: Replicas, gateway: FakeGateway, database: Database) -> Iterator[Scene]:
    engine = create_engine(urls.parse(database.url), poolclass=NullPool)
    yield Scene(*replicas, gateway, engine)
    engine.dispose()


def memory_of(manager: PersistentSessionManager) -> RememberedSessions:
    store = manager._context.store
    assert isinstance(store, SharedStore)
    return store.remembered


async def create(manager: PersistentSessionManager, path: str = "a") -> dict[str, Any]:
    return await manager.create_session(path=path, **HOW)


async def ids_of(manager: PersistentSessionManager) -> list[str]:
    return [model["id"] for model in await manager.list_sessions()]


async def paths_of(manager: PersistentSessionManager) -> list[str]:
    return [model["path"] for model in await manager.list_sessions()]


@pytest.mark.parametrize("place", [0, 1])
async def test_a_session_that_was_lost_is_listed_by_whoever_has_seen_it(
    scene: Scene, place: int
) -> None:
    replicas = (scene.one, scene.two)
    with scene.failover():
        session = await create(scene.one)
        assert await ids_of(scene.two) == [session["id"]]
    assert await ids_of(replicas[place]) == [session["id"]]
    assert await ids_of(replicas[1 - place]) == [session["id"]]
    (row,) = await scene.check()
    assert row.claim is not None


async def test_a_post_of_its_path_starts_no_second_kernel(scene: Scene) -> None:
    with scene.failover():
        session = await create(scene.one)
    again = await scene.one.get_or_create_session(path="a", **HOW)
    assert again["id"] == session["id"]
    assert len(await scene.check()) == 1


@pytest.mark.parametrize(
    "criterion", [{"session_id": "id"}, {"path": "path"}, {"kernel_id": "kernel"}]
)
async def test_each_question_brings_it_back(scene: Scene, criterion: dict[str, str]) -> None:
    with scene.failover():
        session = await create(scene.one)
    ((name, key),) = criterion.items()
    value = session["kernel"]["id"] if key == "kernel" else session[key]
    assert (await scene.one.get_session(**{name: value}))["id"] == session["id"]
    await scene.check()


@pytest.mark.parametrize("step", ["_mend", "check_liveness"])
async def test_two_servers_that_bring_it_back_at_once_both_list_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    one, two = scene.one, scene.two
    with scene.failover():
        session = await create(one)
        await two.list_sessions()
    store = one._context.store
    slow = store if step == "_mend" else one._context.authority
    proceed = getattr(slow, step)

    async def is_overtaken(*args: Any) -> Any:
        assert await ids_of(two) == [session["id"]]
        return await proceed(*args)

    monkeypatch.setattr(slow, step, is_overtaken)
    assert await ids_of(one) == [session["id"]]
    assert memory_of(one).newest(session["id"]) is not None


async def test_a_rename_that_was_lost_is_made_again(scene: Scene) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    await two.list_sessions()
    with scene.failover():
        await one.change_session(session["id"], path="b", name="new")
    # Who has seen the older version alone takes it for the newest, until the other is asked.
    assert await paths_of(two) == ["a"]
    assert await paths_of(one) == ["b"]
    assert await paths_of(two) == ["b"]
    (row,) = await scene.check()
    assert (row.path, row.name) == ("b", "new")


@pytest.mark.parametrize("created_before", [True, False])
async def test_who_has_seen_an_older_version_puts_nobody_elses_newer_one_aside(
    scene: Scene, created_before: bool
) -> None:
    one, two = scene.one, scene.two
    if created_before:
        session = await create(one)
    with scene.failover():
        if not created_before:
            session = await create(one)
        await one.change_session(session["id"], path="b")
        await two.list_sessions()
        await one.change_session(session["id"], path="c")
    # The one that knows less is asked first.
    assert await paths_of(two) == ["b"]
    assert await paths_of(one) == ["c"]
    assert await paths_of(two) == ["c"]
    await scene.check()


async def test_who_knows_less_and_is_faster_changes_nothing_for_good(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    with scene.failover():
        await one.change_session(session["id"], path="b")
        await two.list_sessions()
        await one.change_session(session["id"], path="c")
    store = one._context.store
    assert isinstance(store, SharedStore)
    mend = store._mend

    async def is_overtaken(*args: Any) -> bool:
        await two.list_sessions()
        return await mend(*args)

    monkeypatch.setattr(store, "_mend", is_overtaken)
    assert await paths_of(one) == ["c"]
    assert await paths_of(two) == ["c"]
    await scene.check()


async def test_what_a_client_changes_after_a_failover_stays(scene: Scene) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    await two.list_sessions()
    with scene.failover():
        for path in ("b", "c", "d"):
            await one.change_session(session["id"], path=path)
            await two.list_sessions()
        await one.change_session(session["id"], path="e")
    await two.list_sessions()
    await two.change_session(session["id"], path="f")
    assert await paths_of(one) == ["f"]
    await scene.check()


async def test_a_move_that_was_lost_leaves_the_session_on_its_kernel(scene: Scene) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    with scene.failover():
        moved = await one.change_session(session["id"], kernel_name="python3")
    assert moved["kernel"]["id"] != session["kernel"]["id"]
    (model,) = await one.list_sessions()
    assert model["kernel"]["id"] == moved["kernel"]["id"]
    assert await ids_of(two) == [session["id"]]
    await scene.check()


async def test_a_change_of_a_session_that_was_lost_brings_it_back(scene: Scene) -> None:
    one, two = scene.one, scene.two
    with scene.failover():
        session = await create(one)
    assert (await one.change_session(session["id"], path="b"))["path"] == "b"
    assert await paths_of(two) == ["b"]
    await scene.check()


async def test_a_change_of_a_session_in_an_older_version_is_made_to_the_newest(
    scene: Scene,
) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    with scene.failover():
        moved = await one.change_session(session["id"], kernel_name="python3")
        await one.change_session(session["id"], path="b", name="new")
        await two.list_sessions()
    await one.change_session(session["id"], path="c")
    # The other one remembers more changes than the store had had.
    for manager in (two, one):
        (model,) = await manager.list_sessions()
        assert (model["path"], model["name"]) == ("c", "new")
        assert model["kernel"]["id"] == moved["kernel"]["id"]
    (row,) = await scene.check()
    assert row.claim is not None


@pytest.mark.parametrize("lost", ["create", "move"])
async def test_a_session_that_was_lost_is_deleted_with_its_kernel(scene: Scene, lost: str) -> None:
    one, two = scene.one, scene.two
    if lost == "move":
        session = await create(one)
    with scene.failover():
        if lost == "create":
            session = await create(one)
        else:
            await one.change_session(session["id"], kernel_name="python3")
        await two.list_sessions()
    await one.delete_session(session["id"])
    assert await ids_of(two) == await ids_of(one) == []
    assert await scene.check() == []
    assert scene.gateway.models == {}


async def test_what_was_deleted_stays_deleted(scene: Scene) -> None:
    one = scene.one
    session = await create(one)
    stays = await one.create_session(path="b", kernel_id=session["kernel"]["id"], name="", type="x")
    with scene.failover():
        await one.delete_session(session["id"])
    # The kernel lives, so that nothing but the memory of the deletion tells.
    assert await ids_of(one) == [stays["id"]]
    await settle(one)
    assert [row.session_id for row in await stored(one)] == [stays["id"]]


async def test_a_deletion_is_remembered_for_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scene.one
    session = await create(one)
    await one.delete_session(session["id"])
    assert len(memory_of(one)) == 1
    later = now() + 601
    monkeypatch.setattr("jupyter_session_store.sessions.remembered.now", lambda: later)
    await one.list_sessions()
    assert len(memory_of(one)) == 0


async def test_what_another_replica_has_closed_is_not_put_back(scene: Scene) -> None:
    one, two = scene.one, scene.two
    first = await create(one)
    second = await one.create_session(
        path="b", kernel_id=first["kernel"]["id"], name="", type="console"
    )
    assert len(await two.list_sessions()) == 2
    # Of two on one kernel: the kernel lives, and the other names it.
    await one.delete_session(first["id"])
    assert await ids_of(two) == [second["id"]]
    await one.delete_session(second["id"])
    assert await ids_of(two) == []
    assert len(memory_of(two)) == 0
    await scene.check()


async def test_what_another_replica_has_renamed_or_moved_is_followed(scene: Scene) -> None:
    one, two = scene.one, scene.two
    session = await create(one)
    await two.list_sessions()
    await one.change_session(session["id"], path="b")
    assert not await two.session_exists("a")
    assert await two.session_exists("b")
    await one.change_session(session["id"], kernel_name="python3")
    assert await ids_of(two) == [session["id"]]
    assert len(memory_of(two)) == 1
    await scene.check()


async def test_a_session_whose_kernel_cannot_be_asked_for_is_shown_as_unknown(scene: Scene) -> None:
    one = scene.one
    with scene.failover():
        session = await create(one)
    kernel_id = session["kernel"]["id"]
    scene.gateway.answer = Answer(503, {"message": "test"})
    (model,) = await one.list_sessions()
    assert (model["id"], model["kernel"]["execution_state"]) == (session["id"], "unknown")
    assert await stored(one) == []
    # Nor is its kernel shut down by the next orderly stop.
    assert await one.sessions.kernels.in_use([kernel_id, "other"]) == {kernel_id}
    scene.gateway.answer = None
    assert await ids_of(one) == [session["id"]]
    await scene.check()


async def test_a_session_whose_kernel_is_gone_is_forgotten(scene: Scene) -> None:
    one = scene.one
    with scene.failover():
        session = await create(one)
    del scene.gateway.models[session["kernel"]["id"]]
    assert await ids_of(one) == []
    assert len(memory_of(one)) == 0


async def test_the_tables_are_emptied(scene: Scene) -> None:
    one, two = scene.one, scene.two
    made = [(await create(one, f"{n}"))["id"] for n in range(5)]
    await two.list_sessions()
    with scene.engine.begin() as connection:
        connection.execute(delete(SESSIONS))
    assert sorted(await ids_of(two)) == sorted(made)
    assert sorted(await ids_of(one)) == sorted(made)
    await scene.check()


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_many_failovers_lose_nothing_that_was_acknowledged(
    scene: Scene, seed: int, rounds: Callable[[int], int]
) -> None:
    """Whatever a replica has acknowledged shows once that replica has been asked."""
    chance = random.Random(seed)
    one, two = scene.one, scene.two
    expected: dict[str, tuple[str, str]] = {}
    serial = 0
    number = rounds(500)
    for _ in range(number):
        with scene.failover():
            for _ in range(chance.randrange(1, 5)):
                serial += 1
                what = chance.choice(["create", "create", "rename", "move", "delete"])
                manager = chance.choice([one, two])
                if what == "create" or not expected:
                    model = await create(manager, f"{serial}")
                else:
                    session_id = chance.choice(sorted(expected))
                    if what == "delete":
                        await manager.delete_session(session_id)
                        del expected[session_id]
                        continue
                    change = {"path": f"{serial}"} if what == "rename" else {}
                    kernel = "python3" if what == "move" else None
                    model = await manager.change_session(session_id, kernel_name=kernel, **change)
                expected[model["id"]] = (model["path"], model["kernel"]["id"])
                await settle(manager)
        # Each may know what the other does not: both are asked, and then agree.
        for manager in (one, two, one, two):
            shown = await manager.list_sessions()
            await settle(manager)
        found = {model["id"]: (model["path"], model["kernel"]["id"]) for model in shown}
        assert found == expected, f"seed {seed}"
        assert sorted(scene.gateway.models) == sorted(kernel for _, kernel in expected.values())
    print(f"{number} failovers, {serial} changes: 0 sessions lost, 0 kernels doubled or lost")
