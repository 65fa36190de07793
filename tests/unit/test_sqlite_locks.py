"""Whoever looks at a SQLite file leaves the locks on it that this process has."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.sqlite_files import is_sqlite_file

#: What another process does with the file: it prints what it is told.
_OTHER: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0.1, isolation_level=None)
try:
    print(connection.execute(sys.argv[2]).fetchall())
except sqlite3.OperationalError as error:
    print(error)
connection.close()
"""


@pytest.fixture(params=["wal", "delete"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file with a table, which this process has open."""
    path = tmp_path / "a b%20?#.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={request.param}")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        yield path


def by_another_process(file: Path, sql: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _OTHER, str(file), sql], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def look(file: Path) -> None:
    """Do what a second manager of this process does, and a command in it."""
    for writes in (True, False):
        engines.check(str(file), writes=writes)
        engines.create(str(file), writes=writes).dispose()


def test_no_other_process_writes_between(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (2)")
        look(file)
        assert by_another_process(file, "INSERT INTO t VALUES (3)") == "database is locked"
        connection.execute("COMMIT")
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]


def test_no_other_process_takes_itself_for_the_last(file: Path) -> None:
    """The last that closes a file in WAL mode deletes the log, which this process writes to."""
    log = Path(f"{file}-wal")
    had_log = log.exists()
    look(file)
    assert by_another_process(file, "SELECT x FROM t") == "[(1,)]"
    assert log.exists() is had_log
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        connection.commit()
    assert by_another_process(file, "SELECT x FROM t") == "[(1,), (2,)]"


def test_a_file_that_another_thread_makes_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.create(str(file))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            # When it was looked for, it was not there.
            patch.setattr(Path, "exists", lambda _path: False)
            engine.connect().close()
        assert by_another_process(file, "INSERT INTO t VALUES (3)") == "database is locked"
        connection.execute("COMMIT")
    engine.dispose()


@pytest.mark.parametrize(
    "content",
    [b"x", b"SQLite format 3\x00", b"no database " * 1000, b"SQLite format 3\x00" + bytes(4080)],
)
def test_what_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    assert not is_sqlite_file(path)
    with pytest.raises(ConfigurationError, match="is not an SQLite database file"):
        engines.check(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["x.db"]
    assert path.read_bytes() == content


def test_a_database_that_is_damaged_is_one(file: Path) -> None:
    """What is wrong with it is found where it is used."""
    with file.open("r+b") as opened:
        opened.seek(100)
        opened.write(b"\xff" * 200)
    assert is_sqlite_file(file)
