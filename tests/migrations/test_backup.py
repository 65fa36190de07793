"""A SQLite file is backed up before its schema changes, by whoever changes it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from alembic import command

from jupyter_session_store.sql.engine import sqlite
from jupyter_session_store.sql.schema import backup, migrating
from jupyter_session_store.sql.schema.versions import HEAD, State

from ..programs import run_to_end
from ..system.waiting import until
from .support import (
    LATER,
    SCOPE,
    alembic,
    engine_of,
    opened,
    record,
    release,
    run_python,
    status,
    surroundings,
    without_privileges,
)
from .test_adoption import stock_manager
from .test_states import later_code

NAME: Final = re.compile(r"sessions\.db\.(\w+)-\d{8}T\d{6}Z(-\d+)?\.backup")
SESSIONS: Final = [f"session-{number}" for number in range(20)]


@pytest.fixture(params=["wal", "delete"])
def journal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How SQLite keeps the file whole; it is the latter on a network file system."""
    monkeypatch.setattr(sqlite, "is_on_network_file_system", lambda _: request.param == "delete")
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file at the first revision, with sessions."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "sessions.db"
    with opened(str(file)) as repository:
        for session_id in SESSIONS:
            asyncio.run(repository.add(record(session_id)))
    assert backups(file) == []
    return file


def backups(file: Path) -> list[Path]:
    """Return the backups of a file, and check that there is nothing else beside it."""
    own = {file.name, f"{file.name}-wal", f"{file.name}-shm"}
    found = sorted(path for path in file.parent.iterdir() if path.name not in own)
    assert all(NAME.fullmatch(path.name) for path in found), found
    return found


def revision_of(path: Path) -> str:
    return str(read(path, "SELECT version_num FROM jupyter_session_store_version")[0][0])


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Query a file that may not be written, without the package."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def columns_of(path: Path) -> list[object]:
    return [row[1] for row in read(path, "PRAGMA table_info(jupyter_sessions)")]


def check(path: Path, revision: str = HEAD, sessions: list[str] = SESSIONS) -> None:
    """Check that a backup is whole, private, and a file of its own."""
    assert path.stat().st_mode & 0o777 == 0o600
    assert revision_of(path) == revision
    assert sorted(str(one) for (one,) in read(path, "SELECT session_id FROM jupyter_sessions")) == (
        sorted(sessions)
    )
    assert read(path, "PRAGMA integrity_check") == [("ok",)]
    assert read(path, "PRAGMA journal_mode") == [("delete",)]


@contextmanager
def in_use(file: Path) -> Iterator[None]:
    """Hold a file open, as a server does: in WAL mode its newest rows are beside it."""
    with engine_of(str(file)) as engine, engine.connect() as connection:
        connection.exec_driver_sql("UPDATE jupyter_sessions SET name = 'touched'")
        yield


def upgraded_by_a_server(file: Path, _folder: Path) -> None:
    with opened(str(file)):
        pass


def upgraded_in_process(file: Path, _folder: Path) -> None:
    with engine_of(str(file)) as engine:
        migrating.upgrade(engine)


def upgraded_by_the_command(file: Path, folder: Path) -> None:
    # Alembic reads no alembic.ini in a folder with the name that the other ways have to bear.
    ini = release(folder / "plain", 1).parent / "alembic.ini"
    words = ("-m", "alembic", "-c", str(ini), "upgrade", "head")
    done = run_python(*words, home=folder, JUPYTER_SESSION_STORE_URL=str(file))
    assert done.returncode == 0, done.stdout
    [made] = backups(file)
    assert str(made) in done.stdout
    # To this process's log too, where the others have said it.
    logging.getLogger("jupyter_session_store").info("%s", done.stdout)


