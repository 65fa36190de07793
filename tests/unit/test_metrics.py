"""What is counted of the store: each operation, how it ended, and what nobody else keeps."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from jupyter_session_store.errors import (
    GatewayUnavailable,
    InvalidValue,
    PathClaimed,
    SchemaMismatch,
    SessionConflict,
    StoreUnavailable,
)
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.records import READY, STARTING, Departure, Scope, StoreDescription
from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.schema import versions
from jupyter_session_store.telemetry import metrics
from jupyter_session_store.telemetry.metered import MeteredRepository
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database
from tests.unit.dummies import (
    NOTEBOOK,
    SHARED,
    DummyKernelManager,
    make_manager,
    raising,
    renewed,
    shared_manager,
)
from tests.unit.test_round_trips import ALLOWED, each_verb

SETTINGS: dict[str, Any] = {
    "options": {},
    "auto_upgrade": "safe",
    "log": logging.getLogger("tests"),
}
#: Those of the contract, but for its beginning and end and what describes; a default in the
#: contract makes no exception.
VERBS: Final = sorted(
    {name for name in vars(SessionRepository) if not name.startswith("_")}
    - {"default_url", "validate_url", "open", "close", "identity", "describe", "revision"}
    - {"read_all", "connection_idle_seconds"}
)
#: So that no heartbeat comes between.
LONG_LEASE = 86_400


def value(name: str, **labels: str) -> float:
    """Return a sample; 0 if there is none."""
    return REGISTRY.get_sample_value(f"jupyter_session_store_{name}", labels) or 0


def counted(verb: str, outcome: str) -> float:
    labels = {"verb": verb, "outcome": outcome}
    found = REGISTRY.get_sample_value("jupyter_session_store_operations_total", labels)
    assert found is not None, "A series that begins at its first event shows no increase by it."
    return found


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"jupyter_session_store_{name}")


def sessions_shown() -> dict[str, float]:
    """Return how many sessions are shown, by the label of their scope."""
    return {
        sample.labels["scope"]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "jupyter_session_store_sessions"
    }


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no store that another test has left in this process."""
    monkeypatch.setattr(metrics, "_meters", [])


@pytest.fixture(autouse=True)
def nobody_else() -> None:
    """Wait for the heartbeats of other tests to end: the counters are the process's."""
    beating = [
        thread
        for thread in threading.enumerate()
        if thread.name == "jupyter_session_store heartbeat"
    ]
    if beating:
        # One ends with its manager, which may have left itself in a cycle.
        gc.collect()
    for thread in beating:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def inner() -> MemorySessionRepository:
    return MemorySessionRepository(":memory:", **SETTINGS)


@pytest.fixture
def store(inner: MemorySessionRepository) -> Iterator[MeteredRepository]:
    store = MeteredRepository(inner)
    store.open(SCOPE, server("one", SCOPE.namespace), timeout=5)
    yield store
    store.close()


def shown_verbs(collector: Collector) -> set[str]:
    return {one.labels["verb"] for family in collector.collect() for one in family.samples}


def verbs_of(store: SessionRepository) -> dict[str, Callable[[], Any]]:
    here = server("one", SCOPE.namespace)
    one = record("a")
    return {
        "find": lambda: store.find(SCOPE),
        "add": lambda: store.add(one),
        "update": lambda: store.update(SCOPE, "a", {"name": "n"}),
        "begin_close": lambda: store.begin_close(SCOPE, "a", "one"),
        "move": lambda: store.move(SCOPE, "a", "k", {"kernel_id": "l"}),
        "remove": lambda: store.remove(SCOPE, [one]),
        "renew": lambda: store.renew(here, [], timeout=5),
        "evict": lambda: store.evict(SCOPE, [], "one", timeout=5),
        "mirror": lambda: store.mirror(SCOPE, lambda: [one]),
        "mirror_change": lambda: store.mirror_change(one, one.replace(name="n", version=9)),
    }


async def call(verb: Callable[[], Any]) -> Any:
    result = verb()
    return await result if isinstance(result, Awaitable) else result


def test_every_verb_of_the_contract_is_measured() -> None:
    assert shown_verbs(metrics.operations) == shown_verbs(metrics.durations) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
