"""Rule: one unit of work is one statement, counted on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.testing import server
from tests.databases.database import Database
from tests.unit.dummies import kernels_of, make_manager, renewed, shared_manager
from tests.wire import WireTap

#: What the design allows: reads are answered from memory.
ALLOWED = {"exists": 0, "list": 0, "get": 0, "update": 1, "create": 1, "delete": 1}


class Statements:
    """What a file has instead of a wire: the statements that reach SQLite."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    @property
    def round_trips(self) -> int:
        return len(self.statements)

    def reset(self) -> None:
        self.statements.clear()

    def url(self, database: Database) -> str:
        return database.url

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements.append(statement)


@pytest.fixture
def tap(database: Database) -> Iterator[WireTap | Statements]:
    if database.kind != "sqlite":
        with WireTap.to(database) as tap:
            yield tap
        return
    statements = Statements()
    event.listen(Engine, "before_cursor_execute", statements.note)
    yield statements
    event.remove(Engine, "before_cursor_execute", statements.note)


@pytest.fixture
def manager(database: Database, tap: WireTap | Statements) -> Iterator[PersistentSessionManager]:
    manager = make_manager(tap.url(database))
    yield manager
    manager.close()


def each_verb(
    manager: PersistentSessionManager, session_id: str
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what sends the statements that :data:`ALLOWED` counts, in an order that works.

    Parameters
    ----------
    manager : PersistentSessionManager
    session_id : str
        Of a session at the path ``first.ipynb``, which the last verb deletes.
    """
    return {
        "exists": lambda: manager.session_exists("first.ipynb"),
        "list": manager.list_sessions,
        "get": lambda: manager.get_session(session_id=session_id),
        "update": lambda: manager.update_session(session_id, path="renamed.ipynb"),
        "create": lambda: manager.create_session(path="new.ipynb", type="notebook", name=""),
        "delete": lambda: manager.delete_session(session_id),
    }


async def check_each(
    tap: WireTap | Statements,
    manager: PersistentSessionManager,
    allowed: Callable[[str], int],
) -> dict[str, list[str]]:
    """Check how many round trips each verb takes, and return its statements."""
    session = await manager.create_session(path="first.ipynb", type="notebook", name="")
    for i in range(3):
        await manager.create_session(path=f"{i}.ipynb", type="notebook", name="")
    counted = {}
    for name, verb in each_verb(manager, session["id"]).items():
        tap.reset()
        await verb()
        counted[name] = (tap.round_trips, list(tap.statements))
    for name, (trips, statements) in counted.items():
        assert trips == allowed(name), f"{name}: {statements}"
    return {name: statements for name, (_, statements) in counted.items()}


async def test_round_trips(
    database: Database, tap: WireTap | Statements, manager: PersistentSessionManager
) -> None:
    sent = await check_each(tap, manager, ALLOWED.__getitem__)
    for name, statements in sent.items():
        shouted = " ".join(statements).upper()
        for word in ("BEGIN", "COMMIT", "ROLLBACK", "SELECT 1"):
            assert word not in shouted, f"{name}: {statements}"


async def test_a_read_sends_nothing(
    tap: WireTap | Statements, manager: PersistentSessionManager
) -> None:
    kernels = kernels_of(manager)
    session = await manager.create_session(path="a.ipynb", type="notebook", name="")
    await manager.create_session(path="b.ipynb", type="notebook", name="")
    tap.reset()
    for _ in range(3):
        await manager.list_sessions()
        await manager.session_exists("a.ipynb")
        await manager.get_session(session_id=session["id"])
        await manager.count_sessions()
    assert tap.statements == []
    # Not even one that finds a kernel gone: its session is removed after it.
    for kernel_id in list(kernels.started):
        kernels.die(kernel_id)
    assert await manager.list_sessions() == []
    assert tap.statements == []
    await manager.tasks.wait()
    assert [text.split()[0] for text in tap.statements] == ["DELETE", "DELETE"]


async def test_a_read_with_a_gateway_writes_nothing(
    database: Database, tap: WireTap | Statements
) -> None:
    manager = shared_manager(tap.url(database))
    kernels = kernels_of(manager)
    session = await manager.create_session(path="a.ipynb", type="notebook", name="")
    await manager.create_session(path="b.ipynb", type="notebook", name="")
    tap.reset()
    for _ in range(3):
        await manager.list_sessions()
        await manager.session_exists("a.ipynb")
        await manager.get_session(session_id=session["id"])
    assert all(text.startswith("SELECT") for text in tap.statements), tap.statements
    # Nor one that finds kernels gone: their sessions are removed after it, once for all of them.
    for kernel_id in list(kernels.started):
        kernels.die(kernel_id)
    tap.reset()
    assert await manager.list_sessions() == []
    await manager.tasks.wait()
    words = [text.split()[0] for text in tap.statements]
    assert (set(words), words.count("DELETE")) == ({"SELECT", "DELETE"}, 1)
    manager.close()


async def test_a_renewal_is_two_statements_among_ten_servers(
    database: Database, tap: WireTap | Statements, manager: PersistentSessionManager
) -> None:
    await manager.create_session(path="a.ipynb", type="notebook", name="")
    for i in range(10):
        other = server(f"server-{i}", manager.namespace)
        manager.store.renew(other, [], timeout=30)
    # The first also looks for what servers left that were not evicted.
    await renewed(manager)
    tap.reset()
    # What follows it included: the store is found to have what memory has.
    await renewed(manager)
    assert tap.round_trips == 2, tap.statements


#: With a gateway's kernels. A delete marks, counts once more after the mark, and removes.
ALLOWED_ON_A_GATEWAY = {
    "exists": {"sqlite": 1, "postgresql": 1, "mysql": 1},
    "list": {"sqlite": 1, "postgresql": 1, "mysql": 1},
    "get": {"sqlite": 1, "postgresql": 1, "mysql": 1},
    "update": {"sqlite": 1, "postgresql": 1, "mysql": 2},
    "create": {"sqlite": 2, "postgresql": 2, "mysql": 3},
    "delete": {"sqlite": 3, "postgresql": 3, "mysql": 4},
}


async def test_round_trips_with_a_gateway(database: Database, tap: WireTap | Statements) -> None:
    """A create is the claim, and the kernel; where RETURNING is missing, the row is read."""
    manager = shared_manager(tap.url(database))
    await check_each(tap, manager, lambda verb: ALLOWED_ON_A_GATEWAY[verb][database.kind])
    manager.close()
