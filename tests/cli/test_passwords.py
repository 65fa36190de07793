"""Which password goes to which database, where one is configured and another is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.sql.engine import passwords

from ..databases import Database
from ..system.passwords import password_of, with_password, without_password
from .conftest import Run
from .support import configure, upgraded

OPTIONS: Final[dict[str, Any]] = {
    "pool_size": 2,
    "password_file": "/run/secrets/p",
    "connect_args": {"password": "p", "passwd": "p", "connect_timeout": 3},
}
WITHOUT: Final[dict[str, Any]] = {"pool_size": 2, "connect_args": {"connect_timeout": 3}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://u@db/x", True),
        ("postgres://u@DB:5432/other?sslmode=require", True),
        ("postgresql://u:own@db/x", False),
        ("postgresql://u@db/x?password=own", False),
        ("postgresql://u@db/x?passfile=/own", False),
        ("postgresql://other@db/x", False),
        ("postgresql://db/x", False),
        ("postgresql://u@db2/x", False),
        ("postgresql://u@db:5433/x", False),
        ("postgresql://u@/x?host=db2", False),
        ("postgresql://u@/x?host=db", True),
        ("postgresql://u@db,db2/x", False),
        ("postgresql://u@db/x?hostaddr=10.0.0.1", False),
        ("mysql://u@db/x", False),
        ("sessions.db", False),
    ],
)
def test_who_gets_the_configured_password(given: str, kept: bool) -> None:
    found = passwords.options_for(given, OPTIONS, "postgresql://u@db/x")
    assert found == (OPTIONS if kept else WITHOUT)


def test_the_configured_database_is_reached_as_configured() -> None:
    url = "postgresql://u:stale@db/x"
    assert passwords.options_for(url, OPTIONS, url) == OPTIONS


def test_a_password_without_a_server_is_for_the_one_that_is_named() -> None:
    for given in ("mysql://u@db/x", "postgresql://u@other/x"):
        assert passwords.options_for(given, OPTIONS, "sessions.db") == OPTIONS
    assert passwords.options_for("mysql://u:own@db/x", OPTIONS, "sessions.db") == WITHOUT
    # Whatever the configured one is, it cannot be compared.
    assert passwords.options_for("mysql://u@db/x", OPTIONS, None) == WITHOUT


def test_options_without_a_password_stay() -> None:
    given: list[dict[str, Any]] = [{}, WITHOUT, {"connect_args": "wrong"}]
    for options in given:
        assert passwords.options_for("mysql://u:own@db/x", options, None) is options


@pytest.fixture
def configured(database: Database, home: Path) -> Database:
    """A database that is not the configured one, whose password stands in a file."""
    (home / "password").write_text("that-of-the-configured-role")
    configure(
        home,
        "c.SessionManager.database_filepath = 'postgresql://servers@db.invalid/jupyter'",
        "c.PersistentSessionManager.engine_options = "
        f"{{'password_file': {str(home / 'password')!r}}}",
    )
    return database


@pytest.mark.only("postgresql", "mysql", reason="a file has no password")
@pytest.mark.parametrize("command", ["upgrade", "check", "current", "copy"])
def test_a_password_in_the_url_wins(run: Run, configured: Database, command: str) -> None:
    if command != "upgrade":
        upgraded(configured.url)
    words = ("--from", "env:DDL_URL", "--to", "copy.db") if command == "copy" else ()
    named = words or ("--url", "env:DDL_URL")
    done = run(command, *named, DDL_URL=configured.url)
    assert done.returncode == 0, done.stderr
    wrong = run(command, *named, DDL_URL=with_password(configured, "wrong"))
    assert wrong.returncode == 3, wrong.stderr


@pytest.mark.only("postgresql", "mysql", reason="a file has no password")
def test_the_configured_source_is_used_for_the_same_role(
    run: Run, database: Database, home: Path
) -> None:
    file = home / "password"
    file.write_text(password_of(database))
    options = json.dumps({"password_file": str(file)})
    bare = without_password(database)
    for words, url in (
        (("upgrade", "--url", bare), bare),
        (("check",), with_password(database, "stale")),
        (("check", "--url", "env:SAME"), bare),
    ):
        done = run(*words, url=url, SAME=bare, JUPYTER_SESSION_STORE_ENGINE_OPTIONS=options)
        assert done.returncode == 0, done.stderr


@pytest.mark.only("postgresql", "mysql", reason="a file has no password")
def test_the_configured_source_is_not_read_for_another_server(
    run: Run, database: Database, home: Path
) -> None:
    """The source is not read, which would be said."""
    upgraded(database.url)
    configure(
        home,
        "c.SessionManager.database_filepath = 'postgresql://servers@db.invalid/jupyter'",
        "c.PersistentSessionManager.engine_options = {'password_file': '/no/such/file'}",
    )
    done = run("check", "--url", "env:OTHER", OTHER=without_password(database))
    assert done.returncode == 3, done.stdout
    assert "password_file" not in done.stderr


@pytest.mark.only("postgresql", "mysql", reason="a file has no password")
def test_a_copy_gives_each_of_two_servers_its_own(
    run: Run, configured: Database, new_database: Callable[[], Database]
) -> None:
    other = new_database()
    upgraded(configured.url)
    done = run("copy", "--from", "env:ONE", "--to", "env:TWO", ONE=configured.url, TWO=other.url)
    assert done.returncode == 0, done.stderr
