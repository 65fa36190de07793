"""Who is alive while a database can be read, and not written: nobody is taken for dead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import DBAPIError

from jupyter_session_store.cli import observation
from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.admin import listing
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.models import Server
from jupyter_session_store.sql.queries import leases

from ..databases import Database
from ..databases.pgbouncer import PgBouncer
from ..migrations.support import engine_of
from .cleaning_support import (
    DEAD,
    aged,
    dead,
    living,
    local,
    name_of,
    numbers,
    remote,
    removed,
    servers_of,
    without_delays,
)
from .conftest import Run
from .doctor_support import another_user, role_of
from .support import PATIENCE, fill, running, shows_password

#: Seconds.
LEASE: Final = 6
#: Reads pass each of them. MySQL's is what mysqldump takes.
LOCK: Final = {
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql": ("BEGIN", "LOCK TABLE jupyter_servers IN SHARE MODE"),
    "mysql": ("LOCK TABLES jupyter_servers READ LOCAL, jupyter_sessions READ LOCAL",),
}
UNLOCK: Final = {"sqlite": "ROLLBACK", "postgresql": "ROLLBACK", "mysql": "UNLOCK TABLES"}


@contextmanager
def no_writes(database: Database) -> Iterator[None]:
    """Hold a lock that only reads pass."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in LOCK[database.kind]:
            cursor.execute(statement)
        yield
        cursor.execute(UNLOCK[database.kind])


def observed(engine: Engine, note: Callable[[str], None]) -> dict[str, str]:
    """Observe all servers, and return what is found of each id."""
    with engine.connect() as connection:
        found = observation.observe(connection, listing.servers(connection), note)
    return {server_id: liveness for (_, server_id), liveness in found.items()}


def test_who_is_kept_out_is_not_dead(home: Path, database: Database) -> None:
    """For longer than the lease of a server that lives; who is really dead is evicted after it."""
    old = [remote("user", 1, "lives", **aged()), remote("user", 2, "gone", **aged())]
    fill(database.url, [*old, local("dead", 3, "dead", **aged())], [dead("dead", "dead")])
    prune = ("prune", "--older-than", "30d", "--yes", "--json")
    with (
        living(database.url, "user", "lives", lease=LEASE, held=[4]),
        ExitStack() as lock,
    ):
        lock.enter_context(no_writes(database))
        with running(*prune, home=home, url=database.url) as process:
            # A busy machine takes its time to begin.
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Watching 2 server(s)")
            # A second after the verdict of who only reads.
            time.sleep(LEASE + 2.5)
            assert process.poll() is None
            lock.close()
            output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert removed(output) == {"removed": 1, "namespaces": 1, "evicted": 1}
        assert "Watching anew: no lease could be renewed just now (" in errors
        assert numbers(database) == [1, 2, 4]
        assert servers_of(database) == {("user", "lives")}


def test_a_lock_that_stays(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "_EXTRA_SECONDS", 0)
    fill(database.url, servers=[dead("user", "dead")])
    with engine_of(database.url) as engine, no_writes(database):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="Who is alive cannot be seen") as raised:
            observed(engine, print)
        # Twice the lease, and what a statement waits for a lock.
        assert 2 * DEAD < time.monotonic() - began < 2 * DEAD + 15
    assert not shows_password(database, str(raised.value))
    assert servers_of(database) == {("user", "dead")}


@pytest.mark.only("postgresql", "mysql", reason="SQLite locks no rows")
def test_one_row_that_is_locked(database: Database) -> None:
    """It might be of a server that lives, as it might be in the place of the other."""
    fill(database.url, servers=[dead("user", "one"), dead("user", "two")])
    with engine_of(database.url) as engine, ExitStack() as lock:
        other = lock.enter_context(closing(database.connect()))
        cursor = other.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 FROM jupyter_servers WHERE server_id = 'two' FOR UPDATE")
        told: list[str] = []

        def note(text: str) -> None:
            if not without_delays(text):
                return
            told.append(text)
            if len(told) == 2:
                cursor.execute("ROLLBACK")

        assert observed(engine, note) == {"one": "gone", "two": "gone"}
    assert [text[:14] for text in told] == ["Watching 2 ser", "Watching anew:"]


