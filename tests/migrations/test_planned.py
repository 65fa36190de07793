"""What was planned is what is run, though another process has changed the schema meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import SchemaMismatch
from jupyter_session_store.sql.schema import migrating

from .support import release, status


@pytest.fixture(autouse=True)
def later(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two revisions more, at the last of which the database is."""
    migrations = release(tmp_path / "later", 1, 1)
    monkeypatch.setattr(migrating, "migrations_folder", lambda: migrations)
    migrating.upgrade(engine)


def test_an_upgrade_to_what_is_there_already_does_nothing(engine: Engine) -> None:
    migrating.upgrade(engine, "0002")
    assert status(engine).revision == "0003"


def test_a_step_back_that_another_has_taken_is_not_taken_again(engine: Engine) -> None:
    plan = migrating.downgrade_plan("0003", "-1")
    for _ in range(2):
        migrating.downgrade(engine, "0002", planned=plan)
        assert status(engine).revision == "0002"


def test_nothing_is_undone_that_was_not_agreed_to(engine: Engine) -> None:
    migrating.downgrade(engine, "0002")
    plan = migrating.downgrade_plan("0002", "0001")
    migrating.upgrade(engine)
    with pytest.raises(SchemaMismatch) as refused:
        migrating.downgrade(engine, "0001", planned=plan)
    said = str(refused.value)
    assert "at revision 0003 now, where 0003, 0002 would be undone; expected to undo 0002" in said
    assert "Nothing was changed. Run the same command again." in said
    assert status(engine).revision == "0003"
    migrating.downgrade(engine, "0001", planned=migrating.downgrade_plan("0003", "0001"))
    assert status(engine).revision == "0001"
