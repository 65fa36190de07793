"""prune: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final

import pytest
from sqlalchemy import Connection, insert, update

from jupyter_session_store.records import CLOSING, READY, STARTING, SessionRecord
from jupyter_session_store.sql.admin.admin_connection import retry_if_rolled_back
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.queries.rows import to_row

from ..databases import Database, Instance
from ..forking import Process
from ..migrations.support import engine_of
from ..system.conftest import stored_in
from ..system.faults import suspend
from ..system.server import TIME_TO_START, JupyterServer
from ..system.waiting import until
from .cleaning_support import (
    DEAD,
    LIVING,
    aged,
    asked,
    dead,
    everything,
    left_by,
    living,
    local,
    name_of,
    numbers,
    remote,
    removed,
    servers_of,
    waits,
)
from .conftest import Run
from .support import PATIENCE, configure, fill, running, server, session, shows_password
from .timing import Pause, hurry

OLD: Final = ("--older-than", "30d")
_LOCK: Final = "SELECT session_id FROM jupyter_sessions"
#: Of none of the first hundred: they go by the first statement.
_LOCK_ONE: Final = f"{_LOCK} WHERE namespace = 'user' AND session_id = 'session-000150' FOR UPDATE"


def pruned(answer: CompletedProcess[str]) -> tuple[int, int, int]:
    """Return how many sessions, namespaces and servers JSON says are gone."""
    assert answer.returncode == 0, answer.stderr
    found = removed(answer.stdout)
    return found["removed"], found["namespaces"], found["evicted"]


def test_what_was_not_changed_for_a_time(run: Run, database: Database) -> None:
    """Of the old sessions, those stay whose authority is alive."""
    old = aged()
    fill(
        database.url,
        [
            local("alive", 1, "lives", **old),
            remote("alive", 2, "lives", **old),
            remote("alive", 3, "long gone", **old),
            session("alive", 4, authority="a stranger", **old),
            local("dead", 11, "dead", **old),
            local("dead", 12, "dead"),
            remote("dead", 13, "dead", **old),
            remote("dead", 14, "dead"),
            remote("dead", 15, "dead", **old, state=CLOSING),
            local("nobody", 21, "never seen", **old),
            remote("nobody", 22, "never seen", **old),
            local("nobody", 23, "never seen", **aged(29)),
            # The id of the one that lives, in another namespace.
            local("Alive", 31, "lives", **old),
            local("alive ", 32, "lives", **old),
        ],
        [dead("dead", "dead")],
    )
    with living(database.url, "alive", "lives"):
        before = everything(database)
        planned = run("prune", *OLD, "--dry-run", url=database.url)
        assert planned.returncode == 0, planned.stderr
        assert "Watching 2 server(s)" in planned.stderr
        assert planned.stdout == (
            "Would remove 8 session(s) of 5 namespace(s) and 1 server(s) from "
            f"{name_of(database.url)}. Nothing was changed.\n"
        )
        assert everything(database) == before
        done = run("prune", *OLD, "--yes", "--json", url=database.url)
        assert pruned(done) == (8, 5, 1)
        assert numbers(database) == [1, 2, 3, 12, 14, 23]
        assert servers_of(database) == {("alive", "lives")}
        again = run("prune", *OLD, "--yes", url=database.url)
        assert again.stdout.startswith("Removed 0 session(s) of 0 namespace(s) and 0 server(s) ")
        # What a living server has on kernels of its own would come back.
        forced = run("prune", *OLD, "--yes", "--force", "--json", url=database.url)
        assert pruned(forced) == (2, 1, 0)
        assert "Watching 1 server(s)" in forced.stderr
        assert numbers(database) == [1, 12, 14, 23]
        assert servers_of(database) == {("alive", "lives")}
    for answer in (planned, done, again, forced):
        assert not shows_password(database, answer.stdout, answer.stderr)


def test_what_dead_servers_left(run: Run, database: Database) -> None:
    fill(
        database.url,
        [
            *left_by("dead", "dead", 10),
            *left_by("nobody", "unregistered", 20),
            *left_by("alive", "lives", 30),
            session("strange", 40, authority="a stranger"),
        ],
        [dead("dead", "dead")],
    )
    with living(database.url, "alive", "lives"):
        listed = run("prune", "--dead-servers", "--dry-run", "--json", url=database.url)
        assert listed.returncode == 0, listed.stderr
        doomed = [row["session_id"] for row in json.loads(listed.stdout)]
        assert doomed == [f"session-{number:06}" for number in (10, 11, 20, 21)]
        assert servers_of(database) == {("alive", "lives"), ("dead", "dead")}
        done = run("prune", "--dead-servers", "--yes", "--json", url=database.url)
        assert pruned(done) == (4, 2, 1)
        assert numbers(database) == [12, 13, 14, 22, 23, 24, 30, 31, 32, 33, 34, 40]
        assert servers_of(database) == {("alive", "lives")}
    states = dict(database.rows("SELECT session_id, state FROM jupyter_sessions"))
    # What was being closed is as it was; what is started on a kernel is left to who finds that.
    assert [states[f"session-{number:06}"] for number in (12, 13, 14)] == [STARTING, READY, READY]
    assert states["session-000033"] == CLOSING


@pytest.mark.usefixtures("hurried")
def test_both_conditions_and_one_namespace(run: Run, database: Database) -> None:
    fill(
        database.url,
        [
            local("one", 1, "dead", **aged()),
            local("one", 2, "dead"),
            remote("one", 3, "dead", **aged()),
            local("two", 4, "dead", **aged()),
            local("two", 5, "dead"),
        ],
        [dead("one", "dead"), dead("two", "dead")],
    )
    both = run("prune", "--dead-servers", *OLD, "--namespace", "one", "--yes", url=database.url)
    assert both.returncode == 0, both.stderr
    assert both.stdout.startswith("Removed 1 session(s) of 1 namespace(s) and 1 server(s) from ")
    assert numbers(database) == [2, 3, 4, 5]
    assert servers_of(database) == {("two", "dead")}
    forced = run("prune", "--dead-servers", "--force", "--yes", "--json", url=database.url)
    assert pruned(forced) == (3, 2, 1)
    assert "Watching 1 server(s)" in forced.stderr
    assert numbers(database) == [3]


def test_dates_that_no_clock_wrote(run: Run, database: Database) -> None:
    fill(database.url, [local("a", 1, "gone"), local("a", 2, "gone", **aged())])
    value = {"sqlite": "'never'", "postgresql": "'infinity'", "mysql": "'9999-12-31'"}
    database.execute(
        f"UPDATE jupyter_sessions SET updated_at = {value[database.kind]}"
        " WHERE session_id = 'session-000001'"
    )
    assert pruned(run("prune", *OLD, "--yes", "--json", url=database.url)) == (1, 1, 0)
    assert numbers(database) == [1]


@pytest.mark.system
def test_a_real_server_keeps_its_sessions_until_it_is_killed(
    run: Run, home: Path, database: Database
) -> None:
    lease = f"c.PersistentSessionManager.lease_seconds = {LIVING}"
    prune = ("prune", "--dead-servers", "--yes", "--json")
    with closing(JupyterServer(f"{stored_in(database)}\n{lease}{TIME_TO_START}")) as jupyter:
        jupyter.start()
        kept = jupyter.create("kept.ipynb")["id"]
        fill(database.url, [local("of another", 1, "gone")])
        assert pruned(run(*prune, url=database.url)) == (1, 1, 0)
        old = run("prune", "--older-than", "0s", "--yes", "--json", url=database.url)
        assert pruned(old) == (0, 0, 0)
        assert [session["id"] for session in jupyter.sessions()] == [kept]
        jupyter.kill()
    hurry(home)
    assert pruned(run(*prune, url=database.url)) == (1, 1, 1)
    assert everything(database) == []


@pytest.mark.usefixtures("hurried")
def test_a_suspended_server_comes_back_with_its_sessions(run: Run, database: Database) -> None:
    with living(database.url, "laptop", "sleeps", lease=DEAD, held=range(5)) as laptop:
        suspend(laptop.pid, database)
        try:
            done = run("prune", "--dead-servers", *OLD, "--yes", "--json", url=database.url)
        finally:
            os.kill(laptop.pid, signal.SIGCONT)
        assert pruned(done) == (5, 1, 1)
        # Before and after it registers.
        until(
            lambda: servers_of(database) == {("laptop", "sleeps")} and len(numbers(database)) == 5,
            why="it registers, and puts its sessions back",
        )
        assert numbers(database) == list(range(5))


@pytest.mark.usefixtures("hurried")
def test_a_server_that_comes_back_half_way_keeps_its_sessions(
    home: Path, database: Database
) -> None:
    """It was seen dead, and registers while the operator thinks about the question."""
    namespace, count = "laptop", 3
    held = [local(namespace, number, "wakes", **aged()) for number in range(count)]
    fill(database.url, held, [dead(namespace, "wakes")])

    def wake() -> None:
        database.execute("UPDATE jupyter_servers SET renewals = renewals + 1")

    code, output = asked(
        "prune", "--dead-servers", answer="y", meanwhile=wake, home=home, url=database.url
    )
    assert code == 0, output
    assert "Remove 3 session(s) of 1 namespace(s) and 1 server(s) from " in output
    assert "Removed 0 session(s) of 0 namespace(s) and 0 server(s) from " in output
    assert numbers(database) == list(range(count))
    assert servers_of(database) == {(namespace, "wakes")}


def test_a_server_that_is_started_half_way_keeps_what_it_answers_for(
    home: Path, database: Database
) -> None:
    old = [remote("user", 1, "gone", **aged()), local("user", 2, "gone", **aged())]
    fill(database.url, old)
    code, output = asked(
        *("prune", *OLD),
        answer="yes",
        meanwhile=lambda: fill(database.url, servers=[server("user", "new")]),
        home=home,
        url=database.url,
    )
    assert code == 0, output
    assert "Remove 2 session(s) of 1 namespace(s)" in output
    assert numbers(database) == [1]
    assert servers_of(database) == {("user", "new")}


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no server to kill")
def test_a_database_that_is_killed_half_way(home: Path, own_server: Instance) -> None:
    count = 2000
    database = own_server.create_database()
    fill(database.url, (local("user", n, "gone", **aged()) for n in range(count)))
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(_LOCK_ONE)
        with running("prune", *OLD, "--yes", "--json", home=home, url=database.url) as process:
            until(lambda: _count(database) < count, why="it has begun")
            until(lambda: waits(database, "DELETE FROM"), why="it waits for the lock")
            removed = count - _count(database)
            own_server.kill()
            output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, errors
    assert output == ""
    assert f"{removed} session(s) of 1 namespace(s) and 0 server(s) are removed." in errors
    assert "The session store is unavailable" in errors
    assert "Traceback" not in errors
    own_server.start()
    assert _count(database) == count - removed


def test_what_is_changed_while_others_are_removed_stays(home: Path, database: Database) -> None:
    """A writer meets the prune half way: nothing that it changed or added goes."""
    count = 6000
    namespaces = [f"user-{number % 7}" for number in range(count)]
    fill(database.url, [local(namespaces[n], n, "gone", **aged()) for n in range(count)])
    touched, added = [], []
    with (
        engine_of(database.url) as engine,
        running("prune", *OLD, "--yes", "--json", home=home, url=database.url) as process,
    ):
        until(lambda: _count(database) < count, why="it has begun")
        with engine.connect() as connection:
            for number in reversed(range(count)):
                if process.poll() is not None:
                    break
                touched += [number] * _touch(connection, namespaces[number], number)
                added.append(count + number)
                _add(connection, local(namespaces[number], added[-1], "also gone"))
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    removed = json.loads(output)["removed"]
    print(f"{count} rounds: {removed} removed, {len(touched)} touched, {len(added)} added")
    assert numbers(database) == sorted(touched + added)
    assert removed == count - len(touched)


def _touch(connection: Connection, namespace: str, number: int) -> int:
    statement = (
        update(Session)
        .where(Session.namespace == namespace, Session.session_id == f"session-{number:06}")
        .values(updated_at=datetime.now(timezone.utc))
    )
    return retry_if_rolled_back(connection, lambda: connection.execute(statement).rowcount)


def _add(connection: Connection, record: SessionRecord) -> None:
    retry_if_rolled_back(connection, lambda: connection.execute(insert(Session), to_row(record)))


def test_ctrl_c_ends_it_after_a_batch(home: Path, run: Run, database: Database) -> None:
    count = 2000
    fill(database.url, (local("user", n, "gone", **aged()) for n in range(count)))
    pause = Pause(home, 2, "DELETE FROM jupyter_sessions")
    with running("prune", *OLD, "--yes", "--json", home=home, url=database.url) as process:
        pause.reached_by(process)
        process.send_signal(signal.SIGINT)
        _see(process, "Stopping")
        pause.resume()
        output, errors = process.communicate(timeout=PATIENCE)
    configure(home)
    left = _count(database)
    assert process.returncode == 130, errors
    assert output == ""
    removed = f"{count - left} session(s) of 1 namespace(s) and 0 server(s) are removed."
    assert errors.split("\n")[-4:-1] == [removed, "", "Interrupted. To go on, run it again."]
    assert "Traceback" not in errors
    assert 0 < left < count
    again = run("prune", *OLD, "--yes", "--json", url=database.url)
    assert pruned(again) == (left, 1, 0)
    assert numbers(database) == []


@pytest.mark.only("postgresql", "mysql", reason="SQLite locks no rows")
def test_a_second_ctrl_c_ends_what_waits_for_a_lock(home: Path, database: Database) -> None:
    fill(database.url, [local("user", 1, "gone", **aged())])
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"{_LOCK} FOR UPDATE")
        with running("prune", *OLD, "--yes", home=home, url=database.url) as process:
            until(lambda: waits(database, "DELETE FROM"), why="it waits for the lock")
            process.send_signal(signal.SIGINT)
            _see(process, "Stopping")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        cursor.execute("ROLLBACK")
    assert process.returncode == 130, errors
    assert "0 session(s) of 0 namespace(s) and 0 server(s) are removed. The batch that" in errors
    assert "Traceback" not in errors
    if database.kind == "postgresql":
        # MariaDB does it nevertheless, as soon as it has the lock.
        assert numbers(database) == [1]


def _see(process: Process, text: str) -> None:
    """Read what a process says until there is a text in it."""
    assert process.stderr is not None
    said = process.stderr.readline()
    while text not in said:
        assert said, f"it ended without {text!r}"
        said = process.stderr.readline()


def _count(database: Database) -> int:
    ((count,),) = database.rows("SELECT count(*) FROM jupyter_sessions")
    return int(count)
