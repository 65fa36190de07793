"""upgrade, downgrade, current, history and check, as an operator runs them."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import inspect

from jupyter_session_store.sql.schema import locks, migrating, versions

from ..databases import Database
from ..databases.pgbouncer import PgBouncer
from ..migrations.support import LATER, TABLES, engine_of, status, without_privileges
from .conftest import Run
from .doctor_support import another_user, role_of
from .support import (
    LOOK_LONG,
    PATIENCE,
    configure,
    fill,
    running,
    session,
    session_store,
    shows_password,
    upgraded,
    upgraded_by_later_release,
)

pytestmark = pytest.mark.timeout(600)

NEWEST: Final = f"revision {versions.HEAD}"


def current(run: Run, url: str) -> dict[str, Any]:
    """Return what ``current --json`` says."""
    answer = run("current", "--json", url=url)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def tables_of(database: Database) -> frozenset[str]:
    """Return the tables of this package that are there."""
    with engine_of(database.url) as engine:
        return TABLES & set(inspect(engine).get_table_names())


def test_from_nothing_to_the_newest_and_back(run: Run, database: Database) -> None:
    planned = run("upgrade", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert f"{len(migrating.revisions())} revisions to run" in planned.stdout
    assert tables_of(database) == set()

    before = run("check", url=database.url)
    assert before.returncode == 4
    assert "Run: jupyter session-store upgrade" in before.stderr

    done = run("upgrade", url=database.url)
    assert done.returncode == 0, done.stderr
    assert NEWEST in done.stdout
    assert tables_of(database) == TABLES
    again = run("upgrade", url=database.url)
    assert again.returncode == 0
    assert "nothing to run" in again.stdout

    after = run("check", url=database.url)
    assert after.returncode == 0, after.stderr
    assert NEWEST in after.stdout
    found = current(run, database.url)
    assert (found["revision"], found["state"], found["usable"]) == (
        versions.HEAD,
        "current",
        True,
    )
    assert (found["code"], found["head"]) == (versions.CODE, versions.HEAD)
    plain = run("current", url=database.url)
    assert f"revision                {versions.HEAD}" in plain.stdout.splitlines()

    planned = run("downgrade", "base", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert "loses every session" in planned.stdout
    refused = run("downgrade", "base", url=database.url)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert current(run, database.url)["revision"] == versions.HEAD

    undone = run("downgrade", "base", "--yes", url=database.url)
    assert undone.returncode == 0, undone.stderr
    assert tables_of(database) == {versions.VERSION_TABLE}
    assert current(run, database.url)["state"] == "empty"
    for answer in (planned, before, done, again, after, plain, refused, undone):
        assert not shows_password(database, answer.stdout, answer.stderr)


def test_a_step_back_looks_like_a_flag(run: Run, database: Database) -> None:
    upgraded(database.url)
    planned = run("downgrade", "-1", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert "1 revision to undo" in planned.stdout


def test_the_statements_are_printed_and_make_the_tables(run: Run, database: Database) -> None:
    # Nothing is connected to, so the URL has to say that a MySQL is a MariaDB.
    url = database.url.replace("mysql://", "mariadb://")
    script = run("upgrade", "--sql", url=url)
    assert script.returncode == 0, script.stderr
    assert tables_of(database) == set()
    for statement in re.sub("--.*", "", script.stdout).split(";"):
        if statement.strip() not in ("", "BEGIN", "COMMIT"):
            database.execute(statement)
    assert current(run, database.url)["state"] == "current"
    back = run("downgrade", "--sql", f"{versions.HEAD}:base", "--yes", url=database.url)
    assert back.returncode == 0, back.stderr
    assert current(run, database.url)["state"] == "current"
    assert "DROP TABLE" in back.stdout
    refused = run("downgrade", "--sql", "base", url=database.url)
    assert refused.returncode == 2
    assert f"{versions.HEAD}:base" in refused.stderr


@pytest.mark.parametrize("floor", [1, 99])
def test_a_database_of_a_newer_version(
    run: Run, database: Database, floor: int, tmp_path: Path
) -> None:
    upgraded_by_later_release(database.url, tmp_path / "later", floor)
    check = run("check", url=database.url)
    upgrade = run("upgrade", url=database.url)
    downgrade = run("downgrade", "base", "--yes", url=database.url)
    listed = run("list", url=database.url)
    # Whoever knows less than the database takes nothing away from it.
    assert downgrade.returncode == 4
    if floor == 1:
        assert "Nothing to run" not in downgrade.stderr
        assert "expected the release that made it" in downgrade.stderr
        assert "Run there: jupyter session-store downgrade base" in downgrade.stderr
        assert (check.returncode, upgrade.returncode, listed.returncode) == (0, 0, 0)
        assert "Nothing to run" in upgrade.stdout
    else:
        assert (check.returncode, upgrade.returncode, listed.returncode) == (4, 4, 4)
        for answer in (check, upgrade, downgrade, listed):
            assert "pip install --upgrade jupyter_session_store" in answer.stderr
    assert current(run, database.url)["revision"] == LATER


def test_tables_of_another_program_are_left_alone(run: Run, database: Database) -> None:
    database.execute("CREATE TABLE jupyter_sessions (id integer)")
    for command in ("upgrade", "downgrade base --yes", "list", "check"):
        answer = run(*command.split(), url=database.url)
        assert answer.returncode == 4, answer.stdout
        assert "did not make" in answer.stderr
    assert tables_of(database) == {"jupyter_sessions"}


def test_history_needs_no_database(run: Run) -> None:
    answer = run("history", "--json", url="postgresql://nobody@no-such-host.invalid/nothing")
    assert answer.returncode == 0, answer.stderr
    rows = json.loads(answer.stdout)
    assert [row["revision"] for row in rows][-1] == versions.HEAD
    assert {row["kind"] for row in rows} <= {"expanding", "contracting"}
    assert rows[0]["downgrade_loses"] == "every session"
    plain = run("history").stdout.splitlines()
    assert plain[0].split("\t")[:3] == ["REVISION", "KIND", "TITLE"]
    assert len(plain) == len(rows) + 1


def test_check_waits_until_it_fits(run: Run, home: Path, database: Database) -> None:
    with running("check", "--wait", "600", home=home, url=database.url) as waiting:
        assert waiting.stderr is not None
        assert "Waiting" in waiting.stderr.readline()
        upgraded(database.url)
        assert waiting.wait(timeout=PATIENCE) == 0
        assert waiting.stdout is not None
        assert NEWEST in waiting.stdout.read()


def ended(home: Path, *words: str, url: str) -> tuple[int, str]:
    """Return the exit code and the errors of a command that has to end long before it is killed."""
    with running(*words, home=home, url=url) as process:
        _, errors = process.communicate(timeout=60)
        return process.wait(), errors


def test_check_does_not_wait_longer(home: Path, database: Database) -> None:
    begun = time.monotonic()
    code, errors = ended(home, "check", "--wait", "1", url=database.url)
    # A file that nobody has made is not there.
    assert code == (6 if database.kind == "sqlite" else 4)
    assert time.monotonic() - begun >= 1
    assert "Run: jupyter session-store upgrade" in errors


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_host_that_accepts_and_says_nothing_is_given_up(home: Path, scheme: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as silent:
        url = f"{scheme}://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        for words in (["check", "--wait", "1"], ["list"], ["upgrade"]):
            code, errors = ended(home, *words, url=url)
            assert code == 3
            assert f"{scheme} nobody@127.0.0.1:" in errors


@pytest.mark.only("postgresql", "mysql", reason="in WAL mode a file is read whatever is locked")
def test_a_locked_table_is_given_up(home: Path, database: Database) -> None:
    upgraded(database.url)
    with closing(database.connect()) as holder, closing(holder.cursor()) as cursor:
        if database.kind == "postgresql":
            cursor.execute("BEGIN")
            cursor.execute(f"LOCK TABLE {versions.VERSION_TABLE}")
        else:
            cursor.execute(f"LOCK TABLES {versions.VERSION_TABLE} WRITE")
        assert ended(home, "check", "--wait", "1", url=database.url)[0] == 3
        assert ended(home, "current", url=database.url)[0] == 3


@pytest.mark.only("sqlite", reason="only a file has a journal")
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_look_leaves_a_file_as_it_is(
    run: Run, home: Path, database: Database, journal: str
) -> None:
    """Be it another program's, or a backup of ours."""
    foreign, backup = home / "foreign.db", home / "backup.db"
    fill(str(backup), [session("dir:/a", 1)])
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE books (title)")
    files = (foreign, backup)
    for file in files:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"PRAGMA journal_mode={journal}")
    before = [file.read_bytes() for file in files]
    for file in files:
        for command in ("check", "current", "list", "servers", "doctor"):
            run(command, url=str(file))
    copied = run("copy", "--from", str(backup), "--to", str(home / "copy.db"))
    assert copied.returncode == 0, copied.stderr
    assert [file.read_bytes() for file in files] == before


