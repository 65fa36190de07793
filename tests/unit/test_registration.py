"""Leases: who is held dead, by whose clock, and what the heartbeat's thread does."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from traitlets import TraitError

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.records import STARTING, Departure, Scope, ServerRecord, SessionRecord
from jupyter_session_store.servers import heartbeat, registered_store
from jupyter_session_store.servers.heartbeat import Heartbeat, LeaseObserver
from jupyter_session_store.servers.registered_store import RegisteredStore
from jupyter_session_store.testing import SCOPE, record, server
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    assert_equal_after_renewal,
    make_manager,
    raising,
    shared_manager,
    store_away,
    stored,
)

LEASE = 90


def at(renewals: int, lease_seconds: int = LEASE) -> list[ServerRecord]:
    return [server("one"), server("two", renewals=renewals, lease_seconds=lease_seconds)]


def ids(servers: list[ServerRecord]) -> list[str]:
    return [s.server_id for s in servers]


# ---------------------------------------------------------------------- the watch


def test_who_renews_lives() -> None:
    observer = LeaseObserver("one")
    assert all(observer.expired(at(turn), moment=turn * 1000.0) == [] for turn in range(20))


def test_who_stands_still_for_its_lease_is_dead() -> None:
    observer = LeaseObserver("one")
    assert observer.expired(at(7), moment=1000) == []
    assert observer.expired(at(7), moment=1000 + LEASE) == []
    assert ids(observer.expired(at(7), moment=1000 + LEASE + 1)) == ["two"]


def test_the_lease_is_that_of_the_watched() -> None:
    observer = LeaseObserver("one")
    observer.expired(at(7, 3), moment=0)
    assert ids(observer.expired(at(7, 3), moment=4)) == ["two"]
    observer.expired(at(7, 3600), moment=5)
    assert observer.expired(at(7, 3600), moment=LEASE * 2) == []


def test_an_observer_does_not_hold_itself_dead() -> None:
    observer = LeaseObserver("two")
    observer.expired(at(7), moment=0)
    assert ids(observer.expired(at(7), moment=10_000)) == ["one"]


def test_after_an_outage_all_are_waited_for_anew() -> None:
    observer = LeaseObserver("one")
    observer.expired(at(7), moment=0)
    observer.forget()
    assert observer.expired(at(7), moment=10 * LEASE) == []
    assert observer.expired(at(7), moment=11 * LEASE) == []
    assert ids(observer.expired(at(7), moment=11 * LEASE + 1)) == ["two"]


def test_who_comes_again_begins_anew() -> None:
    observer = LeaseObserver("one")
    observer.expired(at(7), moment=0)
    observer.expired([server("one")], moment=50)
    assert observer.expired(at(7), moment=1000) == []


def test_a_late_answer_shortens_no_lease_of_another() -> None:
    """The count may have been read when it was asked for, or when it was answered."""
    observer = LeaseObserver("one")
    observer.expired(at(7), 1000, answered=1008)
    assert observer.expired(at(7), 1000 + LEASE + 1, answered=1000 + LEASE + 60) == []
    assert observer.expired(at(7), 1008 + LEASE) == []
    assert ids(observer.expired(at(7), 1008 + LEASE + 1)) == ["two"]


# ------------------------------------------------------------------- the heartbeat


class Beating:
    """A heartbeat by hand over sessions in memory, and what it hands over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(heartbeat, "now", lambda: self.now)
        self.repository = MemorySessionRepository(
            ":memory:", options={}, auto_upgrade="safe", log=logging.getLogger("tests")
        )
        self.repository.open(SCOPE, server("one"), timeout=1)
        self.unfinished: list[SessionRecord] = []
        self.heartbeat = Heartbeat(
            self.repository,
            SCOPE,
            server("one"),
            local_sessions=self.held,
            on_renewed=self.after,
            log=logging.getLogger("tests"),
        )

    def held(self) -> list[SessionRecord]:
        return []

    def after(self, unfinished: list[SessionRecord]) -> None:
        self.unfinished += unfinished

    def beat(self, seconds: float) -> list[str]:
        """Let time pass, beat, and return who is registered then."""
        self.now += seconds
        self.heartbeat.beat()
        return ids(self.repository.renew(server("one"), [], timeout=1))


@pytest.fixture
def beating(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beating]:
    beating = Beating(monkeypatch)
    yield beating
    beating.repository.close()


def test_a_silent_server_is_evicted_after_its_lease(beating: Beating) -> None:
    beating.repository.renew(server("two"), [], timeout=1)
    for _ in range(4):
        assert beating.beat(LEASE / 3) == ["one", "two"]
    assert beating.beat(LEASE / 3) == ["one"]


