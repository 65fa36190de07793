"""Rows that a restore brings back half way: of creates and closes on which nobody works any more.

In a snapshot of a busy database some sessions are being created, and some closed, by servers that
live and have long finished. No eviction releases what a living server has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, insert
from sqlalchemy.pool import NullPool
from tornado import web

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import CLOSING, READY, STARTING, SessionRecord
from jupyter_session_store.sessions.shared import SharedSessions
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.tables import SERVERS, SESSIONS
from jupyter_session_store.testing import record
from tests.databases.database import Database
from tests.unit.dummies import failing, renewed, settle, stored
from tests.unit.fake_gateway import FakeGateway
from tests.unit.test_replicas import HOW, Replicas, replicas, row_of, settled, until

__all__ = ["replicas"]


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = create_engine(urls.parse(database.url), poolclass=NullPool)
    yield engine
    engine.dispose()


def restore(engine: Engine, *rows: SessionRecord) -> None:
    """Have these rows alone."""
    with engine.begin() as connection:
        connection.execute(delete(SESSIONS))
        for row in rows:
            connection.execute(insert(SESSIONS), to_row(row))


async def at_work(manager: PersistentSessionManager) -> None:
    """Have a server be past its first renewal, at which it takes up what there is in any case."""
    await manager.list_sessions()
    await renewed(manager)


def half(maker: PersistentSessionManager, **values: Any) -> SessionRecord:
    """Return the row of a create, or of a close, on which a server works."""
    path = values.pop("path", "a")
    claim = None if path is None else claim_of(maker.scope, path)
    values = {"state": STARTING, "kernel_id": "k", **values}
    return record("half", maker.scope, path=path, claim=claim, server_id=maker.server_id, **values)


async def test_a_create_that_was_rolled_back_holds_no_path_for_ever(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    await at_work(one)
    restore(engine, half(one))
    await renewed(one)
    assert [row.path for row in await stored(one)] in ([], [None])
    again = await two.get_or_create_session(path="a", **HOW)
    assert [model["id"] for model in await one.list_sessions()] == [again["id"]]
    assert list(gateway.models) == [again["kernel"]["id"]]


async def test_who_has_rolled_it_back_removes_it_at_its_next_look(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    gateway.starting.clear()
    creating = asyncio.ensure_future(one.create_session(path="a", **HOW))
    await until(lambda: stored(one), lambda rows: [row.state for row in rows] == [STARTING])
    (row,) = await stored(one)
    failing(one, "update", StoreUnavailable("test"))
    gateway.starting.set()
    with pytest.raises(StoreUnavailable):
        await creating
    vars(one.store).pop("update")
    await settle(one)
    assert await stored(one) == []
    restore(engine, row)
    # It waits for no other server.
    again = await one.get_or_create_session(path="a", **HOW)
    assert again["id"] != row.session_id
    assert await settled(one, gateway) == ["a"]


@pytest.mark.parametrize("place", [0, 1])
async def test_a_create_whose_kernel_lives_is_a_session(
    replicas: Replicas, gateway: FakeGateway, engine: Engine, place: int
) -> None:
    await at_work(replicas[0])
    gateway.run("k")
    restore(engine, half(replicas[0]))
    await renewed(replicas[0])
    assert [model["id"] for model in await replicas[place].list_sessions()] == ["half"]
    assert await settled(replicas[0], gateway) == ["a"]


async def test_a_create_that_was_finished_since_is_the_session_that_it_became(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    session = await one.create_session(path="a", **HOW)
    (row,) = await stored(one)
    await one.change_session(session["id"], path="b")
    restore(engine, row.replace(state=STARTING, kernel_model=None, version=1))
    await renewed(one)
    assert await settled(one, gateway) == ["b"]


async def delete_first_of_two(one: PersistentSessionManager) -> list[SessionRecord]:
    """Make two sessions on one kernel, delete the first, and return the rows as they were."""
    session = await one.create_session(path="a", **HOW)
    # It keeps the kernel alive.
    await one.create_session(path="b", kernel_id=session["kernel"]["id"], name="", type="console")
    rows = await stored(one)
    await one.delete_session(session["id"])
    return rows


async def test_a_create_whose_session_was_deleted_since_is_deleted_again(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    first, second = await delete_first_of_two(one)
    restore(engine, first.replace(state=STARTING, kernel_model=None, version=1), second)
    await renewed(one)
    assert await settled(one, gateway) == ["b"]


async def test_a_create_that_is_half_way_is_left_alone(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    gateway.starting.clear()
    creating = asyncio.ensure_future(one.create_session(path="a", **HOW))
    await until(lambda: stored(one), lambda rows: [row.state for row in rows] == [STARTING])
    before = await stored(one)
    await two.list_sessions()
    for manager in (one, one, two):
        await asyncio.wrap_future(manager.lease.renew_now())
        await asyncio.sleep(0.05)
    assert await stored(one) == before
    gateway.starting.set()
    session = await creating
    assert [model["id"] for model in await two.list_sessions()] == [session["id"]]
    assert await settled(one, gateway) == ["a"]


async def test_a_move_that_nobody_is_at_leaves_no_guard(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    session = await one.create_session(path="a", **HOW)
    (row,) = await stored(one)
    restore(engine, row, half(one, path=None, kernel_id=session["kernel"]["id"]))
    await renewed(one)
    assert await settled(one, gateway) == ["a"]


async def test_a_mark_that_nobody_is_at_is_taken_back(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, two = replicas
    await at_work(one)
    gateway.run("k")
    restore(engine, half(one, state=CLOSING, version=2))
    await renewed(one)
    assert await settled(one, gateway) == ["a"]
    # Who asks for the path does not wait for a close that does not come.
    assert (await two.get_or_create_session(path="a", **HOW))["id"] == "half"
    await two.delete_session("half")
    assert await settled(one, gateway) == []


async def test_a_mark_of_a_session_that_was_deleted_is_no_session_again(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    first, second = await delete_first_of_two(one)
    marked = first.replace(state=CLOSING, version=first.version + 1)
    restore(engine, marked, second)
    await renewed(one)
    assert await settled(one, gateway) == ["b"]


async def test_a_close_that_is_half_way_is_left_alone(
    replicas: Replicas, gateway: FakeGateway
) -> None:
    one, two = replicas
    await at_work(one)
    session = await one.create_session(path="a", **HOW)
    await two.list_sessions()
    gateway.ending.clear()
    closing = asyncio.ensure_future(one.delete_session(session["id"]))
    await until(lambda: row_of(one, 0), lambda row: row.state == CLOSING)
    before = await stored(one)
    for manager in (one, one, two):
        await asyncio.wrap_future(manager.lease.renew_now())
        await asyncio.sleep(0.05)
    assert await stored(one) == before
    gateway.ending.set()
    await closing
    assert await settled(one, gateway) == []


async def test_a_close_whose_row_could_not_be_removed_holds_no_path_for_ever(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    """The kernel is gone by then."""
    one, two = replicas
    await at_work(one)
    restore(engine, half(one, state=CLOSING, version=2))
    await renewed(one)
    again = await two.get_or_create_session(path="a", **HOW)
    assert again["id"] != "half"
    assert await settled(one, gateway) == ["a"]


async def test_what_cannot_be_asked_for_is_asked_for_again(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    gateway.run("k")
    restore(engine, half(one))
    gateway.answer = Answer(503, {"message": "test"})
    await renewed(one)
    assert [row.state for row in await stored(one)] == [STARTING]
    gateway.answer = None
    await renewed(one)
    assert [row.state for row in await stored(one)] == [READY]


async def test_what_a_server_has_left_that_the_backup_does_not_know(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    """A dump without registrations: nobody sees that the server is missing, and nobody else is."""
    one, two = replicas
    two.close()
    await at_work(one)
    gateway.run("k")
    restore(engine, half(one).replace(server_id="long gone"))
    with engine.begin() as connection:
        connection.execute(delete(SERVERS))
    await renewed(one)
    assert await settled(one, gateway) == ["a"]


async def test_a_rename_that_was_lost_is_found_by_the_new_path(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    session = await one.create_session(path="a", **HOW)
    (row,) = await stored(one)
    await one.change_session(session["id"], path="b")
    restore(engine, row)
    again = await one.get_or_create_session(path="b", **HOW)
    assert again["id"] == session["id"]
    assert await settled(one, gateway) == ["b"]


async def test_a_move_that_was_lost_is_found_by_the_new_kernel(
    replicas: Replicas, gateway: FakeGateway, engine: Engine
) -> None:
    one, _ = replicas
    await at_work(one)
    session = await one.create_session(path="a", **HOW)
    (row,) = await stored(one)
    moved = await one.change_session(session["id"], kernel_name="python3")
    await settle(one)
    restore(engine, row)
    found = await one.get_session(kernel_id=moved["kernel"]["id"])
    assert found["id"] == session["id"]
    with pytest.raises(web.HTTPError, match="404"):
        await one.get_session(kernel_id=session["kernel"]["id"])
    assert await settled(one, gateway) == ["a"]


async def test_a_close_that_another_manager_begins_meanwhile_keeps_its_mark(
    replicas: Replicas, engine: Engine
) -> None:
    """Session managers over one kernel manager know of each other's closes, and share its turns."""
    one, _ = replicas
    await at_work(one)
    marked = half(one, state=CLOSING)
    restore(engine, marked)
    assert isinstance(one.sessions, SharedSessions)
    usage, recovery = one._context.usage, one.sessions.recovery
    await usage.counting().acquire()
    recovery.on_renewed([marked])
    # Time to look at the mark, of which nobody knows anything yet.
    await asyncio.sleep(0.2)
    with usage.in_progress(marked.session_id):
        usage.counting().release()
        await settle(one)
        assert [row.state for row in await stored(one)] == [CLOSING]