WAYS: Final[dict[str, Callable[[Path, Path], None]]] = {
    "server": upgraded_by_a_server,
    "in process": upgraded_in_process,
    "alembic": upgraded_by_the_command,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_upgrade_backs_up_first(
    journal: str,
    file: Path,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with in_use(file), later_code(tmp_path, 1, monkeypatch):
        WAYS[way](file, tmp_path)
        assert revision_of(file) == LATER
        assert "note" in columns_of(file)
        [made] = backups(file)
        check(made)
        assert "note" not in columns_of(made)
        assert read(made, "SELECT DISTINCT name FROM jupyter_sessions") == [("touched",)]
        assert repr(str(made)) in caplog.text
        assert "Backed up the SQLite file" in caplog.text
        # Nothing is left to do; a server that comes sets the journal.
        with engine_of(str(file)) as engine:
            migrating.upgrade(engine)
        with opened(str(file)):
            pass
        assert backups(file) == [made]
    assert read(file, "PRAGMA journal_mode") == [(journal,)]


def test_a_downgrade_backs_up_first(
    journal: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with later_code(tmp_path, 1, monkeypatch), engine_of(str(file)) as engine:
        migrating.upgrade(engine)
        [first] = backups(file)
        with in_use(file):
            migrating.downgrade(engine, "-1")
        [second] = set(backups(file)) - {first}
        assert second.name.startswith(f"sessions.db.{LATER}-")
        check(second, LATER)
        migrating.downgrade(engine, "base")
        assert len(backups(file)) == 3
        # It holds nothing of ours any more.
        migrating.upgrade(engine)
    assert len(backups(file)) == 3
    assert read(file, "PRAGMA journal_mode") == [(journal,)]


def test_the_backup_takes_the_place_of_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the documentation says, with the servers stopped."""
    with later_code(tmp_path, 2, monkeypatch), engine_of(str(file)) as engine:
        migrating.upgrade(engine)
    with engine_of(str(file)) as engine:
        assert status(engine).state is State.AHEAD_INCOMPATIBLE
    [made] = backups(file)
    made.replace(file)
    with opened(str(file)) as repository:
        found = asyncio.run(repository.find(SCOPE))
    assert [one.session_id for one in found] == SESSIONS


@pytest.mark.parametrize("look", ["current", "check", "stamp"])
def test_what_runs_no_revision_makes_no_backup(file: Path, look: str) -> None:
    with engine_of(str(file)) as engine:
        if look == "stamp":
            alembic(command.stamp, engine, "head")
        else:
            alembic(getattr(command, look), engine)
    assert backups(file) == []


@pytest.mark.parametrize("what", ["nothing", "an empty file"])
def test_a_file_without_tables_is_not_backed_up(tmp_path: Path, what: str) -> None:
    file = tmp_path / "sessions.db"
    if what == "an empty file":
        file.touch()
    with engine_of(str(file)) as engine:
        migrating.upgrade(engine)
    assert backups(file) == []


def test_a_file_of_the_stock_manager_is_backed_up_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "sessions.db"
    row = ("s", "p", "", "notebook", "k")
    with stock_manager(file) as manager:
        manager.cursor.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", row)
    before = read(file, "SELECT name, sql FROM sqlite_master")
    for _ in range(2):
        with opened(str(file)):
            pass
    [made] = backups(file)
    assert made.name.startswith("sessions.db.base-")
    assert made.stat().st_mode & 0o777 == 0o600
    assert read(made, "SELECT * FROM session") == [row]
    assert read(made, "SELECT name, sql FROM sqlite_master") == before
    assert repr(str(made)) in caplog.text


def test_a_file_of_another_program_is_backed_up(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE books (title)")
        connection.execute("INSERT INTO books VALUES ('Emma')")
        connection.commit()
    with engine_of(str(file)) as engine:
        migrating.upgrade(engine)
    [made] = backups(file)
    assert read(made, "SELECT title FROM books") == [("Emma",)]


@pytest.mark.parametrize(
    "url", [":memory:", "sqlite:///file:memory?mode=memory&cache=shared&uri=true"]
)
def test_a_database_in_memory_is_not_backed_up(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with engine_of(url) as engine:
        migrating.upgrade(engine)
        migrating.downgrade(engine, "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelling", ["sqlite:///file:{}?uri=true", "{}-link"])
def test_the_backup_is_beside_the_file_however_it_is_named(
    file: Path, spelling: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sessions.db-link").symlink_to(file)
    name = elsewhere / "sessions.db" if "link" in spelling else file
    with engine_of(spelling.format(name)) as engine:
        migrating.downgrade(engine, "base")
    [made] = backups(file)
    check(made)
    assert [path.name for path in elsewhere.iterdir()] == ["sessions.db-link"]


def test_no_backup_is_overwritten(file: Path) -> None:
    """However many are made within a second."""
    with engine_of(str(file)) as engine, engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        made = [backup.back_up(connection, HEAD) for _ in range(3)]
        connection.exec_driver_sql("ROLLBACK")
    assert sorted(made, key=str) == backups(file)
    for one in backups(file):
        check(one)


def test_nothing_is_written_between_the_backup_and_the_upgrade(
    journal: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    ended = threading.Event()
    begun = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
            number = 0
            while not ended.is_set():
                connection.execute("BEGIN IMMEDIATE")
                [(revision,)] = connection.execute(
                    "SELECT version_num FROM jupyter_session_store_version"
                )
                name = f"written-{number}"
                # Named by its columns, as the code does, so that a new one is not in its way.
                connection.execute(
                    "INSERT INTO jupyter_sessions (namespace, session_id, authority, state,"
                    " created_at, updated_at) VALUES ('n', ?, 'a', 'ready', '', '')",
                    (name,),
                )
                connection.execute("COMMIT")
                seen[name] = revision
                number += 1
                begun.set()
                # Whoever polls for the lock gets it in between.
                ended.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        with later_code(tmp_path, 1, monkeypatch), engine_of(str(file)) as engine:
            migrating.upgrade(engine)
        until(lambda: LATER in list(seen.values()), why="the writer goes on")
    finally:
        ended.set()
        writer.join()
    [made] = backups(file)
    older = [name for name, revision in seen.items() if revision == HEAD]
    assert older
    assert len(older) < len(seen), "nothing was written after the upgrade"
    check(made, HEAD, [*SESSIONS, *older])
    assert read(file, "PRAGMA journal_mode") == [(journal,)]


# -------------------------------------------------- what cannot be written


UPGRADE: Final = """if True:
    import os, resource, sys
    from pathlib import Path
    from jupyter_session_store.errors import StoreUnavailable
    from jupyter_session_store.sql import engine
    from jupyter_session_store.sql.schema import migrating
    file, later = sys.argv[1:]
    migrating.migrations_folder = lambda: Path(later)
    made = engine.create(file)
    with made.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    {before}
    try:
        migrating.upgrade(made)
    except StoreUnavailable as error:
        print(error)
    else:
        print("upgraded")
"""
FULL: Final = "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))"
NOT_WRITABLE: Final = "os.chmod(os.path.dirname(file), 0o500)"
KILLED: Final = "Path.rename = lambda *_: os.kill(os.getpid(), 9)"


def upgrade_after(before: str, file: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Upgrade a file in a process that meets something first."""
    code = UPGRADE.format(before=before)
    later = tmp_path / "later" / "migrations"
    if not later.exists():
        release(later.parent, 1)
    return run_to_end(
        [*without_privileges(), sys.executable, "-c", code, str(file), str(later)],
        # Bytecode would be cut off where the file is.
        env=surroundings(tmp_path, PYTHONDONTWRITEBYTECODE="1"),
        timeout=100,
    )


@pytest.mark.parametrize("before", [FULL, NOT_WRITABLE], ids=["full", "not writable"])
def test_without_a_backup_nothing_is_changed(file: Path, before: str, tmp_path: Path) -> None:
    assert file.stat().st_size > 8192, "the limit is not reached"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    done = upgrade_after(before, file, tmp_path)
    file.parent.chmod(0o700)
    assert done.returncode == 0, done.stdout
    assert "could not be backed up before its schema is changed (" in done.stdout
    for part in (repr(str(file)), f"{file.stat().st_size} bytes in", "Nothing was changed."):
        assert part in done.stdout
    assert "run: jupyter session-store upgrade" in done.stdout
    assert backups(file) == []
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert revision_of(file) == HEAD
    # What kept it from going on is gone.
    assert upgrade_after("", file, tmp_path).stdout == "upgraded\n"
    check(backups(file)[0])


def test_a_backup_that_was_killed_is_not_taken_for_one(file: Path, tmp_path: Path) -> None:
    done = upgrade_after(KILLED, file, tmp_path)
    assert done.returncode == -9, done.stdout
    [left] = file.parent.glob("*.partial")
    assert left.stat().st_mode & 0o777 == 0o600
    left.unlink()
    assert backups(file) == []
    assert revision_of(file) == HEAD
    assert upgrade_after("", file, tmp_path).stdout == "upgraded\n"
    check(backups(file)[0])


def test_a_server_whose_file_cannot_be_backed_up_says_so_and_serves_later(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with later_code(tmp_path, 1, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(backup, "_new_file", full)
            with opened(str(file)) as repository:
                assert "could not be backed up" in caplog.text
                assert "database or disk is full" in caplog.text
                assert revision_of(file) == HEAD
                patch.undo()
                found = asyncio.run(repository.find(SCOPE))
        assert [one.session_id for one in found] == SESSIONS
        assert revision_of(file) == LATER
    check(backups(file)[0])
