"""What a page shows of the tables: chosen, sorted and cut into pages by each database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Final

import pytest
from sqlalchemy import Connection, insert

from jupyter_session_store.records import Scope, SessionRecord
from jupyter_session_store.sql.admin import overview
from jupyter_session_store.sql.admin.overview import Choice
from jupyter_session_store.sql.models import Server, Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.testing.samples import record, server

from ..databases import Database
from ..migrations.support import engine_of

DAY: Final = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: The last two begin with the last character before the surrogates, and the last of all.
NAMESPACES: Final = ("hub:ada/", "hub:ada/gpu", "hub:ada2/", "hub:Ada/", "\ud7ff/", "\U0010ffff/")


def rows() -> Iterator[SessionRecord]:
    for number, namespace in enumerate(NAMESPACES):
        for place in range(3):
            made = record(f"s{place}", Scope(namespace, "server:one"), server_id="one")
            yield made.replace(
                path=f"{'Work' if place else 'play'}/{number}-{place}_%.ipynb",
                state="ready" if place else "starting",
                claim=None,
                created_at=DAY + timedelta(hours=number),
                updated_at=DAY - timedelta(hours=10 * number + place),
            )


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        with engine.begin() as connection:
            connection.execute(insert(Session), [to_row(one) for one in rows()])
            registered = [vars(server("one", name)) for name in NAMESPACES]
            hosts = [{**one, "hostname": f"Node-{i}"} for i, one in enumerate(registered)]
            connection.execute(insert(Server), hosts)
        with engine.connect() as connection:
            yield connection


def keys(connection: Connection, choice: Choice) -> list[tuple[str, str]]:
    return [(one.namespace, one.session_id) for one in overview.sessions(connection, choice)]


def test_sessions_are_chosen(connection: Connection) -> None:
    everything = sorted((one.namespace, one.session_id) for one in rows())
    assert keys(connection, Choice()) == everything
    assert overview.states(connection, Choice()) == {"ready": 12, "starting": 6}
    for prefix in ("hub:ada/", "hub:ada", "hub:", "\ud7ff", "\U0010ffff", "nobody"):
        expected = [one for one in everything if one[0].startswith(prefix)]
        assert keys(connection, Choice(namespace=prefix)) == expected, prefix
        assert keys(connection, Choice(visible=prefix)) == expected, prefix
    # Both hold: nobody sees another's by asking for it.
    assert keys(connection, Choice(visible="hub:ada/", namespace="hub:ada2/")) == []
    found = overview.sessions(connection, Choice(text="WORK/0-1_%"))
    assert [one.path for one in found] == ["Work/0-1_%.ipynb"]
    assert overview.states(connection, Choice(namespace="hub:ada/", state="starting")) == {
        "starting": 2
    }


def test_one_session(connection: Connection) -> None:
    found = overview.session(connection, None, "hub:ada/", "s1")
    assert found is not None
    assert found.path == "Work/0-1_%.ipynb"
    assert overview.session(connection, "hub:ada/", "hub:ada/", "s1") == found
    assert overview.session(connection, "hub:bob/", "hub:ada/", "s1") is None
    assert overview.session(connection, None, "hub:ada/", "other") is None


@pytest.mark.parametrize("sort", overview.SESSION_ORDERS)
def test_pages_of_sessions(connection: Connection, sort: str) -> None:
    """Put together, the pages are the whole, in either direction."""
    whole = keys(connection, Choice(sort=sort))
    assert sorted(whole) == sorted((one.namespace, one.session_id) for one in rows())
    pages = [keys(connection, Choice(sort=sort, offset=at, limit=5)) for at in range(0, 20, 5)]
    assert [len(one) for one in pages] == [5, 5, 5, 3]
    assert [one for page in pages for one in page] == whole
    assert keys(connection, Choice(sort=sort, descending=True)) == whole[::-1]
    if sort == "changed":
        assert whole[0][0] == NAMESPACES[-1]
    if sort == "path":
        assert {one[1] for one in whole[-6:]} == {"s0"}


def test_servers(connection: Connection) -> None:
    found = overview.servers(connection, Choice())
    assert [one.namespace for one in found] == sorted(NAMESPACES)
    assert overview.sessions_of_servers(connection, found) == {one.key: 3 for one in found}
    assert overview.sessions_of_servers(connection, []) == {}
    chosen = Choice(namespace="hub:ada", text="node-", sort="host", descending=True)
    assert [one.hostname for one in overview.servers(connection, chosen)] == [
        "Node-2",
        "Node-1",
        "Node-0",
    ]
    assert overview.count_servers(connection, chosen) == 3
    only = Choice(keys=[("hub:ada/", "one"), ("hub:ada/", "two")])
    assert [one.key for one in overview.servers(connection, only)] == [("hub:ada/", "one")]
    assert overview.servers(connection, Choice(keys=[])) == []
    assert [one[:2] for one in overview.leases(connection, "hub:ada/")] == [
        ("hub:ada/", "one"),
        ("hub:ada/gpu", "one"),
    ]


def test_namespaces(connection: Connection) -> None:
    found = overview.namespaces(connection, Choice(sort="changed"))
    assert [one.namespace for one in found] == list(NAMESPACES)[::-1]
    assert {one.sessions for one in found} == {3}
    assert found[-1].changed_at == DAY
    assert overview.count_namespaces(connection, Choice(namespace="hub:a")) == 3
    second = overview.namespaces(connection, Choice(offset=1, limit=1, namespace="hub:a"))
    assert [one.namespace for one in second] == ["hub:ada/gpu"]
    by_size = Choice(sort="sessions", text="-0_", descending=True)
    assert {one.sessions for one in overview.namespaces(connection, by_size)} == {1}