def test_nobody_is_disturbed(database: Database) -> None:
    """What is written is what was there, it is really written, and it waits for nobody long."""
    fill(database.url, servers=[dead("user", "dead"), dead("other", "dead")])
    query = "SELECT namespace, renewals FROM jupyter_servers ORDER BY namespace"
    before = database.rows(query)
    with engine_of(database.url) as engine, engine.connect() as connection:
        changed: list[int] = []
        event.listen(
            engine,
            "after_cursor_execute",
            lambda _connection, cursor, statement, *_: (
                changed.append(cursor.rowcount) if statement.startswith("UPDATE") else None
            ),
        )
        server = listing.servers(connection, "user")[0]
        leases.try_write(connection, server)
        assert database.rows(query) == before
        assert changed == [1, 1]
        with no_writes(database):
            began = time.monotonic()
            with pytest.raises(DBAPIError) as raised:
                leases.try_write(connection, server)
            assert time.monotonic() - began < 10
            assert not backend_of(connection).is_write_denied(raised.value)
            # It is as usable as before.
            assert connection.execute(select(Server.namespace)).all()
        leases.try_write(connection, server)
    assert database.rows(query) == before


@contextmanager
def granted(database: Database, rights: str) -> Iterator[str]:
    """Yield the URL of another user, with rights to both tables that change, and reading all."""
    with another_user(database) as url:
        role = role_of(database, url)
        for table in ("sessions", "servers", "session_store_meta", "session_store_version"):
            more = f"SELECT{rights if table in ('sessions', 'servers') else ''}"
            database.execute(f"GRANT {more} ON jupyter_{table} TO {role}")
        yield url


@contextmanager
def only_reading(database: Database) -> Iterator[str]:
    """Yield a URL of who may read all, and write nothing."""
    if database.kind == "sqlite":
        yield f"sqlite:///file:{database.url.removeprefix('sqlite:///')}?mode=ro&uri=true"
        return
    with granted(database, "") as url:
        yield url


def test_who_may_not_write_takes_nobody_for_dead(run: Run, database: Database) -> None:
    # What nobody registered has left is seen without a lease.
    old = [local("dead", 1, "dead", **aged()), local("dead", 2, "nobody", **aged())]
    fill(database.url, old, [dead("dead", "dead")])
    with (
        living(database.url, "user", "lives"),
        only_reading(database) as url,
    ):
        seen = run("servers", "--observe", "--json", url=url)
        assert seen.returncode == 0, seen.stderr
        liveness = {row["server_id"]: row["liveness"] for row in json.loads(seen.stdout)}
        assert liveness == {"dead": "unknown", "lives": "alive"}
        assert "others are unknown here. Use a role with SELECT and UPDATE on" in seen.stderr
        planned = run("prune", "--older-than", "30d", "--dry-run", url=url)
        assert planned.returncode == 0, planned.stderr
        assert planned.stdout == (
            "Would remove 1 session(s) of 1 namespace(s) and 0 server(s) from "
            f"{name_of(url)}. Nothing was changed.\n"
        )
        assert "others are unknown here" in planned.stderr
        for words in (
            "prune --dead-servers --yes",
            "purge dead --dry-run",
            "rename dead new --yes",
        ):
            refused = run(*words.split(), url=url)
            assert refused.returncode == 3, refused.stdout
            assert "Nothing was changed. Use a role with SELECT and UPDATE on" in refused.stderr
            assert "Traceback" not in refused.stderr
    assert servers_of(database) == {("dead", "dead"), ("user", "lives")}
    for answer in (seen, planned):
        assert not shows_password(database, answer.stdout, answer.stderr)


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
@pytest.mark.usefixtures("hurried")
def test_what_a_role_needs_to_prune(run: Run, database: Database) -> None:
    """As docs/how-to/clean-up.md says."""
    fill(
        database.url,
        [local("dead", 1, "dead"), remote("dead", 2, "nobody", **aged())],
        [dead("dead", "dead")],
    )
    with granted(database, ", UPDATE, DELETE") as url:
        done = run("prune", "--dead-servers", "--yes", "--json", url=url)
        assert done.returncode == 0, done.stderr
        assert removed(done.stdout) == {"removed": 1, "namespaces": 1, "evicted": 1}
        done = run("prune", "--older-than", "30d", "--yes", "--json", url=url)
        assert removed(done.stdout) == {"removed": 1, "namespaces": 1, "evicted": 0}


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
@pytest.mark.usefixtures("hurried")
def test_through_a_pooler(run: Run, database: Database) -> None:
    fill(database.url, [local("dead", 1, "dead")], [dead("dead", "dead")])
    with closing(PgBouncer(database, connections=1)) as bouncer:
        url = bouncer.database.url
        with engine_of(url) as engine, engine.connect() as connection:
            [server] = listing.servers(connection)
            with no_writes(database), pytest.raises(DBAPIError, match="lock timeout"):
                leases.try_write(connection, server)
            leases.try_write(connection, server)
        # Whoever gets PgBouncer's only connection next waits for a lock as long as before.
        assert bouncer.database.rows("SHOW lock_timeout") == [("0",)]
        done = run("prune", "--dead-servers", "--yes", "--json", url=url)
        assert done.returncode == 0, done.stderr
        assert removed(done.stdout) == {"removed": 1, "namespaces": 1, "evicted": 1}
