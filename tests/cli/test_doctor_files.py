"""``doctor`` and what can be wrong with a SQLite file."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from jupyter_session_store.sql.doctor import Verdict, sqlite
from jupyter_session_store.sql.engine import sqlite as engine_sqlite

from .conftest import Run
from .doctor_support import (
    GENERAL,
    look,
    told,
    unwell,
)
from .support import fill, session, upgraded


def test_a_file_that_others_can_read(run: Run, home: Path) -> None:
    folder = home / "it's a folder"
    folder.mkdir()
    file = folder / "my sessions.db"
    upgraded(str(file))
    file.chmod(0o644)
    done = run("doctor", "--json", url=str(file))
    findings = told(done)
    assert done.returncode == 0
    assert unwell(findings) == {"file": Verdict.WARNING}
    assert findings["file"].text.startswith("Mode 0644, of the user ")
    assert "other users of this machine may read everybody's sessions" in findings["file"].text
    assert findings["file"].cure == (f"chmod 600 {shlex.quote(str(file))}",)
    subprocess.run(findings["file"].cure[0], shell=True, check=True)
    assert unwell(look(str(file))) == {}


def test_a_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sessions.db"
    upgraded(str(file))
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert sqlite.file(file)[0] is Verdict.WARNING if owner + 1 else Verdict.OK
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert sqlite.file(file)[0] is Verdict.OK


def test_a_file_that_is_not_there(run: Run, home: Path) -> None:
    file = home / "sessions.db"
    done = run("doctor", "--json", url=str(file))
    assert done.returncode == 6
    findings = told(done)
    assert list(findings) == [*GENERAL, "connection"]
    assert findings["connection"].cure == ("jupyter session-store upgrade",)
    assert not file.exists()


def test_a_damaged_file(run: Run, home: Path) -> None:
    file = home / "sessions.db"
    fill(str(file), [session("ns", n) for n in range(2000)])
    with closing(sqlite3.connect(file)) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as raw:
        # Somewhere among the rows, of which the middle of the file is full.
        raw.seek(os.path.getsize(file) // page // 2 * page)
        raw.write(b"\xff" * 4 * page)
    done = run("doctor", "--json", url=str(file))
    findings = told(done)
    assert done.returncode == 1
    assert findings["integrity"].verdict is Verdict.FAILED
    assert findings["integrity"].text.startswith("The file is damaged: ")
    assert f"ls {file}.*.backup" in findings["integrity"].cure[0]


def test_a_long_look_through_a_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sessions.db"
    fill(str(file), [session("ns", n) for n in range(2000)])
    monkeypatch.setattr(sqlite, "_SECONDS", -1)
    found = look(str(file))
    assert unwell(found) == {"integrity": Verdict.UNKNOWN}
    assert "takes longer" in found["integrity"].text
    # Who comes after is not interrupted.
    assert found["sessions"].text.startswith("Sessions: 2000.")


def test_a_file_that_another_process_holds(tmp_path: Path) -> None:
    file = tmp_path / "my sessions.db"
    upgraded(str(file))
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        found = look(str(file), connect_args={"timeout": 0.2})["connection"]
    assert found.verdict is Verdict.FAILED
    assert found.cure == (f"End the process that holds the file: fuser -v '{file}'",)


def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here, and none can be mounted."""
    file = tmp_path / "sessions.db"
    for module in (engine_sqlite, sqlite):
        monkeypatch.setattr(module, "is_on_network_file_system", lambda path: True)
    upgraded(str(file))
    found = look(str(file))
    assert unwell(found) == {"file system": Verdict.WARNING}
    assert found["journal"].text == "delete."
    assert found["file system"].cure == (
        f"jupyter session-store copy --from {file} --to env:SERVER_URL",
    )
    monkeypatch.setattr(sqlite, "is_on_network_file_system", lambda path: False)
    found = look(str(file))
    assert unwell(found) == {"journal": Verdict.WARNING}
    assert found["journal"].text == "delete; expected wal."


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sessions.db"
    upgraded(str(file))
    monkeypatch.setattr(sqlite, "_LEAST_SPACE", 10**18)
    found = look(str(file))
    assert unwell(found) == {"disk space": Verdict.WARNING}
    assert str(tmp_path) in found["disk space"].cure[0]
