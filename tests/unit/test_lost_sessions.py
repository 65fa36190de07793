"""What a failover of the database loses of shared sessions comes back from the servers' memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
from jupyter_session_store.sql.models import SESSIONS
from tests.databases.database import Database
from tests.unit.dummies import settle, stored
from tests.unit.fake_gateway import FakeGateway
from tests.unit.test_replicas import HOW, Replicas, replica, replicas

__all__ = ["replicas"]


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = create_engine(urls.parse(database.url), poolclass=NullPool)
    yield engine
    engine.dispose()


@contextmanager
def failover(engine: Engine) -> Iterator[None]:
    """Bring the sessions back to what they are now, after what happens meanwhile."""
    with engine.connect() as connection:
        before = [dict(row) for row in connection.execute(select(SESSIONS)).mappings()]
    yield
    with engine.begin() as connection:
        connection.execute(delete(SESSIONS))
        if before:
            connection.execute(insert(SESSIONS), before)


def memory_of(manager: PersistentSessionManager) -> RememberedSessions:
    store = manager._context.store
    assert isinstance(store, SharedStore)
    return store.remembered


async def ids_of(manager: PersistentSessionManager) -> list[str]:
    return [model["id"] for model in await manager.list_sessions()]


async def check(one: PersistentSessionManager, gateway: FakeGateway) -> list[SessionRecord]:
    """Check that each session has its kernel and each kernel a session; return the rows."""
    await settle(one)
    rows = await stored(one)
    assert {row.state for row in rows} <= {READY}
    assert sorted(str(row.kernel_id) for row in rows) == sorted(gateway.models)
    return rows


@pytest.mark.parametrize("place", [0, 1])
async def test_a_session_that_was_lost_is_listed_by_whoever_has_seen_it(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, place: int
) -> None:
    with failover(engine):
        session = await replicas[0].create_session(path="a", **HOW)
        assert await ids_of(replicas[1]) == [session["id"]]
    assert await ids_of(replicas[place]) == [session["id"]]
    assert await ids_of(replicas[1 - place]) == [session["id"]]
    (row,) = await check(replicas[0], gateway)
    assert row.claim is not None


async def test_a_post_of_its_path_starts_no_second_kernel(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    with failover(engine):
        session = await replicas[0].create_session(path="a", **HOW)
    again = await replicas[0].get_or_create_session(path="a", **HOW)
    assert again["id"] == session["id"]
    assert len(await check(replicas[0], gateway)) == 1


@pytest.mark.parametrize(
    "criterion", [{"session_id": "id"}, {"path": "path"}, {"kernel_id": "kernel"}]
)
async def test_each_question_brings_it_back(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, criterion: dict[str, str]
) -> None:
    with failover(engine):
        session = await replicas[0].create_session(path="a", **HOW)
    ((name, key),) = criterion.items()
    value = session["kernel"]["id"] if key == "kernel" else session[key]
    assert (await replicas[0].get_session(**{name: value}))["id"] == session["id"]
    await check(replicas[0], gateway)


@pytest.mark.parametrize("step", ["_mend", "check_liveness"])
async def test_two_servers_that_bring_it_back_at_once_both_list_it(
    replicas: Replicas, engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    one, two = replicas
    with failover(engine):
        session = await one.create_session(path="a", **HOW)
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


async def test_a_rename_that_was_lost_is_made_again(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    await two.list_sessions()
    with failover(engine):
        await one.change_session(session["id"], path="b", name="new")
    # Who has seen the older version alone takes it for the newest, until the other is asked.
    assert [model["path"] for model in await two.list_sessions()] == ["a"]
    assert [model["path"] for model in await one.list_sessions()] == ["b"]
    assert [model["path"] for model in await two.list_sessions()] == ["b"]
    (row,) = await check(one, gateway)
    assert (row.path, row.name) == ("b", "new")


@pytest.mark.parametrize("created_before", [True, False])
async def test_who_has_seen_an_older_version_puts_nobody_elses_newer_one_aside(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, created_before: bool
) -> None:
    one, two = replicas
    if created_before:
        session = await one.create_session(path="a", **HOW)
    with failover(engine):
        if not created_before:
            session = await one.create_session(path="a", **HOW)
        await one.change_session(session["id"], path="b")
        await two.list_sessions()
        await one.change_session(session["id"], path="c")
    # The one that knows less is asked first.
    assert [model["path"] for model in await two.list_sessions()] == ["b"]
    assert [model["path"] for model in await one.list_sessions()] == ["c"]
    assert [model["path"] for model in await two.list_sessions()] == ["c"]
    await check(one, gateway)


async def test_who_knows_less_and_is_faster_changes_nothing_for_good(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    with failover(engine):
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
    assert [model["path"] for model in await one.list_sessions()] == ["c"]
    assert [model["path"] for model in await two.list_sessions()] == ["c"]
    await check(one, gateway)


async def test_what_a_client_changes_after_a_failover_stays(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    await two.list_sessions()
    with failover(engine):
        for path in ("b", "c", "d"):
            await one.change_session(session["id"], path=path)
            await two.list_sessions()
        await one.change_session(session["id"], path="e")
    await two.list_sessions()
    await two.change_session(session["id"], path="f")
    assert [model["path"] for model in await one.list_sessions()] == ["f"]
    await check(one, gateway)


async def test_a_move_that_was_lost_leaves_the_session_on_its_kernel(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    with failover(engine):
        moved = await one.change_session(session["id"], kernel_name="python3")
    assert moved["kernel"]["id"] != session["kernel"]["id"]
    (model,) = await one.list_sessions()
    assert model["kernel"]["id"] == moved["kernel"]["id"]
    assert await ids_of(two) == [session["id"]]
    await check(one, gateway)


async def test_a_change_of_a_session_that_was_lost_brings_it_back(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    with failover(engine):
        session = await one.create_session(path="a", **HOW)
    assert (await one.change_session(session["id"], path="b"))["path"] == "b"
    assert [model["path"] for model in await two.list_sessions()] == ["b"]
    await check(one, gateway)


async def test_a_change_of_a_session_in_an_older_version_is_made_to_the_newest(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    with failover(engine):
        moved = await one.change_session(session["id"], kernel_name="python3")
        await one.change_session(session["id"], path="b", name="new")
        await two.list_sessions()
    await one.change_session(session["id"], path="c")
    # The other one remembers more changes than the store had had.
    for manager in (two, one):
        (model,) = await manager.list_sessions()
        assert (model["path"], model["name"]) == ("c", "new")
        assert model["kernel"]["id"] == moved["kernel"]["id"]
    (row,) = await check(one, gateway)
    assert row.claim is not None


@pytest.mark.parametrize("lost", ["create", "move"])
async def test_a_session_that_was_lost_is_deleted_with_its_kernel(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, lost: str
) -> None:
    one, two = replicas
    if lost == "move":
        session = await one.create_session(path="a", **HOW)
    with failover(engine):
        if lost == "create":
            session = await one.create_session(path="a", **HOW)
        else:
            await one.change_session(session["id"], kernel_name="python3")
        await two.list_sessions()
    await one.delete_session(session["id"])
    assert await ids_of(two) == await ids_of(one) == []
    assert await check(one, gateway) == []
    assert gateway.models == {}


async def test_what_was_deleted_stays_deleted(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _two = replicas
    session = await one.create_session(path="a", **HOW)
    stays = await one.create_session(path="b", kernel_id=session["kernel"]["id"], name="", type="x")
    with failover(engine):
        await one.delete_session(session["id"])
    # The kernel lives, so that nothing but the memory of the deletion tells.
    assert await ids_of(one) == [stays["id"]]
    await check_shared(one, [stays["id"]])


async def check_shared(manager: PersistentSessionManager, expected: list[str]) -> None:
    await settle(manager)
    assert [row.session_id for row in await stored(manager)] == expected


async def test_a_deletion_is_remembered_for_a_while(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = replicas
    session = await one.create_session(path="a", **HOW)
    await one.delete_session(session["id"])
    assert len(memory_of(one)) == 1
    later = now() + 601
    monkeypatch.setattr("jupyter_session_store.sessions.remembered.now", lambda: later)
    await one.list_sessions()
    assert len(memory_of(one)) == 0


async def test_what_another_replica_has_closed_is_not_put_back(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    first = await one.create_session(path="a", **HOW)
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
    await check(one, gateway)


async def test_what_another_replica_has_renamed_or_moved_is_followed(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    session = await one.create_session(path="a", **HOW)
    await two.list_sessions()
    await one.change_session(session["id"], path="b")
    assert not await two.session_exists("a")
    assert await two.session_exists("b")
    await one.change_session(session["id"], kernel_name="python3")
    assert await ids_of(two) == [session["id"]]
    assert len(memory_of(two)) == 1
    await check(one, gateway)


async def test_a_session_whose_kernel_cannot_be_asked_for_is_shown_as_unknown(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    with failover(engine):
        session = await one.create_session(path="a", **HOW)
    kernel_id = session["kernel"]["id"]
    gateway.answer = Answer(503, {"message": "test"})
    (model,) = await one.list_sessions()
    assert (model["id"], model["kernel"]["execution_state"]) == (session["id"], "unknown")
    assert await stored(one) == []
    # Nor is its kernel shut down by the next orderly stop.
    assert await one.sessions.kernels.in_use([kernel_id, "other"]) == {kernel_id}
    gateway.answer = None
    assert await ids_of(one) == [session["id"]]
    await check(one, gateway)


async def test_a_session_whose_kernel_is_gone_is_forgotten(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    with failover(engine):
        session = await one.create_session(path="a", **HOW)
    del gateway.models[session["kernel"]["id"]]
    assert await ids_of(one) == []
    assert len(memory_of(one)) == 0


async def test_the_tables_are_emptied(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    made = [(await one.create_session(path=f"{n}", **HOW))["id"] for n in range(5)]
    await two.list_sessions()
    with engine.begin() as connection:
        connection.execute(delete(SESSIONS))
    assert sorted(await ids_of(two)) == sorted(made)
    assert sorted(await ids_of(one)) == sorted(made)
    await check(one, gateway)


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_many_failovers_lose_nothing_that_was_acknowledged(
    database: Database,
    tmp_path: Path,
    gateway: FakeGateway,
    engine: Engine,
    seed: int,
    rounds: Callable[[int], int],
) -> None:
    """Whatever a replica has acknowledged shows once that replica has been asked."""
    chance = random.Random(seed)
    one, two = replica(database, tmp_path), replica(database, tmp_path)
    expected: dict[str, tuple[str, str]] = {}
    serial = 0
    number = rounds(500)
    try:
        for _ in range(number):
            with failover(engine):
                for _ in range(chance.randrange(1, 5)):
                    serial += 1
                    what = chance.choice(["create", "create", "rename", "move", "delete"])
                    manager = chance.choice([one, two])
                    if what == "create" or not expected:
                        model = await manager.create_session(path=f"{serial}", **HOW)
                    else:
                        session_id = chance.choice(sorted(expected))
                        if what == "delete":
                            await manager.delete_session(session_id)
                            del expected[session_id]
                            continue
                        change = {"path": f"{serial}"} if what == "rename" else {}
                        kernel = "python3" if what == "move" else None
                        model = await manager.change_session(
                            session_id, kernel_name=kernel, **change
                        )
                    expected[model["id"]] = (model["path"], model["kernel"]["id"])
                    await settle(manager)
            # Each may know what the other does not: both are asked, and then agree.
            for manager in (one, two, one, two):
                shown = await manager.list_sessions()
                await settle(manager)
            found = {model["id"]: (model["path"], model["kernel"]["id"]) for model in shown}
            assert found == expected, f"seed {seed}"
            assert sorted(gateway.models) == sorted(kernel for _, kernel in expected.values())
    finally:
        one.close()
        two.close()
    print(f"{number} failovers, {serial} changes: 0 sessions lost, 0 kernels doubled or lost")
