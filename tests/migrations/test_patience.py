"""A migration takes as long as it takes, whatever the time-outs of statements are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.sql.schema import migrating

from ..databases import Database
from .support import LATER, engine_of, opened, release, run_python, status
from .test_states import later_code

pytestmark = pytest.mark.only("postgresql", "mysql", reason="a file does not answer late")

#: Seconds: longer than a driver waits for a host that has gone silent.
LONG: Final = 11
_SLEEP: Final = {"postgresql": "pg_sleep", "mysql": "SLEEP"}


def slow(migrations: Path, kind: str, seconds: int) -> None:
    """Let the made-up revision begin with something that takes long."""
    [file] = (migrations / "versions").glob(f"{LATER}_*.py")
    head = "def upgrade():\n"
    text = file.read_text()
    assert head in text
    sleep = f'    op.execute("SELECT {_SLEEP[kind]}({seconds})")\n'
    file.write_text(text.replace(head, head + sleep))


def test_by_the_command_of_alembic(database: Database, tmp_path: Path) -> None:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    migrations = release(tmp_path / "later", 1)
    slow(migrations, database.kind, LONG)
    words = ("-m", "alembic", "-c", str(migrations.parent / "alembic.ini"), "upgrade", "head")
    done = run_python(*words, home=tmp_path, JUPYTER_SESSION_STORE_URL=database.url)
    assert done.returncode == 0, done.stdout
    with engine_of(database.url) as engine:
        assert status(engine).revision == LATER


def test_by_a_server(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    with later_code(tmp_path, 1, monkeypatch):
        slow(migrating.migrations_folder(), database.kind, 3)
        arguments = {"read_timeout": 1} if database.kind == "mysql" else {}
        with opened(database.url, auto_upgrade="always", connect_args=arguments) as repository:
            # Its thread has the engine's only connection, and closes it when it is idle.
            driver: Any = repository._database._connect().connection.dbapi_connection
            # Requests have their time-outs again.
            if database.kind == "mysql":
                assert driver._read_timeout == 1
            else:
                assert driver.execute("SHOW statement_timeout").fetchone() == ("5s",)
    with engine_of(database.url) as engine:
        assert status(engine).revision == LATER
