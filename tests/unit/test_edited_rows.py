"""Rows that somebody has edited by hand fail nothing and are not made worse.

Where other servers use the kernels too, and sessions are read from the store. Those on a server's
own kernels are in its memory, which the rows are made to equal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from jupyter_session_store.cli.session_columns import session_row
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.sessions.models import last_known_model
from jupyter_session_store.testing import record
from tests.databases.database import Database
from tests.unit.dummies import (
    NOTEBOOK,
    assert_equal_after_renewal,
    in_memory,
    make_manager,
    shared_manager,
    stored,
)

#: Dates that no clock wrote, as far as a database takes them.
IMPOSSIBLE = {
    "sqlite": ["'never'", "''", "x'00ff'", "17", "'9999-99-99 00:00:00'"],
    "postgresql": ["'infinity'", "'-infinity'", "'294276-01-01Z'", "'4713-01-01Z BC'"],
    "mysql": ["'0000-00-00 00:00:00'", "'0000-12-31 00:00:00'", "'2024-00-00 00:00:00'"],
}


@pytest.fixture
def manager(database: Database) -> Iterator[PersistentSessionManager]:
    manager = shared_manager(database.url, log=logging.getLogger("test_edited_rows"))
    yield manager
    manager.close()


def edit(database: Database, statement: str) -> None:
    """Run a statement, as an operator in a hurry would."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        if database.kind == "mysql":
            cursor.execute("SET sql_mode = ''")
        cursor.execute(statement)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "no JSON", "{", "[]", "1", '"x"', "null", ""]
)
def test_a_model_of_a_kernel_that_cannot_be_used(text: str) -> None:
    """It cost the whole list, and a traceback of the command."""
    found = record("s", kernel_model=text)
    assert last_known_model(found) == {
        "id": found.kernel_id,
        "name": found.kernel_name,
        "last_activity": found.updated_at.isoformat().replace("+00:00", "Z"),
        "connections": 0,
        "execution_state": "unknown",
    }
    assert session_row(found)["session_id"] == "s"


async def create(manager: PersistentSessionManager, path: str) -> dict[str, Any]:
    return await manager.create_session(path=path, name=path, type="notebook")


@pytest.mark.parametrize("column", ["created_at", "updated_at"])
async def test_impossible_dates(
    database: Database, manager: PersistentSessionManager, column: str
) -> None:
    for number, date in enumerate(IMPOSSIBLE[database.kind]):
        model = await create(manager, f"{number}.ipynb")
        edit(
            database,
            f"UPDATE jupyter_sessions SET {column} = {date} WHERE session_id = '{model['id']}'",
        )
        good = await create(manager, f"good-{number}.ipynb")
        listed = {one["id"] for one in await manager.list_sessions()}
        assert {model["id"], good["id"]} <= listed
        await manager.update_session(model["id"], path=f"renamed-{number}.ipynb")
        assert (await manager.get_session(session_id=model["id"]))["path"].startswith("renamed")
        await manager.delete_session(model["id"])


async def test_an_impossible_date_of_a_server(
    database: Database, manager: PersistentSessionManager
) -> None:
    for date in IMPOSSIBLE[database.kind]:
        edit(database, f"UPDATE jupyter_servers SET started_at = {date}")
        manager.lease.renew_now().result(30)


async def test_an_unknown_state_is_listed_and_logged_once(
    database: Database, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    model = await create(manager, "a.ipynb")
    edit(database, "UPDATE jupyter_sessions SET state = 'frozen'")
    for _ in range(3):
        assert await manager.list_sessions() == [model]
    assert caplog.text.count("has the unknown state 'frozen'") == 1
    await manager.delete_session(model["id"])
    assert database.rows("SELECT count(*) FROM jupyter_sessions") == [(0,)]


async def test_a_session_without_a_kernel_is_left_alone_and_logged_once(
    database: Database, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    await create(manager, "a.ipynb")
    good = await create(manager, "b.ipynb")
    edit(database, "UPDATE jupyter_sessions SET kernel_id = NULL WHERE path = 'a.ipynb'")
    for _ in range(3):
        assert await manager.list_sessions() == [good]
    assert caplog.text.count("has no kernel") == 1
    assert database.rows("SELECT count(*) FROM jupyter_sessions") == [(2,)]
    # Nor is its path lost.
    again = await create(manager, "a.ipynb")
    assert [one["path"] for one in await manager.list_sessions()] == ["b.ipynb", again["path"]]


async def test_an_unknown_authority_is_nobodys(
    database: Database, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    await create(manager, "a.ipynb")
    edit(database, "UPDATE jupyter_sessions SET authority = 'somebody', state = 'closing'")
    before = database.rows("SELECT session_id, authority, path FROM jupyter_sessions")
    assert await manager.list_sessions() == []
    for _ in range(2):
        # As after a death.
        manager.lease._took_over = False
        manager.lease.renew_now().result(30)
    assert caplog.text.count("neither a server nor a gateway") == 1
    mine = await create(manager, "a.ipynb")
    assert await manager.list_sessions() == [mine]
    await manager.delete_session(mine["id"])
    assert database.rows("SELECT session_id, authority, path FROM jupyter_sessions") == before


async def test_the_row_of_a_local_session_is_made_equal_to_memory(database: Database) -> None:
    manager = make_manager(database.url)
    model = await manager.create_session(**NOTEBOOK)
    before = in_memory(manager)
    for change in (
        *(f"created_at = {date}" for date in IMPOSSIBLE[database.kind]),
        *(f"updated_at = {date}" for date in IMPOSSIBLE[database.kind]),
        "state = 'frozen'",
        "kernel_id = NULL",
        "kernel_model = '['",
        "claim = NULL",
        "path = 'b.ipynb'",
    ):
        # Who edits a row counts as all do; what differs is found by that.
        edit(database, f"UPDATE jupyter_sessions SET {change}, version = version + 7")
        assert await manager.list_sessions() == [model]
        await assert_equal_after_renewal(manager)
        (row,) = await stored(manager)
        assert row.says_the_same(before[0]), change
        assert await manager.list_sessions() == [model]
    # A row that is nobody's is not this server's any more, and its own is made again.
    edit(database, "UPDATE jupyter_sessions SET session_id = 'other', authority = 'somebody'")
    await assert_equal_after_renewal(manager)
    assert [row.session_id for row in await stored(manager)] == [model["id"]]
    assert database.rows("SELECT count(*) FROM jupyter_sessions") == [(2,)]
    manager.close()
