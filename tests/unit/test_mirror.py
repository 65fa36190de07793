"""Sessions on a server's own kernels: memory is the truth, and the store its mirror."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from sqlalchemy import event
from tornado import web

from jupyter_session_store.errors import (
    InvalidValue,
    SchemaMismatch,
    SessionConflict,
    StoreUnavailable,
)
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import SessionRecord
from jupyter_session_store.sessions import mirror as mirrors
from jupyter_session_store.sessions.http_errors import raises_http
from jupyter_session_store.testing import record, server
from tests.databases import Database
from tests.unit.dummies import (
    assert_equal_after_renewal,
    failing,
    in_memory,
    kernels_of,
    make_manager,
    renewed,
    settle,
    store_away,
    stored,
)

log = logging.getLogger("test_mirror")


@pytest.fixture(params=["database", "memory"])
def manager(request: pytest.FixtureRequest, database: Database) -> Iterator[Any]:
    if request.param == "memory":
        manager = make_manager(repository="memory", log=log)
    else:
        manager = make_manager(database.url, log=log)
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


@pytest.fixture
def of_database(database: Database) -> Iterator[PersistentSessionManager]:
    manager = make_manager(database.url, log=log)
    yield manager
    manager.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request wait for the store for no more time than the test does."""
    monkeypatch.setattr(mirrors, "PATIENCE", 0.05)


async def create(manager: PersistentSessionManager, path: str, **how: Any) -> dict[str, Any]:
    return await manager.create_session(path=path, type="notebook", name="", **how)


@raises_http
async def rename_id(manager: PersistentSessionManager, session_id: str, new: str) -> None:
    """Give a session another id: a column that can be changed, if not through Jupyter's own API."""
    await manager.sessions.update(session_id, {"session_id": new})


def ids(models: list[dict[str, Any]]) -> list[str]:
    return [model["id"] for model in models]


def sent_by(manager: PersistentSessionManager) -> int:
    """Return how many statements the repository has sent so far."""
    return manager.store.describe().statements


# ------------------------------------------------------------------ what is sent


async def test_changes_send_one_statement_and_reads_none(
    database: Database, of_database: PersistentSessionManager
) -> None:
    manager = of_database
    await create(manager, "first")
    sent: dict[str, int] = {}

    async def count(name: str, verb: Awaitable[Any]) -> Any:
        before = sent_by(manager)
        result = await verb
        sent[name] = sent_by(manager) - before
        return result

    model = await count("create", create(manager, "a"))
    one = model["id"]
    await count("exists", manager.session_exists("a"))
    for column in ("session_id", "path", "name", "type"):
        value = {"session_id": one, "path": "a", "name": "", "type": "notebook"}[column]
        await count(f"get by {column}", manager.get_session(**{column: value}))
    await count("get by kernel_id", manager.get_session(kernel_id=model["kernel"]["id"]))
    await count("list", manager.list_sessions())
    await count("count", manager.count_sessions())
    await count("update", manager.update_session(one, path="b", name="n"))
    await count("update to the same", manager.update_session(one, path="b"))
    await count("move", manager.change_session(one, kernel_name="other"))
    await count("get or create", manager.get_or_create_session(path="b", type="notebook", name=""))
    await count("delete", manager.delete_session(one))
    changes = {"create", "update", "update to the same", "move", "delete"}
    assert sent == {name: int(name in changes) for name in sent}
    assert await stored(manager) == in_memory(manager)


async def test_a_renewal_with_nothing_new_sends_two_statements(
    of_database: PersistentSessionManager,
) -> None:
    manager = of_database
    models = [await create(manager, f"{i}") for i in range(5)]
    await manager.update_session(models[0]["id"], path="renamed")
    await manager.delete_session(models[1]["id"])
    # The first also looks for what servers left that were not evicted.
    await renewed(manager)
    for _ in range(3):
        before = sent_by(manager)
        await renewed(manager)
        assert sent_by(manager) - before == 2
    # Nor does it after a change: what that has stored is known.
    await create(manager, "new")
    await manager.update_session(models[2]["id"], name="n")
    await manager.delete_session(models[3]["id"])
    before = sent_by(manager)
    await renewed(manager)
    assert sent_by(manager) - before == 2
    assert await stored(manager) == in_memory(manager)


