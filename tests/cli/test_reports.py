"""What upgrade, downgrade and check report as JSON, and what downgrade asks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.sql.schema.migrating import revisions
from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from .in_process import run


@pytest.fixture
def name(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a database that is the configured one, and is not there yet."""
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    monkeypatch.setenv("JUPYTER_SESSION_STORE_URL", f"{home}/sessions.db")
    return f"sqlite {home}/sessions.db"


def test_there_and_back(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [one.id for one in revisions()]

    def told(code: int, *words: str) -> dict[str, Any]:
        assert run(*words, "--json") == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found.pop("database") == name
        return found

    missing = told(6, "check")
    assert (missing["fits"], missing["exit_code"], missing["state"]) == (False, 6, None)
    assert "Run: jupyter session-store upgrade" in missing["text"]
    planned = told(0, "upgrade", "--dry-run")
    assert planned == {"dry_run": True, "revisions": ids, "from": None, "revision": None}
    done = told(0, "upgrade")
    assert done == {"dry_run": False, "revisions": ids, "from": None, "revision": HEAD}
    assert told(0, "upgrade") == {**done, "revisions": [], "from": HEAD}
    found = told(0, "check")
    assert (found["fits"], found["revision"], found["state"]) == (True, HEAD, "current")
    undone = told(0, "downgrade", "base", "--yes")
    assert (undone["revisions"], undone["revision"]) == (ids[::-1], None)
    assert "every session" in undone["loses"]


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_downgrade_asks_on_a_terminal(
    name: str,
    answer: str,
    code: int,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert run("upgrade") == 0
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    assert run("downgrade", "-1") == code
    asked = capsys.readouterr().err
    assert f"Undo 1 revision(s) of {name}, which loses data? [y/N] " in asked
    database = Database("sqlite", f"sqlite:///{home}/sessions.db")
    ((left,),) = database.rows("SELECT version_num FROM jupyter_session_store_version")
    assert left == (HEAD if code else revisions()[-2].id)
