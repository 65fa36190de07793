"""Thousands of servers of one namespace: what each costs does not grow with their number."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import ceil

import pytest
from sqlalchemy import Connection, event, insert

from jupyter_session_store.authorities import authority_of
from jupyter_session_store.records import CLOSING, STARTING, Scope, ServerRecord, SessionRecord
from jupyter_session_store.sql.admin import listing, pruning
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.queries import leases
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.tables import SERVERS, SESSIONS
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database

log = logging.getLogger("tests")

GATEWAY = Scope(SCOPE.namespace, "gateway:g")
NUMBER = 3000


def name(number: int) -> str:
    return f"server-{number:05}"


def sessions_of(server_id: str) -> list[SessionRecord]:
    """Return a session of each kind that an eviction looks for."""
    local = Scope(SCOPE.namespace, authority_of(server_id))
    return [
        record(f"local-{server_id}", local, server_id=server_id),
        record(f"starting-{server_id}", GATEWAY, server_id=server_id, state=STARTING),
        record(f"closing-{server_id}", GATEWAY, server_id=server_id, state=CLOSING),
    ]


@pytest.fixture
def repository(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SQLAlchemySessionRepository]:
    # Nothing is made again because the machine is busy: what is sent is counted.
    monkeypatch.setattr(timeouts, "STATEMENT_TIMEOUT", 60.0)
    repository = SQLAlchemySessionRepository(database.url, options={}, auto_upgrade="safe", log=log)
    repository.open(SCOPE, server("one"), timeout=60)
    yield repository
    repository.close(timeout=10)


def fill(repository: SQLAlchemySessionRepository) -> None:
    """Register servers, each with its sessions; nothing tells the database how many there are."""

    names = [name(i) for i in range(NUMBER)]
    servers = [asdict(server(one)) for one in names]
    sessions = [to_row(each) for one in names for each in sessions_of(one)]

    def unit(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        for table, rows in ((SERVERS, servers), (SESSIONS, sessions)):
            # A database ends a transaction that waits for its client for long.
            for at in range(0, len(rows), 200):
                connection.execute(insert(table), rows[at : at + 200])
        connection.exec_driver_sql("COMMIT")

    repository._wait(unit, 120)


@contextmanager
def counting(repository: SQLAlchemySessionRepository, what: str) -> Iterator[list[str]]:
    """Note what is sent meanwhile, and print how long it took."""
    statements: list[str] = []
    engine = repository._database.engine

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    began = time.monotonic()
    try:
        yield statements
    finally:
        print(f"{what}: {time.monotonic() - began:.2f} s, {len(statements)} statements")
        event.remove(engine, "before_cursor_execute", note)


def ids(servers: list[ServerRecord]) -> set[str]:
    return {one.server_id for one in servers}


def test_half_of_them_are_evicted_at_once(
    repository: SQLAlchemySessionRepository,
) -> None:
    fill(repository)
    seen = {one.server_id: one for one in repository.renew(server("one"), [], timeout=60)}
    dead = [seen[name(i)] for i in range(NUMBER // 2)]
    # Of those that are taken for dead, one has renewed since, and one has gone.
    back, gone = name(7), name(8)
    repository.renew(server(back), [], timeout=60)
    assert repository._wait(lambda c: leases.unregister(c, seen[gone]), 60) == 1
    with counting(repository, f"{NUMBER} servers, eviction of {len(dead)}") as statements:
        taken_over = repository.evict(GATEWAY, dead, "one", timeout=60)
    # BEGIN, three for sessions, the take-over, what was taken over, COMMIT, unknown authorities.
    assert len(statements) <= 8 + ceil(len(dead) / leases._BATCH)
    assert repository.describe().evictions == len(dead) - 2
    left = {name(i) for i in range(NUMBER // 2, NUMBER)} | {back, "one"}
    assert ids(repository.renew(server("one"), [], timeout=60)) == left
    lost = {one.server_id for one in dead} - {back}
    assert {one.session_id for one in taken_over} == {f"starting-{one}" for one in lost}

    def all_sessions(connection: Connection) -> list[SessionRecord]:
        return list(listing.sessions(connection))

    by_id = {one.session_id: one for one in repository._wait(all_sessions, 60)}
    assert len(by_id) == 3 * NUMBER - len(lost)
    for one in map(name, range(NUMBER)):
        closing = by_id[f"closing-{one}"]
        assert (closing.state == CLOSING) == (one not in lost)
        assert (f"local-{one}" in by_id) == (one not in lost)


def test_a_renewal_reads_no_more_than_it_needs(
    repository: SQLAlchemySessionRepository,
) -> None:
    fill(repository)
    one = server("one")
    first = {each.server_id: each for each in repository.renew(one, [], timeout=60)}
    assert len(first) == NUMBER + 1
    assert first[name(3)] == server(name(3))
    with counting(repository, f"renewal among {NUMBER}") as statements:
        again = {each.server_id: each for each in repository.renew(one, [], timeout=60)}
    assert len(statements) == 2
    read = statements[1]
    assert "renewals" in read
    columns = ("hostname", "pid", "jupyter_servers.version", "started_at")
    assert not any(column in read for column in columns)
    assert again == {**first, "one": replace(first["one"], renewals=first["one"].renewals + 1)}
    # Who has renewed, who is new, who has gone, and who came back as another.
    came = [server("new", hostname="elsewhere"), server(name(5), lease_seconds=7, hostname="moved")]

    def change(connection: Connection) -> None:
        for gone in (name(4), name(5)):
            leases.unregister(connection, server(gone))
        for each in (server(name(3)), *came):
            leases.register(connection, each)

    repository._wait(change, 60)
    with counting(repository, "renewal with two new ones") as statements:
        changed = {each.server_id: each for each in repository.renew(one, [], timeout=60)}
    assert len(statements) == 3
    assert changed[name(3)].renewals == first[name(3)].renewals + 1
    assert name(4) not in changed
    assert [changed[each.server_id] for each in came] == came
    assert len(changed) == NUMBER + 1


def test_half_of_them_are_pruned(repository: SQLAlchemySessionRepository) -> None:
    fill(repository)
    gone = {name(i) for i in range(NUMBER // 2)}

    def unit(connection: Connection) -> int:
        servers = listing.servers(connection)
        dead = [one for one in servers if one.server_id in gone]
        alive = [one for one in servers if one.server_id not in gone]
        selection = pruning.Selection(listing.Criteria(), dead_servers=True, living=alive)
        assert sum(pruning.evict(connection, dead)) == len(dead) == NUMBER // 2
        *_, counted = pruning.remove(connection, selection)
        return counted.sessions

    with counting(repository, f"{NUMBER} servers, prune of {NUMBER // 2}") as statements:
        assert repository._wait(unit, 120) == NUMBER // 2
    batches = NUMBER / pruning._LEAST + NUMBER / listing.BATCH
    assert len(statements) < 20 + NUMBER / leases._BATCH + batches
    assert len(repository.renew(server("one"), [], timeout=60)) == NUMBER - NUMBER // 2 + 1