async def test_what_kernels_do_is_written_once_a_renewal_however_many_they_are(
    of_database: PersistentSessionManager,
) -> None:
    manager, kernels = of_database, kernels_of(of_database)
    for i in range(20):
        await create(manager, f"{i}")
    await renewed(manager)
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement.split(maxsplit=1)[0])

    repository: Any = manager.store
    engine = repository._measured._database.engine
    for number in (1, 20):
        for kernel_id in kernels.list_kernel_ids()[:number]:
            kernel: Any = kernels.get_kernel(kernel_id)
            kernel.execution_state = "busy" if number == 1 else "starting"
        event.listen(engine, "before_cursor_execute", note)
        sent.clear()
        await renewed(manager)
        event.remove(engine, "before_cursor_execute", note)
        # The renewal's two, and one for all that kernels do.
        assert sent == ["UPDATE", "SELECT", "UPDATE"]
        rows = await stored(manager)
        assert rows == in_memory(manager)
        assert sum('"busy"' in str(row.kernel_model) for row in rows) == (number == 1)
    assert all('"starting"' in str(row.kernel_model) for row in rows)
    # Who looks on is no news.
    kernels._kernel_connections[kernels.list_kernel_ids()[0]] = 5
    before = sent_by(manager)
    await renewed(manager)
    assert sent_by(manager) - before == 2


# ------------------------------------------------------- a store that fails or hangs


async def a_day(manager: PersistentSessionManager) -> list[Any]:
    """Do with sessions what can be done; return the answers, without ids and times."""
    kernels = kernels_of(manager)
    known: dict[str, str] = {}

    def plain(model: dict[str, Any] | None) -> Any:
        if model is None:
            return None
        kernel = model["kernel"]
        known.setdefault(model["id"], f"session {len(known)}")
        known.setdefault(kernel["id"], f"kernel {len(known)}")
        shown = (known[model["id"]], model["path"], model["name"], model["type"])
        return (*shown, known[kernel["id"]], kernel["name"], kernel["execution_state"])

    told: list[Any] = []

    async def ask(verb: Awaitable[Any]) -> Any:
        try:
            result = await verb
        except web.HTTPError as error:
            told.append(error.status_code)
            return None
        told.append([plain(m) for m in result] if isinstance(result, list) else plain(result))
        return result

    one = await ask(manager.get_or_create_session(path="a", type="notebook", name=""))
    await ask(manager.get_or_create_session(path="a", type="notebook", name=""))
    two = await ask(create(manager, "b", kernel_id=one["kernel"]["id"]))
    await ask(manager.list_sessions())
    await ask(manager.change_session(one["id"], path="c", name="c"))
    await ask(manager.change_session(two["id"], path="c"))
    await ask(manager.get_session(path="c"))
    await ask(manager.change_session(one["id"], kernel_name="other"))
    await ask(manager.get_session(session_id=one["id"]))
    await ask(manager.delete_session(two["id"]))
    await ask(manager.delete_session(two["id"]))
    await ask(rename_id(manager, one["id"], f"{one['id']}-new"))
    await ask(manager.get_session(session_id=one["id"]))
    await ask(manager.list_sessions())
    three = await ask(create(manager, "d"))
    kernels.die(three["kernel"]["id"])
    await ask(manager.list_sessions())
    await ask(manager.get_session(session_id=three["id"]))
    await ask(manager.delete_session(f"{one['id']}-new"))
    await ask(manager.list_sessions())
    told.append(sorted(known.get(one, one) for one in kernels.shut_down[-2:]))
    await ask(create(manager, "left"))
    return told


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("test"), SchemaMismatch("test"), ValueError("test")],
    ids=lambda error: type(error).__name__,
)
async def test_a_store_that_fails_changes_no_answer(
    manager: PersistentSessionManager, error: Exception
) -> None:
    expected = await a_day(manager)
    for model in await manager.list_sessions():
        await manager.delete_session(model["id"])
    before = len(kernels_of(manager).started)
    with store_away(manager, error):
        assert await a_day(manager) == expected
        await settle(manager)
        assert await stored(manager) == []
        assert manager.sessions.unsynchronized > 0
    await assert_equal_after_renewal(manager)
    assert [row.path for row in await stored(manager)] == ["left"]
    assert len(kernels_of(manager).started) == 2 * before
    assert len(kernels_of(manager).list_kernel_ids()) == 1


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Lock the sessions' table, so that who writes to it waits."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        if database.kind == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        elif database.kind == "postgresql":
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE jupyter_sessions IN EXCLUSIVE MODE")
        else:
            cursor.execute("LOCK TABLES jupyter_sessions WRITE")
        try:
            yield
        finally:
            cursor.execute("UNLOCK TABLES" if database.kind == "mysql" else "ROLLBACK")


