"""Tables that are missing although a revision is recorded, and a downgrade that was killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, event, inspect

from jupyter_session_store.errors import SchemaMismatch
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.schema import migrating, versions
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.sql.tables import METADATA

from ..cli.conftest import Run, home, run
from ..cli.doctor_support import look
from ..databases import Database
from .shape import shape
from .support import TABLES, engine_of, opened, run_python, status

__all__ = ["home", "run"]

DROPPED: Final = {
    "sessions": (["DROP TABLE jupyter_sessions"], "jupyter_sessions"),
    "servers": (["DROP TABLE jupyter_servers"], "jupyter_servers"),
    "meta": (["DROP TABLE jupyter_session_store_meta"], "jupyter_session_store_meta"),
    "a column": (
        ["ALTER TABLE jupyter_servers DROP COLUMN renewals"],
        "jupyter_servers.renewals",
    ),
}


@pytest.mark.parametrize("what", DROPPED)
def test_a_damaged_schema_is_told(database: Database, at_head: Engine, run: Run, what: str) -> None:
    statements, missing = DROPPED[what]
    at_head.dispose()
    for statement in statements:
        database.execute(statement)
    before = shape(database)
    found = status(at_head)
    assert (found.state, found.usable, found.missing) == (State.DAMAGED, False, (missing,))
    at_head.dispose()
    for auto_upgrade in ("safe", "always"):
        with (
            pytest.raises(SchemaMismatch, match=f"damaged: it lacks {missing}"),
            opened(database.url, auto_upgrade=auto_upgrade),
        ):
            pass
    told = "jupyter session-store downgrade"
    for words, code in ((["check"], 4), (["upgrade"], 4), (["list"], 4)):
        done = run(*words, url=database.url)
        assert (done.returncode, missing in done.stderr, told in done.stderr) == (code, True, True)
    assert '"damaged"' in run("current", "--json", url=database.url).stdout
    revision = look(database.url)["revision"]
    assert missing in revision.text
    assert revision.verdict is Verdict.FAILED
    assert [told in one for one in revision.cure] == [False, True, False, False]
    assert shape(database) == before
    # What the text says.
    assert run("downgrade", "base", "--yes", url=database.url).returncode == 0
    assert run("upgrade", url=database.url).returncode == 0
    assert status(at_head).state is State.CURRENT


def alembic(database: Database, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Alembic's own command."""
    url = ("-x", "url=env:DATABASE_URL")
    return run_python("-m", "alembic", *url, *words, home=home, DATABASE_URL=database.url)


def test_alembic_itself_does_not_take_it_for_upgraded(
    database: Database, at_head: Engine, tmp_path: Path
) -> None:
    at_head.dispose()
    database.execute("DROP TABLE jupyter_sessions")
    refused = alembic(database, tmp_path, "upgrade", "head")
    assert refused.returncode != 0
    assert "damaged: it lacks jupyter_sessions" in refused.stdout
    for table in ("jupyter_servers", "jupyter_session_store_meta"):
        database.execute(f"DROP TABLE {table}")
    assert alembic(database, tmp_path, "current").returncode == 0
    assert alembic(database, tmp_path, "upgrade", "head").returncode == 0
    assert status(at_head).state is State.CURRENT


@pytest.mark.parametrize("table", METADATA.tables)
def test_a_database_that_is_behind_may_be_damaged_too(
    database: Database, engine: Engine, table: str
) -> None:
    """An upgrade would fail at it, or make a part of it anew."""
    migrating.upgrade(engine, "0001")
    assert status(engine).state is State.BEHIND
    database.execute(f"DROP TABLE {table}")
    found = status(engine)
    assert (found.state, found.revision, found.missing) == (State.DAMAGED, "0001", (table,))
    engine.dispose()
    migrating.downgrade(engine, "base")
    migrating.upgrade(engine)
    assert status(engine).state is State.CURRENT


@pytest.mark.parametrize("code", ["newer", "older"])
def test_a_damaged_schema_of_a_newer_release(
    database: Database, at_head: Engine, code: str
) -> None:
    """What is missing of it is told where this code would use it."""
    database.execute("UPDATE jupyter_session_store_version SET version_num = '9999'")
    floor = "1" if code == "newer" else "9"
    database.execute(f"UPDATE jupyter_session_store_meta SET value = '{floor}'")
    database.execute("DROP TABLE jupyter_sessions")
    expected = State.DAMAGED if code == "newer" else State.AHEAD_INCOMPATIBLE
    assert status(at_head).state is expected


class Killed(BaseException):
    """Ends a migration as a signal does."""


@contextmanager
def killed_after(engine: Engine, number: int) -> Iterator[None]:
    """Kill a migration before its statement after so many that change something."""
    seen = 0

    def count(_cursor: object, statement: str, *_: object) -> None:
        nonlocal seen
        if statement.lstrip().startswith(("CREATE", "DROP", "DELETE", "INSERT", "UPDATE", "ALTER")):
            seen += 1
            if seen > number:
                raise Killed

    events = ("do_execute", "do_execute_no_params")
    for name in events:
        event.listen(engine, name, count)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        for name in events:
            event.remove(engine, name, count)


#: An index, a column, three tables, and the row of the revision twice.
DOWN: Final = 7
#: The table of the version, the other three, their indexes, the floor and the row; then a column,
#: its index, and the row.
UP: Final = 12


def again_by(run: Run, database: Database, *words: str) -> None:
    done = run(*words, url=database.url)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", range(DOWN))
def test_a_downgrade_that_was_killed_is_repeated(
    database: Database, at_head: Engine, run: Run, number: int
) -> None:
    with engine_of(database.url) as engine, killed_after(engine, number):
        migrating.downgrade(engine, "base")
    again_by(run, database, "downgrade", "base", "--yes")
    assert status(at_head).state is State.EMPTY
    again_by(run, database, "upgrade")
    assert status(at_head).state is State.CURRENT


def test_an_upgrade_after_a_downgrade_that_was_killed_at_its_end(
    database: Database, at_head: Engine, run: Run
) -> None:
    before = shape(database)
    for table in METADATA.tables:
        database.execute(f"DROP TABLE {table}")
    found = status(at_head)
    assert (found.state, found.is_bare) == (State.DAMAGED, True)
    at_head.dispose()
    planned = run("upgrade", "--dry-run", url=database.url).stdout
    assert f"{len(migrating.revisions())} revisions to run" in planned
    assert set(inspect(at_head).get_table_names()) & TABLES == {versions.VERSION_TABLE}
    at_head.dispose()
    again_by(run, database, "upgrade")
    assert shape(database) == before
    assert status(at_head).state is State.CURRENT


@pytest.mark.parametrize("number", range(UP))
def test_an_upgrade_that_was_killed_is_repeated(
    database: Database, engine: Engine, run: Run, number: int
) -> None:
    with engine_of(database.url) as other, killed_after(other, number):
        migrating.upgrade(other)
    again_by(run, database, "upgrade")
    assert status(engine).state is State.CURRENT