@pytest.mark.only("sqlite", reason="only a file may be in a folder")
def test_a_backup_is_read_where_nothing_may_be_written(
    home: Path, database: Database, tmp_path: Path
) -> None:
    fill(database.url, [session("dir:/a", 1)])
    folder = tmp_path / "read-only"
    folder.mkdir()
    backup = folder / "backup.db"
    with closing(sqlite3.connect(database.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    backup.chmod(0o400)
    folder.chmod(0o500)
    try:
        prefix = without_privileges()
        for command in ("check", "current"):
            done = session_store(command, "--url", str(backup), home=home, prefix=prefix)
            assert done.returncode == 0, done.stderr
        words = ("copy", "--from", str(backup), "--to", "copy.db", "--json")
        done = session_store(*words, home=home, prefix=prefix)
        assert done.returncode == 0, done.stderr
        refused = session_store("upgrade", "--url", str(backup), home=home, prefix=prefix)
        assert refused.returncode == 2
        assert "may not write" in refused.stderr
    finally:
        folder.chmod(0o700)


def test_upgrades_at_once_wait_for_each_other(home: Path, database: Database) -> None:
    with (
        running("upgrade", home=home, url=database.url) as one,
        running("upgrade", home=home, url=database.url) as two,
    ):
        outputs = [process.communicate(timeout=PATIENCE) for process in (one, two)]
        assert [one.returncode, two.returncode] == [0, 0], outputs
    assert tables_of(database) == TABLES


def test_steps_back_at_once_are_those_that_were_agreed_to(home: Path, database: Database) -> None:
    """Not as many as there are commands, each of which has promised one."""
    upgraded(database.url)
    with (
        engine_of(database.url) as engine,
        ExitStack() as stack,
    ):
        with (
            migrating.migration_connection(engine) as connection,
            locks.migration_lock(connection),
        ):
            words = ("downgrade", "-1", "--yes")
            waiting = [
                stack.enter_context(running(*words, home=home, url=database.url)) for _ in range(2)
            ]
            for process in waiting:
                assert process.stderr is not None
                assert "Waiting for the migration lock" in process.stderr.readline()
        outputs = [process.communicate(timeout=PATIENCE) for process in waiting]
    assert [process.returncode for process in waiting] == [0, 0], outputs
    with engine_of(database.url) as engine:
        assert status(engine).revision == migrating.revisions()[-2].id


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
def test_nothing_is_run_through_a_pooler_in_transaction_mode(
    run: Run, database: Database, home: Path
) -> None:
    configure(home, *LOOK_LONG)
    with closing(PgBouncer(database)) as bouncer:
        url = bouncer.database.url
        refused = run("upgrade", url=url)
        assert refused.returncode == 2
        assert "is a pooler in transaction mode" in refused.stderr
        assert "Name it: --url env:DIRECT_URL. " in refused.stderr
        assert tables_of(database) == set()
        done = run("upgrade", "--through-pooler", url=url)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("GRANT ") == len(TABLES)
        # What has nothing to run needs no lock.
        assert run("upgrade", url=url).returncode == 0
        refused = run("downgrade", "base", "--yes", url=url)
        assert (refused.returncode, "--through-pooler" in refused.stderr) == (2, True)
    assert tables_of(database) == TABLES


@pytest.mark.only("postgresql", reason="the others' roles keep their rights when a table goes")
def test_the_grants_that_go_with_the_tables_are_planned(run: Run, database: Database) -> None:
    upgraded(database.url)
    with another_user(database) as url:
        database.execute(f"GRANT SELECT ON jupyter_sessions TO {role_of(database, url)}")
        planned = run("downgrade", "base", "--dry-run", url=database.url)
        grant = f"  GRANT SELECT ON jupyter_sessions TO {role_of(database, url)};"
        assert grant in planned.stdout.splitlines()
        assert "GRANT" not in run("downgrade", "-1", "--dry-run", url=database.url).stdout


def test_a_url_that_cannot_be_used_is_told_by_its_option(run: Run, home: Path) -> None:
    for words in (["upgrade"], ["doctor"], ["list"]):
        done = run(*words, "--url", "nowhere://x")
        assert (done.returncode, done.stderr.partition(" names ")[0]) == (2, "Error: --url")
    done = run("upgrade", "--url", f"{home}/no/x.db")
    assert done.stderr.startswith("Error: --url names a file in")
    copied = run("copy", "--from", "nowhere://x", "--to", "y.db")
    assert copied.stderr.startswith("Error: The URL that was given names the dialect")
    configured = run("current", url="nowhere://x")
    assert configured.stderr.startswith("Error: c.SessionManager.database_filepath names")


@pytest.mark.only("sqlite", reason="servers are backed up by their own tools")
def test_a_file_is_backed_up_before_it_is_changed(run: Run, database: Database) -> None:
    fill(database.url, [session("dir:/a", 1)])
    file = Path(database.url.removeprefix("sqlite:///"))
    undone = run("downgrade", "base", "--yes", url=database.url)
    assert undone.returncode == 0, undone.stderr
    (backup,) = file.parent.glob(f"{file.name}.*.backup")
    assert str(backup) in undone.stderr
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT session_id FROM jupyter_sessions").fetchall() == [
            ("session-000001",)
        ]


def test_a_held_lock_is_waited_for_and_can_be_interrupted(home: Path, database: Database) -> None:
    with (
        engine_of(database.url) as engine,
        migrating.migration_connection(engine) as connection,
        locks.migration_lock(connection),
        running("upgrade", home=home, url=database.url) as waiting,
    ):
        assert waiting.stderr is not None
        assert "Waiting for the migration lock" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=PATIENCE) == 130
        assert "Interrupted. The revision that was being run is undone" in waiting.stderr.read()
    assert tables_of(database) == set()
