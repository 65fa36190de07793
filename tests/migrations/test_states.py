"""How a schema stands to the code, what a server does about it, and what it says."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from alembic import command
from alembic.util.exc import CommandError
from sqlalchemy import Engine, inspect

from jupyter_session_store.errors import SchemaMismatch
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.schema import migrating, starting, versions
from jupyter_session_store.sql.schema.versions import HEAD, State

from ..databases import Database, parameters
from ..system.waiting import until
from .shape import shape
from .support import (
    LATER,
    SCOPE,
    TABLES,
    alembic,
    opened,
    record,
    release,
    run_new_python,
    run_python,
    status,
)

#: What a program of another maker, or a hand, may have left under our names.
FOREIGN: Final = {
    "sessions of another": ["CREATE TABLE jupyter_sessions (id INTEGER)"],
    "servers of another": ["CREATE TABLE jupyter_servers (id INTEGER)"],
    "meta of another": ["CREATE TABLE jupyter_session_store_meta (id INTEGER)"],
    "two versions": [
        "CREATE TABLE jupyter_session_store_version (version_num VARCHAR(32))",
        "INSERT INTO jupyter_session_store_version VALUES ('0001')",
        "INSERT INTO jupyter_session_store_version VALUES ('junk')",
    ],
    "a version and nothing else": [
        "CREATE TABLE jupyter_session_store_version (version_num VARCHAR(32))",
        "INSERT INTO jupyter_session_store_version VALUES ('0001')",
    ],
    "a junk version and nothing else": [
        "CREATE TABLE jupyter_session_store_version (version_num VARCHAR(32))",
        "INSERT INTO jupyter_session_store_version VALUES ('junk')",
    ],
    "a version table of another": ["CREATE TABLE jupyter_session_store_version (id INTEGER)"],
}
#: The same, in a database that was ours.
SPOILT: Final = {
    "two versions": "INSERT INTO jupyter_session_store_version VALUES ('junk')",
    "no floor": "DELETE FROM jupyter_session_store_meta",
    "a floor that is no number": "UPDATE jupyter_session_store_meta SET value = 'junk'",
    "no meta": "DROP TABLE jupyter_session_store_meta",
    "no version table": "DROP TABLE jupyter_session_store_version",
}


@contextmanager
def later_code(folder: Path, floor: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the later release's code, with a migration more."""
    # A folder whose name means something to a configuration file and to a shell.
    migrations = release(folder / f"100% later {floor}", floor)
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "migrations_folder", lambda: migrations)
        patch.setattr(versions, "HEAD", LATER)
        patch.setattr(versions, "CODE", 2)
        yield


@pytest.fixture
def make(
    database: Database, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[State], None]:
    """A function that brings the database into a state, seen from this code."""

    def bring(state: State) -> None:
        if state is State.FOREIGN:
            database.execute("CREATE TABLE jupyter_sessions (id INTEGER)")
        elif state is State.CURRENT:
            migrating.upgrade(engine)
        elif state is State.DAMAGED:
            migrating.upgrade(engine)
            engine.dispose()
            database.execute("DROP TABLE jupyter_servers")
        elif state in (State.AHEAD_COMPATIBLE, State.AHEAD_INCOMPATIBLE):
            floor = 1 if state is State.AHEAD_COMPATIBLE else 2
            with later_code(tmp_path, floor, monkeypatch):
                migrating.upgrade(engine)
        elif state is not State.EMPTY:
            raise NotImplementedError(state)

    return bring


def tables(engine: Engine) -> dict[str, list[str]]:
    inspector = inspect(engine)
    return {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in inspector.get_table_names()
    }


def secret(database: Database) -> str:
    """Return what no text may show."""
    return str(parameters(database.url).get("password") or database.url)


SEEN: Final = [state for state in State if state is not State.BEHIND]


@pytest.mark.parametrize("state", SEEN, ids=lambda state: state.name)
def test_a_state_is_told_and_what_a_server_does(
    database: Database, engine: Engine, make: Callable[[State], None], state: State
) -> None:
    make(state)
    before = tables(engine)
    found = status(engine)
    assert found.state is state
    assert found.usable is (state in (State.CURRENT, State.AHEAD_COMPATIBLE))
    assert (found.revision, found.oldest_compatible_code) == {
        State.CURRENT: (versions.HEAD, 1),
        State.DAMAGED: (versions.HEAD, 1),
        State.AHEAD_COMPATIBLE: (LATER, 1),
        State.AHEAD_INCOMPATIBLE: (LATER, 2),
    }.get(state, (None, None))
    for auto_upgrade in ("never", "safe", "always"):
        if found.usable:
            assert starting.ensure(engine, auto_upgrade) == found
        elif state is State.EMPTY and auto_upgrade != "never":
            continue
        else:
            with pytest.raises(SchemaMismatch) as refusal:
                starting.ensure(engine, auto_upgrade)
            text = versions.explain(found, urls.describe(engine.url))
            assert str(refusal.value) == text
            assert secret(database) not in text
        assert tables(engine) == before


