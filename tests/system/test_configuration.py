"""Where the sessions are kept: every way to say so."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ..databases import Database, Instance
from ..wire import WireTap
from .conftest import stored_in
from .faults import store_lines
from .passwords import leaked, password_of, with_password, without_password
from .rows import rows_of
from .server import TIME_TO_START, JupyterServer
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.spread]

NewServer = Callable[..., JupyterServer]


def keeps_its_sessions_in(server: JupyterServer, database: Database) -> None:
    """Check that a running server's sessions are in a database."""
    session = server.create("a.ipynb")
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    until(
        lambda: [row.session_id for row in rows_of(database)] == [session["id"]],
        why="it is stored",
    )
    assert [model["id"] for model in server.sessions()] == [session["id"]]


@pytest.mark.only("sqlite", reason="a path is a SQLite file")
def test_a_path_as_the_stock_manager_takes_it(
    new_server: NewServer, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "with a space and %20.db"
    server = new_server(f"c.SessionManager.database_filepath = {str(path)!r}")
    server.start()
    keeps_its_sessions_in(server, Database(kind, f"sqlite:///{path}"))
    assert _modes(path) == {0o600}


def test_a_url_in_the_environment(database: Database, new_server: NewServer) -> None:
    environment = {
        "JUPYTER_SESSION_STORE_URL": database.url,
        "JUPYTERHUB_USER": "bob/x",
        "JUPYTERHUB_SERVER_NAME": "gpu",
    }
    server = new_server(environment=environment)
    server.start()
    keeps_its_sessions_in(server, database)
    assert {row.namespace for row in rows_of(database)} == {"hub:bob%2Fx/gpu"}


def test_the_config_wins_over_the_environment(
    database: Database, new_database: Callable[[], Database], new_server: NewServer
) -> None:
    other = new_database()
    environment = {"JUPYTER_SESSION_STORE_URL": other.url}
    server = new_server(stored_in(database), environment=environment)
    server.start()
    keeps_its_sessions_in(server, database)
    with pytest.raises(Exception, match=r"jupyter_sessions"):
        rows_of(other)


def test_a_url_on_the_command_line(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    options = {}
    if database.kind != "sqlite":
        (tmp_path / "password").write_text(f"{password_of(database)}\n")
        options = {"password_file": str(tmp_path / "password")}
    server = new_server(
        arguments=[f"--SessionManager.database_filepath={without_password(database)}"],
        environment={"JUPYTER_SESSION_STORE_ENGINE_OPTIONS": json.dumps(options)},
    )
    server.start()
    keeps_its_sessions_in(server, database)


@pytest.mark.only("sqlite", reason="the default is a SQLite file")
def test_the_default(new_server: NewServer, kind: str) -> None:
    server = new_server()
    server.start()
    path = server.data_dir / "jupyter_session_store.db"
    keeps_its_sessions_in(server, Database(kind, f"sqlite:///{path}"))
    assert _modes(path) == {0o600}


@pytest.mark.parametrize(
    "config",
    [
        'c.SessionManager.database_filepath = ":memory:"',
        'c.SessionManager.database_filepath = "sqlite://"',
        'c.PersistentSessionManager.repository = "memory"',
    ],
    ids=[":memory:", "sqlite://", "repository"],
)
def test_sessions_in_memory(new_server: NewServer, config: str) -> None:
    server = new_server(config)
    server.start()
    session = server.create("a.ipynb")
    assert server.create("a.ipynb")["id"] == session["id"]
    renamed = server.model(server.patch(session["id"], path="b.ipynb"), 200)
    assert [model["path"] for model in server.sessions()] == [renamed["path"]] == ["b.ipynb"]
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    assert server.delete(session["id"]).status_code == 204
    assert server.kernels() == []
    server.create("c.ipynb")
    server.stop()
    assert not list(server.directory.rglob("*session*.db")), "nothing is written"
    server.start()
    assert server.sessions() == []


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no passwords")
@pytest.mark.parametrize("source", ["password_file", "password_provider"])
def test_a_password_that_rotates(
    own_server: Instance, new_server: NewServer, tmp_path: Path, source: str
) -> None:
    database = own_server.create_database()
    old, new = password_of(database), "%40n3w@:/?#%"
    file = tmp_path / "password"
    file.write_text(f"{old}\n")
    value = str(file) if source == "password_file" else "vault:read_it"
    with WireTap.to(database) as tap:
        url = without_password(Database(database.kind, tap.url(database)))
        server = new_server(
            f"c.SessionManager.database_filepath = {url!r}\n{TIME_TO_START}"
            f"c.PersistentSessionManager.engine_options = {{{source!r}: {value!r}}}"
        )
        server.add_module("vault", f"def read_it():\n    return open({str(file)!r}).read().strip()")
        server.start()
        rotated = Database(database.kind, with_password(database, new))
        keeps_its_sessions_in(server, database)

        _change_password(database, new)
        tap.cut()
        (session,) = server.sessions()
        assert server.patch(session["id"], path="renamed.ipynb").status_code == 200
        until(
            lambda: store_lines(server.log) == ["away"], why="the file still holds the old password"
        )
        file.write_text(f"{new}\n")
        until(
            lambda: [row.path for row in rows_of(rotated)] == ["renamed.ipynb"],
            why="it is read again",
        )
        assert store_lines(server.log) == ["away", "back"]
        for password in (old, new):
            assert leaked(password, server.log) == set()


def _change_password(database: Database, password: str) -> None:
    if database.kind == "postgresql":
        database.execute(f"ALTER ROLE CURRENT_USER PASSWORD '{password}'")
        return
    # MariaDB takes CURRENT_USER() in this place, and changes nothing.
    ((account,),) = database.rows("SELECT CURRENT_USER()")
    user, _, host = account.rpartition("@")
    database.execute(f"ALTER USER '{user}'@'{host}' IDENTIFIED BY '{password}'")


def _modes(path: Path) -> set[int]:
    """Return the modes of a SQLite file and of what lies beside it."""
    files = list(path.parent.glob(f"{path.name}*"))
    assert path in files
    return {stat.S_IMODE(file.stat().st_mode) for file in files}