async def until_equal(manager: PersistentSessionManager) -> None:
    """Wait until what was locked is done, or given up, and a renewal has succeeded."""
    for _ in range(100):
        with suppress(StoreUnavailable):
            await renewed(manager)
            if manager.sessions.unsynchronized == 0:
                break
        await asyncio.sleep(0.1)
    assert await stored(manager) == in_memory(manager)


async def test_a_store_that_hangs_is_not_waited_for(
    database: Database, of_database: PersistentSessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = of_database
    kept = await create(manager, "kept")
    gone = await create(manager, "gone")
    # Only from now on: who stores late before is renewed for at once, and then nothing fails.
    monkeypatch.setattr(mirrors, "PATIENCE", 0.05)
    with locked(database):
        new = await create(manager, "new")
        renamed = await manager.change_session(kept["id"], path="renamed")
        await manager.delete_session(gone["id"])
        assert await manager.list_sessions() == [renamed, new]
        assert manager.sessions.unsynchronized == 3
        assert manager.lease.failing
        assert [model["id"] for model in await manager.list_sessions()] == [kept["id"], new["id"]]
    await until_equal(manager)
    assert [(row.session_id, row.path) for row in await stored(manager)] == [
        (kept["id"], "renamed"),
        (new["id"], "new"),
    ]


@pytest.mark.parametrize("made", [True, False])
async def test_what_hangs_and_is_done_or_fails_later_is_put_right(
    manager: PersistentSessionManager, impatient: None, made: bool
) -> None:
    go, add = asyncio.Event(), manager.store.add

    async def hang(added: SessionRecord) -> None:
        await go.wait()
        if made:
            await add(added)
        raise StoreUnavailable("test")

    manager.store.add = hang  # type: ignore[method-assign, assignment]
    model = await create(manager, "a")
    await manager.update_session(model["id"], path="b")
    other = await create(manager, "c")
    await manager.delete_session(other["id"])
    assert manager.sessions.unsynchronized == 2
    assert await stored(manager) == []
    go.set()
    del manager.store.add
    await assert_equal_after_renewal(manager)
    assert [row.path for row in await stored(manager)] == ["b"]


async def test_who_goes_away_while_the_store_hangs_changes_nothing(
    manager: PersistentSessionManager,
) -> None:
    go, add = asyncio.Event(), manager.store.add

    async def hang(added: SessionRecord) -> None:
        await go.wait()
        await add(added)

    manager.store.add = hang  # type: ignore[method-assign, assignment]
    asked = asyncio.ensure_future(manager.get_or_create_session(path="a", type="notebook", name=""))
    while not in_memory(manager):  # noqa: ASYNC110 (steps of the loop are what counts)
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.sleep(0)
    go.set()
    del manager.store.add
    await settle(manager)
    await assert_equal_after_renewal(manager)
    assert [model["path"] for model in await manager.list_sessions()] == ["a"]
    assert kernels_of(manager).shut_down == []


async def test_a_store_that_takes_renewals_and_no_sessions_is_not_asked_without_end(
    manager: PersistentSessionManager,
) -> None:
    """As where the sessions' table alone cannot be written."""
    renewals: list[int] = []
    renew = manager.store.renew

    def counted(*arguments: Any, **options: Any) -> Any:
        renewals.append(1)
        return renew(*arguments, **options)

    manager.store.renew = counted  # type: ignore[method-assign]
    for verb in ("add", "mirror_change", "remove", "mirror"):
        failing(manager, verb, StoreUnavailable("test"))
    model = await create(manager, "a")
    # Time enough for hundreds, were there no pause between them.
    await asyncio.sleep(1.5)
    assert len(renewals) <= 3
    assert manager.sessions.unsynchronized == 1
    for _ in range(500):
        if manager.lease.failing:
            break
        # A renewal has just succeeded, and what follows it has not failed yet.
        await asyncio.sleep(0.02)
    assert manager.lease.failing
    for verb in ("add", "mirror_change", "remove", "mirror", "renew"):
        delattr(manager.store, verb)
    await assert_equal_after_renewal(manager)
    assert ids(await manager.list_sessions()) == [model["id"]]


# ----------------------------------------------------- what the store refuses for good


def theirs(manager: PersistentSessionManager, session_id: str, **values: Any) -> SessionRecord:
    """Return a session of another server in the manager's namespace."""
    scope = type(manager.scope)(manager.scope.namespace, "server:another")
    return record(session_id, scope, server_id="another", **values)


async def put_theirs(manager: PersistentSessionManager, *records: SessionRecord) -> None:
    """Store sessions of another server, which is registered and lives."""
    manager.store.renew(server("another", manager.scope.namespace), [], timeout=30)
    for one in records:
        await manager.store.add(one)


async def test_an_id_that_another_server_has_is_refused(
    manager: PersistentSessionManager,
) -> None:
    model = await create(manager, "a")
    kernel_id = model["kernel"]["id"]
    other = theirs(manager, "taken")
    await put_theirs(manager, other)
    before = in_memory(manager)
    with pytest.raises(SessionConflict) as refused:
        await manager.save_session("taken", path="b", kernel_id=kernel_id)
    error: Any = refused.value
    assert error.status_code == 409
    with pytest.raises(SessionConflict):
        await rename_id(manager, model["id"], "taken")
    assert in_memory(manager) == before
    assert await manager.list_sessions() == [model]
    assert not await manager.session_exists("b")
    assert manager.sessions.unsynchronized == 0
    # What was taken back is nobody's: its path can be had.
    assert (await manager.get_or_create_session("b", "", "notebook"))["path"] == "b"
    await assert_equal_after_renewal(manager)
    assert await manager.store.find(other.scope) == [other]


async def test_an_id_that_turns_out_to_be_anothers_is_set_aside(
    manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    model = await create(manager, "a")
    kernel_id = model["kernel"]["id"]
    other = theirs(manager, "taken")
    await put_theirs(manager, other)
    with store_away(manager):
        saved = await manager.save_session("taken", path="b", kernel_id=kernel_id)
        beside = await create(manager, "c")
    caplog.set_level(logging.INFO, log.name)
    for _ in range(3):
        await renewed(manager)
        assert {row.session_id for row in await stored(manager)} == {model["id"], beside["id"]}
        assert await manager.list_sessions() == [model, saved, beside]
        assert manager.sessions.unsynchronized == 1
    assert caplog.text.count("refuses the session taken") == 1
    # Others are stored as ever meanwhile.
    await manager.update_session(beside["id"], path="d")
    assert {row.path for row in await stored(manager)} == {"a", "d"}
    # It is tried again when it changes: refused, or, under an id that is free, stored.
    with pytest.raises(SessionConflict):
        await manager.update_session("taken", path="e")
    assert (await manager.get_session(session_id="taken"))["path"] == "b"
    assert manager.sessions.unsynchronized == 1
    await rename_id(manager, "taken", "free")
    await assert_equal_after_renewal(manager)
    assert "free" in {row.session_id for row in await stored(manager)}
    assert await manager.store.find(other.scope) == [other]


def adopt(manager: PersistentSessionManager, kernel_id: str) -> None:
    """Take a session over that another server had."""
    local: Any = manager.sessions
    local._mirror.adopt(
        record("taken", manager.scope, server_id=manager.server_id, kernel_id=kernel_id)
    )


async def test_a_session_is_not_set_aside_before_its_former_server_is_evicted(
    manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewal that had begun before its adoption still finds the row of that server."""
    model = await create(manager, "a")
    await put_theirs(manager, theirs(manager, "taken"))
    adopt(manager, model["kernel"]["id"])
    await renewed(manager)
    assert manager.sessions.unsynchronized == 1
    manager.lease.note_ended({"another"})
    await assert_equal_after_renewal(manager)
    assert len(await stored(manager)) == 2
    assert "refuses" not in caplog.text


async def test_a_session_whose_former_server_is_not_evicted_is_set_aside(
    manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    model = await create(manager, "a")
    await put_theirs(manager, theirs(manager, "taken"))
    adopt(manager, model["kernel"]["id"])
    for _ in range(6):
        await renewed(manager)
    assert caplog.text.count("refuses the session taken") == 1


async def test_what_a_server_left_that_is_not_registered_goes_with_it(
    manager: PersistentSessionManager,
) -> None:
    model = await create(manager, "a")
    await renewed(manager)
    await manager.store.add(theirs(manager, "taken"))
    adopt(manager, model["kernel"]["id"])
    # Never this server itself, whose own kernels it may have found.
    manager.lease.note_ended({"another", manager.server_id})
    await assert_equal_after_renewal(manager)
    assert len(await stored(manager)) == 2
    assert manager.store.describe().evictions == 0


@pytest.fixture
def latin(database: Database) -> Iterator[Database]:
    """A database of PostgreSQL that does not have every character."""
    other = f"{urlsplit(database.url).path[1:]}_latin1"
    database.execute(
        f"CREATE DATABASE {other} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    yield Database("postgresql", urlsplit(database.url)._replace(path=f"/{other}").geturl())
    database.execute(f"DROP DATABASE {other} WITH (FORCE)")


EURO: Final = "\u20ac.ipynb"


@pytest.mark.only("postgresql", reason="the others store every text")
async def test_a_text_that_the_database_lacks_is_refused(latin: Database) -> None:
    manager = make_manager(latin.url, namespace="n", log=log)
    model = await create(manager, "a")
    before = in_memory(manager)
    with pytest.raises(InvalidValue) as refused:
        await create(manager, EURO)
    error: Any = refused.value
    assert error.status_code == 400
    with pytest.raises(InvalidValue):
        await manager.change_session(model["id"], path=EURO)
    with pytest.raises(InvalidValue):
        await manager.change_session(model["id"], kernel_name="other", name=EURO)
    assert in_memory(manager) == before
    assert await manager.list_sessions() == [model]
    assert kernels_of(manager).list_kernel_ids() == [model["kernel"]["id"]]
    # Nor is that a store that fails.
    assert not manager.lease.failing
    await create(manager, "b")
    assert [row.path for row in await stored(manager)] == ["a", "b"]
    await assert_equal_after_renewal(manager)
    manager.close()


@pytest.mark.only("postgresql", reason="the others store every text")
@pytest.mark.parametrize("evicted", [False, True])
async def test_a_text_that_turns_out_to_be_lacking_is_set_aside(
    latin: Database, caplog: pytest.LogCaptureFixture, evicted: bool
) -> None:
    manager = make_manager(latin.url, namespace="n", log=log)
    old = await create(manager, "old")
    with store_away(manager):
        new = await create(manager, EURO)
        renamed = await manager.change_session(old["id"], path=f"b {EURO}")
        other = await create(manager, "other")
    if evicted:
        # Who comes back puts back what it has.
        latin.execute("DELETE FROM jupyter_servers")
        latin.execute("DELETE FROM jupyter_sessions")
    caplog.set_level(logging.INFO, log.name)
    for _ in range(3):
        await renewed(manager)
        assert await manager.list_sessions() == [renamed, new, other]
        assert manager.sessions.unsynchronized == 2
        assert other["id"] in {row.session_id for row in await stored(manager)}
    assert caplog.text.count("refuses the session") == 2
    for one, path in ((old, "plain"), (new, "plain, too")):
        await manager.change_session(one["id"], path=path)
    await assert_equal_after_renewal(manager)
    assert {row.path for row in await stored(manager)} == {"plain", "plain, too", "other"}
    manager.close()
