"""What was planned is what is run, though another process has changed the schema meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import SchemaMismatch
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.versions import HEAD

from .support import AFTER, LATER, release, status


@pytest.fixture(autouse=True)
def later(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two revisions more, at the last of which the database is."""
    migrations = release(tmp_path / "later", 1, 1)
    monkeypatch.setattr(migrating, "migrations_folder", lambda: migrations)
    migrating.upgrade(engine)


def test_an_upgrade_to_what_is_there_already_does_nothing(engine: Engine) -> None:
    migrating.upgrade(engine, LATER)
    assert status(engine).revision == AFTER


def test_a_step_back_that_another_has_taken_is_not_taken_again(engine: Engine) -> None:
    plan = migrating.downgrade_plan(AFTER, "-1")
    for _ in range(2):
        migrating.downgrade(engine, LATER, planned=plan)
        assert status(engine).revision == LATER


def test_nothing_is_undone_that_was_not_agreed_to(engine: Engine) -> None:
    migrating.downgrade(engine, LATER)
    plan = migrating.downgrade_plan(LATER, HEAD)
    migrating.upgrade(engine)
    with pytest.raises(SchemaMismatch) as refused:
        migrating.downgrade(engine, HEAD, planned=plan)
    said = str(refused.value)
    assert f"at revision {AFTER} now, where {AFTER}, {LATER} would be undone" in said
    assert f"expected to undo {LATER}" in said
    assert "Nothing was changed. Run the same command again." in said
    assert status(engine).revision == AFTER
    migrating.downgrade(engine, HEAD, planned=migrating.downgrade_plan(AFTER, HEAD))
    assert status(engine).revision == HEAD