async def test_an_operation_is_counted_and_timed(store: MeteredRepository, verb: str) -> None:
    ok, took = counted(verb, "ok"), value("operation_duration_seconds_count", verb=verb)
    await call(verbs_of(store)[verb])
    assert counted(verb, "ok") == ok + 1
    assert value("operation_duration_seconds_count", verb=verb) == took + 1
    assert shown("up") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "up"),
    [
        (StoreUnavailable("test"), "unavailable", 0),
        (GatewayUnavailable("test"), "unavailable", 0),
        (SchemaMismatch("test"), "schema_mismatch", 0),
        (SessionConflict("a"), "conflict", 1),
        (PathClaimed("a"), "claimed", 1),
        (InvalidValue("path", "x", "y"), "invalid", 1),
        (asyncio.CancelledError(), "cancelled", None),
        (RuntimeError("test"), "error", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("verb", VERBS)
async def test_how_an_operation_ended_is_counted(
    store: MeteredRepository,
    inner: MemorySessionRepository,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    error: BaseException,
    outcome: str,
    up: float | None,
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    before = {one: counted(verb, one) for one in metrics.OUTCOMES}
    took = value("operation_duration_seconds_count", verb=verb)
    blocking = verb in ("renew", "evict")
    monkeypatch.setattr(inner, verb, raising(error) if blocking else fail)
    with pytest.raises(type(error)):
        await call(verbs_of(store)[verb])
    after = {one: counted(verb, one) for one in metrics.OUTCOMES}
    assert after == {**before, outcome: before[outcome] + 1}
    assert value("operation_duration_seconds_count", verb=verb) == took + 1
    # What says nothing of the store leaves open whether it is up.
    assert shown("up") == up


async def test_a_store_that_is_back_is_up_again(
    store: MeteredRepository, inner: MemorySessionRepository
) -> None:
    inner.close()
    with pytest.raises(StoreUnavailable):
        await store.find(SCOPE)
    assert shown("up") == 0
    inner.open(SCOPE, server("one", SCOPE.namespace), timeout=5)
    await store.find(SCOPE)
    assert shown("up") == 1


async def test_the_sessions_are_those_of_the_last_renewal_or_list(
    store: MeteredRepository,
) -> None:
    here = metrics.scope_label(SCOPE)
    assert sessions_shown() == {}
    for name in ("a", "b"):
        await store.add(record(name))
    await store.add(record("guard", path=None, state=STARTING))
    await store.add(record("elsewhere", SHARED))
    assert await store.find(SCOPE, session_id="a") == [record("a")]
    assert await store.find(SHARED) == [record("elsewhere", SHARED)]
    assert sessions_shown() == {}, "that was no list of them"
    await store.find(SCOPE)
    assert sessions_shown() == {here: 2}
    await store.remove(SCOPE, [record("a")])
    assert sessions_shown() == {here: 2}, "no statement is sent for it"
    store.renew(server("one", SCOPE.namespace), [], timeout=5)
    assert sessions_shown() == {here: 1}
    await store.remove(SCOPE, [record("b")])
    await store.find(SCOPE)
    assert sessions_shown() == {here: 0}


async def test_a_renewal_counts_what_replicas_share_whoever_has_listed_it(
    database: Database,
) -> None:
    """No statement more: the one that reads the leases counts, too."""
    stores = [SQLAlchemySessionRepository(database.url, **SETTINGS) for _ in range(2)]
    for number, store in enumerate(stores):
        store.open(SHARED, server(f"{number}", SHARED.namespace), timeout=30)
    await stores[0].add(record("a", SHARED))
    await stores[0].add(record("guard", SHARED, path=None, state=STARTING))
    await stores[0].add(record("beside", Scope(SHARED.namespace, "gateway:other")))
    assert stores[1].describe().sessions is None
    # Its first reads all of each server, and each further one their leases.
    for expected in (1, 2, 3):
        before = stores[1].describe().statements
        found = stores[1].renew(server("1", SHARED.namespace), [], timeout=30)
        assert {one.server_id for one in found} == {"0", "1"}
        assert stores[1].describe().sessions == expected
        assert stores[1].describe().statements == before + (3 if expected == 1 else 2)
        await stores[0].add(record(f"more {expected}", SHARED))
    for store in stores:
        store.close()


async def test_two_managers_are_added_up_and_nothing_counted_is_lost(tmp_path: Any) -> None:
    before = value("statements_total")
    one = make_manager(str(tmp_path / "one.db"), lease_seconds=LONG_LEASE)
    two = make_manager(str(tmp_path / "two.db"), lease_seconds=LONG_LEASE)
    await one.create_session(**NOTEBOOK)
    for manager in (one, two, two):
        await manager.create_session(**NOTEBOOK)
    for manager in (one, two):
        await renewed(manager)
    assert (shown("up"), sum(sessions_shown().values())) == (1, 4)
    assert isinstance(two.store, MeteredRepository)
    two.store._meter.up = False
    assert shown("up") == 0, "one of them is away"
    two.close()
    assert (shown("up"), sum(sessions_shown().values())) == (1, 2)
    one.close()
    one.close()
    assert (shown("up"), sessions_shown()) == (None, {})
    after = value("statements_total")
    assert after > before
    del one, two, manager
    gc.collect()
    assert value("statements_total") == after, "a counter never falls"


async def test_a_manager_that_is_dropped_leaves_its_counts(tmp_path: Any) -> None:
    manager = make_manager(str(tmp_path / "a.db"), lease_seconds=LONG_LEASE)
    await manager.list_sessions()
    before = value("statements_total")
    del manager
    gc.collect()
    assert value("statements_total") >= before
    assert (shown("up"), sessions_shown()) == (None, {})


async def test_the_statements_are_those_that_go_over_the_wire(database: Database) -> None:
    manager = make_manager(database.url, lease_seconds=LONG_LEASE)
    session = await manager.create_session(path="first.ipynb", type="notebook", name="")
    sent = {}
    for name, verb in each_verb(manager, session["id"]).items():
        before = value("statements_total")
        await verb()
        sent[name] = value("statements_total") - before
    assert sent == ALLOWED
    manager.close()


async def test_many_rows_in_one_statement_are_one_statement(database: Database) -> None:
    """Not only what is executed with parameters, and singly, is counted."""
    repository = SQLAlchemySessionRepository(database.url, **SETTINGS)
    repository.open(SCOPE, server("one", SCOPE.namespace), timeout=30)
    before = repository.describe().statements
    rows = [{"n": 1}, {"n": 2}]

    def send() -> None:
        from sqlalchemy import text

        with repository._database.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            connection.execute(text("DELETE FROM jupyter_servers WHERE lease_seconds = :n"), rows)

    assert repository._worker is not None
    repository._worker.submit(repository._database.release).result(30)
    repository._worker.submit(send).result(30)
    assert repository.describe().statements == before + 2
    repository.close()


@pytest.mark.parametrize("kind_of_store", ["memory", "database"])
async def test_of_two_who_evict_one_server_one_counts_it(
    request: pytest.FixtureRequest, database: Database, kind_of_store: str
) -> None:
    observers: list[SessionRepository]
    if kind_of_store == "memory":
        observers = [MemorySessionRepository(":memory:", **SETTINGS)]
    else:
        observers = [SQLAlchemySessionRepository(database.url, **SETTINGS) for _ in range(2)]
    before = value("evictions_total")
    stores = [MeteredRepository(observer) for observer in observers]
    for number, store in enumerate(stores):
        store.open(SCOPE, server(f"{number}", SCOPE.namespace), timeout=30)
    dead = server("dead", SCOPE.namespace)
    seen = [one for one in stores[0].renew(dead, [], timeout=30) if one.server_id == "dead"]
    for number, store in enumerate([*stores, stores[0]]):
        store.evict(SCOPE, seen, f"{number}", timeout=30)
    assert value("evictions_total") == before + 1
    assert sum(store.describe().evictions for store in stores) == 1
    # Who renewed in time was not evicted.
    stores[0].renew(dead, [], timeout=30)
    seen = [one for one in stores[0].renew(dead, [], timeout=30) if one.server_id == "dead"]
    stores[0].renew(dead, [], timeout=30)
    stores[-1].evict(SCOPE, seen, "0", timeout=30)
    for store in stores:
        store.close()
    assert value("evictions_total") == before + 1


async def test_what_becomes_of_a_renewal_is_counted(database: Database) -> None:
    manager = make_manager(database.url, lease_seconds=LONG_LEASE)
    await manager.list_sessions()

    def renewals() -> list[float]:
        return [value("renewals_total", outcome=outcome) for outcome in metrics.RENEWALS]

    ok, registered, failed = renewals()
    await asyncio.wrap_future(manager.lease.renew_now())
    assert renewals() == [ok + 1, registered, failed]
    # As if others had taken it for dead.
    me = [
        one
        for one in manager.store.renew(manager.lease.server, [], timeout=30)
        if one.server_id == manager.server_id
    ]
    assert renewals() == [ok + 2, registered, failed]
    manager.store.evict(manager.scope, me, "another", timeout=30)
    await asyncio.wrap_future(manager.lease.renew_now())
    assert renewals() == [ok + 2, registered + 1, failed]
    manager.store.close()
    with pytest.raises(StoreUnavailable):
        await asyncio.wrap_future(manager.lease.renew_now())
    assert renewals() == [ok + 2, registered + 1, failed + 1]
    manager.close()


async def test_requests_that_wait_for_another_here_are_counted(
    manager: PersistentSessionManager, kernels: DummyKernelManager
) -> None:
    before = value("claim_waits_total")
    kernels.starting.clear()
    asked = [asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK)) for _ in range(5)]
    await asyncio.sleep(0.05)
    kernels.starting.set()
    assert len({model["id"] for model in await asyncio.gather(*asked)}) == 1
    assert value("claim_waits_total") == before + 4, "all but the one that creates it"
    await manager.get_or_create_session(**NOTEBOOK)
    assert value("claim_waits_total") == before + 4


async def test_a_request_that_waits_for_another_server_is_counted_once(tmp_path: Any) -> None:
    manager = shared_manager(str(tmp_path / "a.db"), lease_seconds=LONG_LEASE)
    before = value("claim_waits_total")
    path = NOTEBOOK["path"]
    theirs = record("theirs", SHARED, path=path, state=STARTING, kernel_id=None, server_id="two")
    manager.store.renew(server("two", SHARED.namespace), [], timeout=30)
    await manager.store.add(theirs)
    asked = asyncio.ensure_future(manager.get_or_create_session(**NOTEBOOK))
    finds = counted("find", "ok")
    for _ in range(2000):
        if counted("find", "ok") >= finds + 4:
            break
        await asyncio.sleep(0.005)
    else:
        raise AssertionError("it does not wait")
    kernel_id = await manager.kernel_manager.start_kernel()
    await manager.store.update(SHARED, "theirs", {"kernel_id": kernel_id, "state": READY})
    assert (await asked)["id"] == "theirs"
    assert value("claim_waits_total") == before + 1
    manager.close()


async def test_the_series_do_not_grow_with_what_is_stored(tmp_path: Any) -> None:
    def series() -> set[tuple[str, ...]]:
        return {
            (sample.name, *sorted(sample.labels.values()))
            for family in REGISTRY.collect()
            if family.name.startswith("jupyter_session_store")
            for sample in family.samples
        }

    manager = make_manager(str(tmp_path / "a.db"), namespace="a")
    other = make_manager(str(tmp_path / "a.db"), namespace="b")
    await manager.create_session(**NOTEBOOK)
    await manager.list_sessions()
    before = series()
    for each in (manager, other):
        for number in range(20):
            await each.create_session(path=f"{number}.ipynb", type="notebook", name="")
        await each.list_sessions()
    assert series() == before
    for each in (manager, other):
        each.close()


class Simple(MemorySessionRepository):
    """A repository of somebody who knows nothing of these counts."""

    describe = SessionRepository.describe
    revision = SessionRepository.revision


async def test_a_repository_that_counts_nothing_is_measured_too() -> None:
    simple = Simple(":memory:", **SETTINGS)
    assert simple.describe() == StoreDescription("Simple")
    assert await simple.revision() is None
    store = MeteredRepository(simple)
    store.open(SCOPE, server("one", SCOPE.namespace), timeout=5)
    before = counted("add", "ok")
    await store.add(record("a"))
    assert counted("add", "ok") == before + 1
    store.close(Departure(SCOPE, "one", frozenset()))


async def test_what_a_repository_says_of_itself(database: Database) -> None:
    repository = SQLAlchemySessionRepository(database.url, **SETTINGS)
    store = MeteredRepository(repository)
    store.open(SCOPE, server("one", SCOPE.namespace), timeout=30)
    shown = store.describe().backend
    assert shown.lower().startswith(database.kind if database.kind != "mysql" else "m")
    assert database.url not in shown
    assert await store.revision() == versions.HEAD
    # As it is now, and not as it was found.
    database.execute("UPDATE jupyter_session_store_version SET version_num = 'later'")
    assert await store.revision() == "later"
    store.close()
    assert replace(store.describe(), statements=0) == StoreDescription(shown)


async def test_the_measured_class_is_asked_for_its_urls() -> None:
    with pytest.raises(NotImplementedError):
        MeteredRepository.default_url("/")
    with pytest.raises(NotImplementedError):
        MeteredRepository.validate_url(":memory:")