def test_an_observer_that_was_suspended_evicts_nobody(beating: Beating) -> None:
    """So may the other have been, on the same laptop."""
    beating.repository.renew(server("two"), [], timeout=1)
    beating.beat(LEASE / 3)
    assert beating.beat(100 * LEASE) == ["one", "two"]
    assert beating.beat(LEASE / 3) == ["one", "two"]


def test_after_a_failed_renewal_nobody_is_evicted_at_once(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating.repository.renew(server("two"), [], timeout=1)
    for _ in range(4):
        beating.beat(LEASE / 3)
    renew = beating.repository.renew
    monkeypatch.setattr(beating.repository, "renew", raising(StoreUnavailable("test")))
    beating.heartbeat.start()
    with pytest.raises(StoreUnavailable):
        beating.heartbeat.renew_now().result(30)
    monkeypatch.setattr(beating.repository, "renew", renew)
    beating.heartbeat.stop()
    beating.heartbeat.join(30)
    assert beating.beat(LEASE / 3) == ["one", "two"]


def test_a_renewal_that_fails_otherwise_is_a_fault_of_the_store(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it gets an error with a status, and no CancelledError."""
    monkeypatch.setattr(beating.repository, "renew", raising(ValueError("test")))
    beating.heartbeat.start()
    with pytest.raises(StoreUnavailable):
        beating.heartbeat.renew_now().result(30)
    beating.heartbeat.stop()
    beating.heartbeat.join(30)


def test_who_came_back_after_an_eviction_is_not_evicted_again(beating: Beating) -> None:
    beating.repository.renew(server("two"), [], timeout=1)
    for _ in range(4):
        beating.beat(LEASE / 3)
    assert beating.beat(LEASE / 3) == ["one"]
    # With the very count that it had.
    beating.repository.renew(server("two"), [], timeout=1)
    assert beating.beat(LEASE / 3) == ["one", "two"]


def test_what_a_server_left_that_stopped_in_order_is_taken_up(beating: Beating) -> None:
    beating.repository.renew(server("two"), [], timeout=1)
    beating.beat(LEASE / 3)
    gateway = Scope(SCOPE.namespace, "gateway:g")
    beating.heartbeat._scope = gateway
    half = record("half", gateway, state=STARTING, kernel_id="k", server_id="two")
    asyncio.run(beating.repository.add(half))
    beating.beat(LEASE / 3)
    assert beating.unfinished == []
    del beating.repository._servers[SCOPE.namespace, "two"]
    beating.beat(LEASE / 3)
    assert [one.session_id for one in beating.unfinished] == ["half"]


def leave_half(beating: Beating) -> None:
    """Add what a server that is not registered was starting on the gateway."""
    gateway = Scope(SCOPE.namespace, "gateway:g")
    beating.heartbeat._scope = gateway
    half = record("half", gateway, state=STARTING, kernel_id="k", server_id="long gone")
    asyncio.run(beating.repository.add(half))


def test_what_is_there_of_others_is_taken_up_by_whoever_was_registered_anew(
    beating: Beating,
) -> None:
    """The store was restored from a backup without registrations."""
    beating.beat(LEASE / 3)
    leave_half(beating)
    beating.beat(LEASE / 3)
    assert beating.unfinished == []
    beating.repository._servers.clear()
    beating.beat(LEASE / 3)
    assert [one.session_id for one in beating.unfinished] == ["half"]


@pytest.mark.parametrize("repeated_by", ["the repository", "the heartbeat"])
def test_so_it_is_if_the_answer_to_the_registration_was_lost(
    beating: Beating, monkeypatch: pytest.MonkeyPatch, repeated_by: str
) -> None:
    beating.beat(LEASE / 3)
    leave_half(beating)
    beating.repository._servers.clear()
    renew = beating.repository.renew

    def losing(*arguments: Any, **options: Any) -> Any:
        renew(*arguments, **options)
        if repeated_by == "the heartbeat":
            raise StoreUnavailable("test")
        return renew(*arguments, **options)

    monkeypatch.setattr(beating.repository, "renew", losing)
    with suppress(StoreUnavailable):
        beating.heartbeat.beat()
    monkeypatch.setattr(beating.repository, "renew", renew)
    beating.beat(LEASE / 3)
    assert [one.session_id for one in beating.unfinished] == ["half"]


def answering_late(
    beating: Beating, monkeypatch: pytest.MonkeyPatch, verb: str, seconds: float
) -> None:
    """Let a verb of the repository be done at once, and answered later."""
    done = getattr(beating.repository, verb)

    def late(*arguments: Any, **options: Any) -> Any:
        answer = done(*arguments, **options)
        beating.now += seconds
        return answer

    monkeypatch.setattr(beating.repository, verb, late)


def test_a_lease_counts_from_the_sending_of_a_renewal(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others see the count before this server has the answer."""
    answering_late(beating, monkeypatch, "renew", 8.5)
    beating.heartbeat.beat()
    assert beating.heartbeat.age == 8.5
    assert not beating.heartbeat.overdue
    answering_late(beating, monkeypatch, "renew", LEASE)
    beating.heartbeat.beat()
    assert beating.heartbeat.overdue


def test_a_lease_counts_from_the_sending_of_the_registration(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering_late(beating, monkeypatch, "open", 4)
    store = RegisteredStore(beating.repository, SCOPE, server("one"), logging.getLogger("tests"))
    store.open(local_sessions=beating.held, on_renewed=beating.after)
    assert store.lease.age == 4
    store.close(None)


def test_servers_do_not_begin_to_count_alike() -> None:
    counts = {heartbeat.this_server("n", "s", 90).renewals for _ in range(20)}
    assert len(counts) > 10


def until(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not question():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# --------------------------------------------------------------------- the manager


@pytest.mark.parametrize("seconds", [-1, 0, 2, 86_401])
def test_an_unusable_lease_is_refused(seconds: int) -> None:
    with pytest.raises(TraitError, match=r"PersistentSessionManager\.lease_seconds"):
        make_manager(lease_seconds=seconds)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan"), float("inf")])
def test_an_unusable_claim_timeout_is_refused(seconds: float) -> None:
    with pytest.raises(TraitError, match=r"PersistentSessionManager\.claim_timeout"):
        make_manager(claim_timeout=seconds)


async def test_a_lease_is_renewed_without_the_event_loop(tmp_path: Any) -> None:
    url = str(tmp_path / "sessions.db")
    manager = make_manager(url, lease_seconds=3)
    await manager.list_sessions()
    began = servers_of(manager)[manager.server_id].renewals
    # The loop stands still meanwhile.
    until(lambda: servers_of(manager)[manager.server_id].renewals > began + 2)
    manager.close()


def servers_of(manager: Any) -> dict[str, ServerRecord]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(manager.database_filepath)) as connection:
        rows = connection.execute(
            "SELECT namespace, server_id, hostname, pid, version, started_at, renewals,"
            " lease_seconds FROM jupyter_servers"
        ).fetchall()
    return {row[1]: ServerRecord(*row) for row in rows}


async def test_a_server_is_registered_while_it_runs(tmp_path: Any) -> None:
    url = str(tmp_path / "sessions.db")
    manager = make_manager(url)
    (registered,) = servers_of(manager).values()
    assert registered.server_id == manager.server_id
    assert registered.lease_seconds == 90
    assert registered.pid is not None
    manager.close()
    assert servers_of(manager) == {}


async def test_who_was_evicted_answers_from_memory_and_has_its_rows_back(tmp_path: Any) -> None:
    """A client that reads right after a suspension must not find its sessions gone."""
    url = str(tmp_path / "sessions.db")
    kernels = DummyKernelManager()
    manager = make_manager(url, kernels)
    model = await manager.create_session(**NOTEBOOK)
    before = await stored(manager)
    other = make_manager(url, namespace=manager.namespace)
    seen = [
        s
        for s in other.store.renew(server(other.server_id, manager.namespace), [], timeout=5)
        if s.server_id == manager.server_id
    ]
    other.store.evict(other.scope, seen, other.server_id, timeout=5)
    assert await stored(manager) == []
    # As if the whole process had stood still.
    manager.lease._renewed -= manager.lease_seconds + 1
    assert await manager.list_sessions() == [model]
    await assert_equal_after_renewal(manager)
    assert await stored(manager) == before
    assert sorted(servers_of(manager)) == sorted([manager.server_id, other.server_id])
    other.close()
    manager.close()


@pytest.mark.parametrize("request_", ["delete", "rename", "move"])
async def test_whatever_is_asked_first_after_a_suspension_finds_its_session(
    tmp_path: Any, request_: str
) -> None:
    url = str(tmp_path / "sessions.db")
    manager = make_manager(url)
    model = await manager.create_session(**NOTEBOOK)
    # Evicted, and its sessions removed.
    await manager.store.remove(manager.scope, await stored(manager))
    manager.store.close(Departure(manager.scope, manager.server_id, frozenset()))
    manager.store.open(manager.scope, server("other", manager.namespace), timeout=30)
    manager.lease._renewed -= manager.lease_seconds + 1
    if request_ == "delete":
        await manager.delete_session(model["id"])
        assert await stored(manager) == []
    elif request_ == "rename":
        assert (await manager.change_session(model["id"], path="b"))["path"] == "b"
    else:
        moved = await manager.change_session(model["id"], kernel_name="other")
        assert moved["kernel"]["name"] == "other"
    await assert_equal_after_renewal(manager)
    assert len(await stored(manager)) == (request_ != "delete")
    manager.close()


async def test_without_the_store_an_overdue_lease_answers_unavailable(tmp_path: Any) -> None:
    """Where others use the kernels too: what it would say may not be so any more."""
    manager = shared_manager(str(tmp_path / "sessions.db"))
    await manager.list_sessions()
    manager.store.renew = raising(StoreUnavailable("test"))  # type: ignore[method-assign]
    manager.lease._renewed -= manager.lease_seconds + 1
    with pytest.raises(StoreUnavailable):
        await manager.list_sessions()
    del manager.store.renew
    assert await manager.list_sessions() == []
    manager.close()


async def test_an_overdue_lease_is_nothing_to_local_kernels(tmp_path: Any) -> None:
    manager = make_manager(str(tmp_path / "sessions.db"))
    model = await manager.create_session(**NOTEBOOK)
    with store_away(manager):
        manager.lease._renewed -= manager.lease_seconds + 1
        assert await manager.list_sessions() == [model]
        renamed = await manager.change_session(model["id"], path="b")
        other = await manager.create_session(path="c", type="file")
        assert await manager.list_sessions() == [renamed, other]
    await assert_equal_after_renewal(manager)
    assert not manager.lease.overdue
    manager.close()


async def test_who_is_evicted_before_its_renewal_is_answered_knows_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "sessions.db")
    passed = 0.0
    real = heartbeat.now
    monkeypatch.setattr(heartbeat, "now", lambda: real() + passed)
    manager = shared_manager(url, lease_seconds=3600)
    model = await manager.create_session(**NOTEBOOK)
    renew = manager.store.renew

    def late(*arguments: Any, **options: Any) -> Any:
        nonlocal passed
        answer = renew(*arguments, **options)
        passed += 3601
        return answer

    manager.store.renew = late  # type: ignore[method-assign]
    await asyncio.wrap_future(manager.lease.renew_now())
    del manager.store.renew
    other = shared_manager(url)
    evicted = [one for one in servers_of(manager).values() if one.server_id == manager.server_id]
    other.store.evict(other.scope, evicted, other.server_id, timeout=5)
    assert list(servers_of(manager)) == [other.server_id]
    # Before it answers: what it writes from now on would be taken for left behind.
    assert await manager.list_sessions() == [model]
    assert sorted(servers_of(manager)) == sorted([manager.server_id, other.server_id])
    other.close()
    manager.close()


async def test_a_renewal_that_fails_later_than_anybody_waits_is_not_told_twice(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a lock that is held for longer than the lease."""
    said: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: said.append(context["message"]))
    manager = shared_manager(str(tmp_path / "sessions.db"))
    await manager.list_sessions()
    monkeypatch.setattr(registered_store, "RENEWAL_TIMEOUT", 0.05)
    locked = threading.Event()

    def fail(*_: Any, **__: Any) -> Any:
        locked.wait(30)
        raise StoreUnavailable("test")

    manager.store.renew = fail  # type: ignore[method-assign]
    manager.lease._renewed -= manager.lease_seconds + 1
    # Not the errors themselves, whose tracebacks would keep what they waited for.
    asked = map(
        type,
        await asyncio.gather(*(manager.list_sessions() for _ in range(3)), return_exceptions=True),
    )
    assert all(issubclass(kind, StoreUnavailable) for kind in asked)
    locked.set()
    # Until both renewals, the one that the first has begun and the one for the others, have failed.
    await asyncio.to_thread(until, lambda: manager.lease.failing and not manager.lease._waiting)
    del manager.store.renew
    # A renewal takes longer than that on a busy machine.
    monkeypatch.undo()
    # The thread keeps those that it has told until it tells others.
    assert await manager.list_sessions() == []
    gc.collect()
    await asyncio.sleep(0)
    assert said == []
    manager.close()


async def test_a_heartbeat_ends_with_its_manager(tmp_path: Any) -> None:
    before = set(threading.enumerate())
    manager = make_manager(str(tmp_path / "sessions.db"))
    await manager.list_sessions()
    manager.close()
    # Not their number: one that an earlier test has left may end meanwhile.
    assert set(threading.enumerate()) <= before
    await asyncio.sleep(0)
