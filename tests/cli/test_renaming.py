"""purge and rename: a namespace goes, or gets another name, and no other is touched."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from pathlib import Path

import pytest

from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import Scope

from ..databases import Database
from ..system.waiting import until
from .cleaning_support import (
    GATEWAY,
    asked,
    dead,
    everything,
    left_by,
    living,
    local,
    name_of,
    numbers,
    remote,
    servers_of,
    waits,
)
from .conftest import Run
from .support import fill, running, shows_password

#: Each differs from "bob" by what a sloppy comparison overlooks.
ALIKE = ("Bob", "bob ", " bob", "b\u00f6b", "bob/", "bo", "bo%", "b_b")


@pytest.mark.usefixtures("hurried")
def test_a_purge_of_exactly_one_namespace(run: Run, database: Database) -> None:
    others = [local(namespace, 100 + n, "dead") for n, namespace in enumerate(ALIKE)]
    fill(
        database.url,
        [*left_by("bob", "dead", 1), *others],
        [dead(namespace, "dead") for namespace in ("bob", *ALIKE)],
    )
    before = everything(database)
    planned = run("purge", "bob", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "Would remove 5 session(s) of 1 namespace(s) and 1 server(s) from "
        f"{name_of(database.url)}. Nothing was changed.\n"
    )
    listed = run("purge", "bob", "--dry-run", "--json", url=database.url)
    assert [row["namespace"] for row in json.loads(listed.stdout)] == ["bob"] * 5
    for nobody, near in (("BOB", "' bob' or 'Bob' or 'bob'"), ("%", "'bo%'")):
        answer = run("purge", nobody, "--yes", url=database.url)
        assert answer.returncode == 0, answer.stdout
        told = f"There is nothing of the namespace {nobody!r}. Did you mean {near}?\n"
        assert answer.stderr == told
    assert everything(database) == before
    done = run("purge", "bob", "--yes", "--json", url=database.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "database": name_of(database.url),
        "removed": 5,
        "namespaces": 1,
        "evicted": 1,
        "refused": [],
    }
    assert numbers(database) == [100 + n for n in range(len(ALIKE))]
    assert servers_of(database) == {(namespace, "dead") for namespace in ALIKE}
    again = run("purge", "bob", "--yes", url=database.url)
    assert again.returncode == 0
    for answer in (planned, listed, done, again):
        assert not shows_password(database, answer.stdout, answer.stderr)


def test_a_purge_is_refused_while_a_server_is_alive(run: Run, database: Database) -> None:
    fill(database.url, left_by("bob", "lives", 1))
    with living(database.url, "bob", "lives") as server:
        before = everything(database)
        for more in (["--yes"], ["--dry-run"], ["--yes", "--force"]):
            refused = run("purge", "bob", *more, url=database.url)
            assert refused.returncode == 5, refused.stdout
            assert f"The server lives (process {server.pid} on " in refused.stderr
            assert "of the namespace 'bob' is alive: stop it first." in refused.stderr
            assert "use its API: DELETE api/sessions/ID at its address" in refused.stderr
            assert everything(database) == before


@pytest.mark.usefixtures("hurried")
def test_a_purge_leaves_what_a_server_has_that_is_started_half_way(
    home: Path, database: Database
) -> None:
    fill(database.url, left_by("bob", "dead", 1), [dead("bob", "dead")])
    code, output = asked(
        *("purge", "bob"),
        answer="y",
        meanwhile=lambda: fill(database.url, servers=[dead("bob", "new")]),
        home=home,
        url=database.url,
    )
    assert code == 5, output
    assert "Remove 5 session(s) of 1 namespace(s) ('bob') and 1 server(s) from " in output
    assert "The server new (process 1 on host) of the namespace 'bob' came back or was" in output
    assert numbers(database) == [1, 2, 3, 4, 5]
    assert servers_of(database) == {("bob", "new")}


@pytest.mark.usefixtures("hurried")
def test_a_namespace_gets_another_name(run: Run, database: Database) -> None:
    others = [local(namespace, 100 + n, "dead") for n, namespace in enumerate(ALIKE)]
    fill(
        database.url,
        [*left_by("bob", "dead", 1), *others],
        [dead("bob", "dead"), dead("Bob", "dead")],
    )
    columns = "session_id, path, claim, authority, server_id, state, updated_at"
    query = f"SELECT {columns} FROM jupyter_sessions WHERE namespace = '%s' ORDER BY session_id"
    before = database.rows(query % "bob")
    done = run("rename", "bob", "hub:r\u00f6bert smith/", "--json", "--yes", url=database.url)
    assert done.returncode == 0, done.stderr
    moved = {"sessions": 5, "servers": 1, "claims_lost": 0}
    assert json.loads(done.stdout) == {
        "database": name_of(database.url),
        **moved,
        "renamed": {"bob": {"to": "hub:r\u00f6bert smith/", **moved}},
        "refused": [],
    }
    assert database.rows(query % "hub:r\u00f6bert smith/") == before
    assert servers_of(database) == {("hub:r\u00f6bert smith/", "dead"), ("Bob", "dead")}
    # Whoever serves the new namespace finds the claims that it would make itself.
    scope = Scope("hub:r\u00f6bert smith/", GATEWAY)
    claims = {row[2] for row in before if row[3] == GATEWAY}
    assert claims == {claim_of(scope, f"folder/{number}.ipynb") for number in (2, 3, 4, 5)}
    again = run("rename", "bob", "robert", "--yes", url=database.url)
    assert again.returncode == 0
    assert again.stderr.startswith("There is nothing of the namespace 'bob'.")
    for answer in (done, again):
        assert not shows_password(database, answer.stdout, answer.stderr)


@pytest.mark.usefixtures("hurried")
def test_where_the_new_namespace_has_sessions(run: Run, database: Database) -> None:
    fill(
        database.url,
        [
            remote("bob", 1, "dead"),
            remote("bob", 2, "dead"),
            remote("bob", 3, "dead", claim=None),
            # On the path of the first, and of the second, which has no claim there.
            remote("robert", 1, "dead", session_id="session-000011"),
            remote("robert", 2, "dead", session_id="session-000012", claim=None),
        ],
        [dead("bob", "dead"), dead("bob", "other"), dead("robert", "dead")],
    )
    before = everything(database)
    planned = run("rename", "bob", "robert", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "Would rename 3 session(s) and 2 server(s) of 1 namespace(s) in "
        f"{name_of(database.url)}; 1 would lose the claim to their path. Nothing was changed.\n"
    )
    assert everything(database) == before
    done = run("rename", "bob", "robert", "--yes", url=database.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Renamed 3 session(s) and 2 server(s) of 1 namespace(s) in "
        f"{name_of(database.url)}; 1 lost the claim to their path.\n"
    )
    claimed = "SELECT session_id FROM jupyter_sessions WHERE claim IS NOT NULL ORDER BY session_id"
    assert database.rows(claimed) == [("session-000002",), ("session-000011",)]
    assert numbers(database) == [1, 2, 3, 11, 12]
    changes = database.rows("SELECT version FROM jupyter_sessions ORDER BY session_id")
    assert changes == [(2,), (2,), (2,), (1,), (1,)]
    assert servers_of(database) == {("robert", "dead"), ("robert", "other")}


@pytest.mark.usefixtures("hurried")
def test_two_sessions_of_one_id(run: Run, database: Database) -> None:
    fill(
        database.url,
        [*left_by("bob", "dead", 1), remote("robert", 3, "dead"), remote("robert", 9, "dead")],
        [dead("bob", "dead")],
    )
    before = everything(database)
    refused = run("rename", "bob", "robert", "--yes", url=database.url)
    assert refused.returncode == 1
    assert "Both 'bob' and 'robert' have a session of the id 'session-000003'" in refused.stderr
    assert everything(database) == before


@pytest.mark.parametrize("alive", ["bob", "robert"])
def test_no_rename_while_a_server_of_either_is_alive(
    run: Run, database: Database, alive: str
) -> None:
    fill(database.url, [local("bob", 1, "lives"), local("robert", 2, "lives")])
    with living(database.url, alive, "lives"):
        before = everything(database)
        refused = run("rename", "bob", "robert", "--yes", url=database.url)
        assert refused.returncode == 5, refused.stdout
        assert f"of the namespace '{alive}' is alive" in refused.stderr
        assert everything(database) == before
        forced = run("rename", "bob", "robert", "--yes", "--force", url=database.url)
        if alive == "bob":
            # It would write its session back.
            assert forced.returncode == 5, forced.stdout
            assert everything(database) == before
        else:
            assert forced.returncode == 0, forced.stderr
            assert "Watching" not in forced.stderr
            assert numbers(database) == [1, 2]


@pytest.mark.only("postgresql", "mysql", reason="a second writer of a SQLite file waits at once")
def test_a_session_that_is_added_while_the_others_come(home: Path, database: Database) -> None:
    """It is not seen by the rename, which waits for it, and then does all of it anew."""
    fill(database.url, [remote("bob", 1, "dead"), remote("bob", 2, "dead")])
    fill(database.url, [remote("other", 1, "dead", session_id="session-000011")])
    add = "UPDATE jupyter_sessions SET namespace = 'robert' WHERE namespace = 'other'"
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(add)
        with running(
            "rename", "bob", "robert", "--json", "--yes", home=home, url=database.url
        ) as process:
            until(
                lambda: waits(database, "UPDATE"), why="it waits for the claim that is being made"
            )
            cursor.execute("COMMIT")
            output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert (found["sessions"], found["servers"], found["claims_lost"]) == (2, 0, 1)
    claimed = "SELECT session_id FROM jupyter_sessions WHERE claim IS NOT NULL ORDER BY session_id"
    assert database.rows(claimed) == [("session-000002",), ("session-000011",)]


@pytest.mark.only("postgresql", "mysql", reason="SQLite locks no rows")
def test_ctrl_c_in_a_rename_changes_nothing(home: Path, database: Database) -> None:
    fill(database.url, left_by("bob", "dead", 1))
    before = everything(database)
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT session_id FROM jupyter_sessions FOR UPDATE")
        with running("rename", "bob", "robert", "--yes", home=home, url=database.url) as process:
            until(lambda: waits(database, "UPDATE"), why="it waits for the lock")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        cursor.execute("ROLLBACK")
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert everything(database) == before