@pytest.mark.parametrize("auto_upgrade", ["safe", "always"])
def test_a_server_fills_an_empty_database(engine: Engine, auto_upgrade: str) -> None:
    assert starting.ensure(engine, auto_upgrade) == versions.Status(State.CURRENT, versions.HEAD, 1)
    assert tables(engine).keys() == TABLES


def test_what_a_server_does_with_a_database_that_is_behind(
    database: Database, at_head: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(at_head)
    with later_code(tmp_path, 1, monkeypatch):
        assert status(at_head) == versions.Status(State.BEHIND, HEAD, 1)
        for auto_upgrade in ("never",) if database.kind == "sqlite" else ("never", "safe"):
            with pytest.raises(
                SchemaMismatch, match=f"at revision {HEAD}, which is behind"
            ) as refusal:
                starting.ensure(at_head, auto_upgrade)
            assert secret(database) not in str(refusal.value)
            assert tables(at_head) == before
        upgraded = starting.ensure(at_head, "safe" if database.kind == "sqlite" else "always")
        assert upgraded == versions.Status(State.CURRENT, LATER, 1)
    assert "note" in tables(at_head)["jupyter_sessions"]


def test_always_upgrades_a_file_too(
    at_head: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with later_code(tmp_path, 1, monkeypatch):
        assert starting.ensure(at_head, "always").revision == LATER


def test_tables_of_our_names_that_are_not_ours(database: Database, engine: Engine) -> None:
    told = {}
    for name, statements in FOREIGN.items():
        for statement in statements:
            database.execute(statement)
        told[name] = refused_and_left(database, engine)
        for table in TABLES:
            database.execute(f"DROP TABLE IF EXISTS {table}")
    assert told == dict.fromkeys(FOREIGN, "refused and left")


def test_tables_of_ours_that_were_spoilt(database: Database, engine: Engine) -> None:
    told = {}
    for name, statement in SPOILT.items():
        for table in TABLES:
            database.execute(f"DROP TABLE IF EXISTS {table}")
        migrating.upgrade(engine)
        database.execute(statement)
        told[name] = refused_and_left(database, engine)
    assert told == dict.fromkeys(SPOILT, "refused and left")


def refused_and_left(database: Database, engine: Engine) -> str:
    """Return what became of a server that met a foreign database, in a few words."""
    before = tables(engine)
    for auto_upgrade in ("safe", "always", "never"):
        try:
            starting.ensure(engine, auto_upgrade)
        except SchemaMismatch as error:
            text = str(error)
        except Exception as error:
            return type(error).__name__
        else:
            return "accepted"
        assert "Nothing was changed." in text
        assert f"expects revision {versions.HEAD}" in text
        assert versions.ANOTHER in text
        assert secret(database) not in text
    return "refused and left" if tables(engine) == before else "changed"


# -------------------------------------------------------------------- the texts


SECRET_URLS: Final = {
    "postgresql://jupyter:s3cr3t@db:5433/jupyter": "postgresql jupyter@db:5433/jupyter",
    "mysql://jupyter:s3cr3t@db/jupyter": "mysql jupyter@db:3306/jupyter",
    "mariadb://jupyter:s3cr3t@db/jupyter": "mariadb jupyter@db:3306/jupyter",
    "sqlite:////srv/sessions.db": "sqlite /srv/sessions.db",
}


@pytest.mark.parametrize("url", SECRET_URLS)
def test_the_texts_name_what_was_found_what_is_expected_and_what_to_run(url: str) -> None:
    shown = urls.describe(urls.parse(url))
    assert shown == SECRET_URLS[url]
    upgrade = "Run: jupyter session-store upgrade\n"
    expected = f"this code expects revision {versions.HEAD}"
    texts = {
        State.EMPTY: ("holds no session tables", expected, upgrade),
        State.BEHIND: ("is at revision 0000, which is behind", expected, upgrade),
        State.AHEAD_COMPATIBLE: ("is at revision 0000, newer", expected, "Nothing to run."),
        State.AHEAD_INCOMPATIBLE: (
            "is at revision 0000, which needs code of generation 7 or later",
            f"this code is of generation {versions.CODE}",
            "Run: pip install --upgrade jupyter_session_store",
        ),
        State.DAMAGED: (
            "is at revision 0000 and is damaged: it lacks jupyter_sessions.",
            "Restore a backup; ",
            "Or give up what is left: jupyter session-store downgrade base --yes; ",
            "jupyter session-store upgrade. If it is not yours, ",
        ),
        State.FOREIGN: ("did not make", expected, "name another database or schema ("),
    }
    assert texts.keys() == set(State) - {State.CURRENT}
    for state, parts in texts.items():
        revision = None if state is State.EMPTY else "0000"
        status = versions.Status(state, revision, 7, missing=("jupyter_sessions",))
        text = versions.explain(status, shown)
        assert text.startswith(f"The database ({shown}) ")
        assert [part for part in parts if part not in text] == []
        assert "s3cr3t" not in text


def test_the_command_of_the_text_does_what_it_says(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(SchemaMismatch) as refusal:
        starting.ensure(engine, "never")
    found = re.search(r"Run: (jupyter .*)$", str(refusal.value), re.MULTILINE)
    assert found is not None
    scripts = Path(sys.executable).parent
    done = run_python(
        "-m",
        *found[1].split(),
        home=tmp_path,
        cwd=tmp_path,
        JUPYTER_SESSION_STORE_URL=database.url,
        PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}",
    )
    assert done.returncode == 0, done.stdout
    assert starting.ensure(engine, "never").state is State.CURRENT


def test_migrations_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "package" / "sql" / "migrating.py")
    monkeypatch.setattr(migrating, "__file__", elsewhere)
    with pytest.raises(SchemaMismatch, match="pip install --force-reinstall"):
        migrating.migrations_folder()


# -------------------------------------------------------------- through the door


async def test_older_code_works_on_a_newer_schema_that_has_room_for_it(
    database: Database, engine: Engine, make: Callable[[State], None]
) -> None:
    make(State.AHEAD_COMPATIBLE)
    before = shape(database)
    with opened(database.url, auto_upgrade="always") as repository:
        await repository.add(record("a"))
        assert await repository.update(SCOPE, "a", {"name": "b"}) is not None
        [found] = await repository.find(SCOPE)
        assert found.name == "b"
    assert shape(database) == before


async def test_a_database_that_moves_ahead_does_not_stop_a_server(
    database: Database, at_head: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database.url) as repository:
        await repository.add(record("before"))
        with later_code(tmp_path, 1, monkeypatch):
            migrating.upgrade(at_head)
        await repository.add(record("after"))
        found = await repository.find(SCOPE)
    assert sorted(one.session_id for one in found) == ["after", "before"]


@pytest.mark.parametrize(
    "state", [State.FOREIGN, State.AHEAD_INCOMPATIBLE, State.EMPTY], ids=lambda state: state.name
)
def test_a_refused_server_leaves_neither_thread_nor_connection(
    database: Database, engine: Engine, make: Callable[[State], None], state: State
) -> None:
    make(state)
    engine.dispose()
    before = set(threading.enumerate())
    with pytest.raises(SchemaMismatch), opened(database.url, auto_upgrade="never"):
        pass
    # Not their number: one that an earlier test has left may end meanwhile.
    until(lambda: set(threading.enumerate()) <= before, why="its thread ends")
    # A server of databases sees a moment later that its client has gone.
    deadline = time.monotonic() + 30
    while (left := connections(database)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def connections(database: Database) -> list[tuple[object, ...]]:
    """Return the connections that the store holds; a file tells by what it lets another do."""
    if database.kind == "postgresql":
        return database.rows(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'jupyter_session_store %'"
            " AND datname = current_database()"
        )
    if database.kind == "mysql":
        return database.rows(
            "SELECT id FROM information_schema.processlist"
            " WHERE db = database() AND id <> connection_id()"
        )
    with closing(database.connect()) as connection:
        # Leaving WAL needs the file for oneself.
        mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    return [] if mode == ("delete",) else [mode]


def test_an_upgrade_leaves_the_module_path_alone(engine: Engine) -> None:
    """A server's working directory is its user's: modules must not come from there."""
    before = list(sys.path)
    assert starting.ensure(engine, "safe").state is State.CURRENT
    assert sys.path == before


def test_a_repository_does_not_import_alembic_to_make_its_tables(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    code = """if True:
        import os, sys
        from tests.migrations.support import opened
        with opened(os.environ["DATABASE"]):
            print(*(name for name in sys.modules if name.partition(".")[0] == "alembic"))
    """
    for _ in ("makes them", "finds them"):
        done = run_new_python("-c", code, home=tmp_path, DATABASE=database.url)
        assert done.stdout == "\n"
        assert status(engine).state is State.CURRENT


def test_alembic_that_is_older_than_the_database_says_so(
    engine: Engine, make: Callable[[State], None]
) -> None:
    make(State.AHEAD_COMPATIBLE)
    before = tables(engine)
    with pytest.raises((CommandError, SchemaMismatch), match=LATER):
        alembic(command.upgrade, engine, "head")
    assert tables(engine) == before
