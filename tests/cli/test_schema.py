"""upgrade, downgrade, current, history and check, as an operator runs them."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import inspect

from jupyter_session_store.sql import locks, migrating, schema

from ..databases import Database
from ..migrations.support import LATER, TABLES, engine_of, release
from .conftest import Run
from .support import PATIENCE, fill, running, session, shows_password, upgraded

pytestmark = pytest.mark.timeout(600)

NEWEST: Final = f"revision {schema.HEAD}"


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
    assert "1 revision to run" in planned.stdout
    assert tables_of(database) == set()

    before = run("check", url=database.url)
    assert before.returncode == 1
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
    assert (found["revision"], found["state"], found["usable"]) == (schema.HEAD, "current", True)
    assert (found["code"], found["head"]) == (schema.CODE, schema.HEAD)
    plain = run("current", url=database.url)
    assert f"revision                {schema.HEAD}" in plain.stdout.splitlines()

    planned = run("downgrade", "base", "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert "loses every session" in planned.stdout
    refused = run("downgrade", "base", url=database.url)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert current(run, database.url)["revision"] == schema.HEAD

    undone = run("downgrade", "base", "--yes", url=database.url)
    assert undone.returncode == 0, undone.stderr
    assert tables_of(database) == {schema.VERSION_TABLE}
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
    back = run("downgrade", "--sql", f"{schema.HEAD}:base", "--yes", url=database.url)
    assert back.returncode == 0, back.stderr
    assert current(run, database.url)["state"] == "current"
    assert "DROP TABLE" in back.stdout
    refused = run("downgrade", "--sql", "base", url=database.url)
    assert refused.returncode == 2
    assert f"{schema.HEAD}:base" in refused.stderr


@pytest.mark.parametrize("floor", [1, 99])
def test_a_database_of_a_newer_version(
    run: Run, database: Database, floor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = release(tmp_path / "later", floor)
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "migrations_folder", lambda: later)
        upgraded(database.url)
    check = run("check", url=database.url)
    upgrade = run("upgrade", url=database.url)
    downgrade = run("downgrade", "base", "--yes", url=database.url)
    listed = run("list", url=database.url)
    # Whoever knows less than the database takes nothing away from it.
    assert downgrade.returncode == 4
    if floor == 1:
        assert (check.returncode, upgrade.returncode, listed.returncode) == (0, 0, 0)
        assert "Nothing to run" in upgrade.stdout
    else:
        assert (check.returncode, upgrade.returncode, listed.returncode) == (1, 4, 4)
        for answer in (check, upgrade, downgrade, listed):
            assert "pip install --upgrade jupyter_session_store" in answer.stderr
    assert current(run, database.url)["revision"] == LATER


def test_tables_of_another_program_are_left_alone(run: Run, database: Database) -> None:
    database.execute("CREATE TABLE jupyter_sessions (id integer)")
    for command in ("upgrade", "downgrade base --yes", "list"):
        answer = run(*command.split(), url=database.url)
        assert answer.returncode == 4, answer.stdout
        assert "did not make" in answer.stderr
    check = run("check", url=database.url)
    assert check.returncode == 1
    assert "did not make" in check.stderr
    assert tables_of(database) == {"jupyter_sessions"}


def test_history_needs_no_database(run: Run) -> None:
    answer = run("history", "--json", url="postgresql://nobody@no-such-host.invalid/nothing")
    assert answer.returncode == 0, answer.stderr
    rows = json.loads(answer.stdout)
    assert [row["revision"] for row in rows][-1] == schema.HEAD
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


def test_check_does_not_wait_longer(run: Run, database: Database) -> None:
    begun = time.monotonic()
    answer = run("check", "--wait", "1", url=database.url)
    assert answer.returncode == 1
    assert time.monotonic() - begun >= 1
    assert "Run: jupyter session-store upgrade" in answer.stderr


def test_upgrades_at_once_wait_for_each_other(home: Path, database: Database) -> None:
    with (
        running("upgrade", home=home, url=database.url) as one,
        running("upgrade", home=home, url=database.url) as two,
    ):
        outputs = [process.communicate(timeout=PATIENCE) for process in (one, two)]
        assert [one.returncode, two.returncode] == [0, 0], outputs
    assert tables_of(database) == TABLES


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
        assert "Interrupted" in waiting.stderr.read()
    assert tables_of(database) == set()
