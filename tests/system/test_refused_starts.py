"""What cannot work is refused at start: with the setting's name, the cure, and no password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from ..migrations.support import engine_of, without_privileges
from .conftest import stored_in
from .faults import store_lines
from .passwords import PASSWORD, leaked, password_of, with_password
from .rows import rows_of
from .server import PATIENT, JupyterServer
from .waiting import until

pytestmark = pytest.mark.system

NewServer = Callable[..., JupyterServer]

URL_TRAIT: Final = "SessionManager.database_filepath"
_QUOTED: Final = quote(PASSWORD, safe="")
_NEWER_CODE: Final = """
from jupyter_session_store.sql.schema import versions
versions.HEAD = "9999"
"""


def at_head(database: Database) -> None:
    """Bring a database to the newest revision, as an operator would have."""
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)


def refusal(server: JupyterServer) -> str:
    """Start a server that must not start; return what it says."""
    server.launch()
    assert server.exit_code() != 0, server.log
    assert "Traceback" not in server.log
    return server.log


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://jss:{_QUOTED}@localhost:port/db", ["not a database URL", "quote("]),
        ("postgresql://jss:p@%s3cr3t@localhost/db", ["name of the host", "percent-encoded"]),
        (f"mysql//jss:{_QUOTED}@localhost/db", ["a URL without its '://'"]),
        (f"oracel://jss:{_QUOTED}@localhost/db", ["oracel", "does not know", "postgresql://"]),
        (f"mysql+nodriver://jss:{_QUOTED}@localhost/db", ["nodriver", "does not know"]),
        ("mysql://jss:%E2%82%AC@localhost/db", ["cannot send", "characters of Latin-1"]),
    ],
    ids=["port", "unquoted", "no colon", "dialect", "driver", "not Latin-1"],
)
def test_a_url_that_can_never_work(new_server: NewServer, url: str, words: list[str]) -> None:
    log = refusal(new_server(f"c.SessionManager.database_filepath = {url!r}"))
    for word in [URL_TRAIT, *words]:
        assert word in log
    assert leaked(PASSWORD, log) == set()
    assert "s3cr3t" not in log


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("postgresql", "psycopg", "postgresql"), ("mysql", "pymysql", "mysql")],
)
def test_a_driver_that_is_missing(
    new_server: NewServer, scheme: str, module: str, extra: str
) -> None:
    url = f"{scheme}://jss:{_QUOTED}@localhost/db"
    server = new_server(f"c.SessionManager.database_filepath = {url!r}")
    server.add_module(module, "raise ImportError(__name__)")
    log = refusal(server)
    for word in [URL_TRAIT, module, f"pip install 'jupyter_session_store[{extra}]'"]:
        assert word in log
    assert "s3cr3t" not in log


def test_an_unknown_repository(new_server: NewServer) -> None:
    log = refusal(new_server('c.PersistentSessionManager.repository = "nosuch"'))
    for word in ["PersistentSessionManager.repository", "'nosuch'", "memory, sqlalchemy"]:
        assert word in log


@pytest.mark.parametrize(
    "namespace", ["", " bob", "b" * 256, "b\0b"], ids=["empty", "space", "long", "NUL"]
)
def test_a_bad_namespace(new_server: NewServer, namespace: str) -> None:
    log = refusal(new_server(f"c.PersistentSessionManager.namespace = {namespace!r}"))
    assert "PersistentSessionManager.namespace" in log
    assert "expected 1 to 255 characters" in log


def test_an_engine_option_that_nobody_knows(database: Database, new_server: NewServer) -> None:
    options = {"nonsense": 1}
    config = f"{stored_in(database)}\nc.PersistentSessionManager.engine_options = {options!r}"
    log = refusal(new_server(config))
    for word in ["engine_options", "nonsense", "sqlalchemy.create_engine"]:
        assert word in log
    assert _own_password_leaked(database, log) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation_level": "SERIALIZABLE"}, ["isolation_level", "Remove it"]),
        (
            {"execution_options": {"isolation_level": "REPEATABLE READ"}},
            ["execution_options", "isolation_level", "Remove it"],
        ),
        ({"password_provider": "no.such:module"}, ["password_provider", "'module:name'"]),
    ],
    ids=["ours", "ours inside", "provider"],
)
def test_unusable_engine_options(
    new_server: NewServer, options: dict[str, Any], words: list[str]
) -> None:
    log = refusal(new_server(f"c.PersistentSessionManager.engine_options = {options!r}"))
    for word in ["engine_options", *words]:
        assert word in log


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_engine_options_in_the_environment_that_are_no_object(
    new_server: NewServer, text: str
) -> None:
    name = "JUPYTER_SESSION_STORE_ENGINE_OPTIONS"
    log = refusal(new_server(environment={name: text}))
    assert name in log
    assert "object" in log


@pytest.mark.only("sqlite", reason="only SQLite is a file")
@pytest.mark.parametrize(
    "what", ["a directory", "another file", "no folder", "a read-only folder", "a read-only file"]
)
def test_a_file_that_cannot_be_used(
    database: Database, new_server: NewServer, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "sessions.db"
    words = [str(tmp_path)]
    if what == "a directory":
        path.mkdir()
        words.append("is a directory")
    elif what == "another file":
        path.write_text("# Notes\nThis is no database, and goes on being none.\n")
        words.append("not an SQLite database file")
    elif what == "no folder":
        path = tmp_path / "missing" / "sessions.db"
        words.append("is not a folder")
    elif what == "a read-only folder":
        tmp_path.chmod(0o500)
        words.append("may not write")
    else:
        path.touch(mode=0o400)
        words.append("may not read and write")
    before = path.read_bytes() if path.is_file() else None

    server = new_server(
        f"c.SessionManager.database_filepath = {str(path)!r}", prefix=without_privileges()
    )
    log = refusal(server)
    tmp_path.chmod(0o700)
    for word in [URL_TRAIT, *words]:
        assert word in log
    assert (path.read_bytes() if path.is_file() else None) == before


def test_somebody_elses_tables(database: Database, new_server: NewServer) -> None:
    database.execute("CREATE TABLE jupyter_sessions (id INTEGER)")
    database.execute("INSERT INTO jupyter_sessions VALUES (7)")
    log = refusal(new_server(stored_in(database) + PATIENT))
    for word in ["did not make", "expects revision", "Nothing was changed", URL_TRAIT]:
        assert word in log
    assert database.rows("SELECT * FROM jupyter_sessions") == [(7,)]
    assert _own_password_leaked(database, log) == set()


def test_no_tables_where_the_server_may_not_make_them(
    database: Database, new_server: NewServer
) -> None:
    config = f'{stored_in(database)}{PATIENT}c.PersistentSessionManager.auto_upgrade = "never"'
    log = refusal(new_server(config))
    for word in [
        "holds no session tables",
        "jupyter session-store upgrade",
        'auto_upgrade = "safe"',
    ]:
        assert word in log
    assert _own_password_leaked(database, log) == set()


@pytest.mark.only("postgresql", "mysql", reason="a SQLite file is upgraded at start")
def test_a_schema_that_is_behind(database: Database, new_server: NewServer) -> None:
    at_head(database)
    log = refusal(new_server(stored_in(database) + PATIENT + _NEWER_CODE))
    command = "jupyter session-store upgrade"
    for word in [f"at revision {HEAD}", "behind", "expects revision 9999", command]:
        assert word in log
    assert 'c.PersistentSessionManager.auto_upgrade = "always"' in log
    assert _own_password_leaked(database, log) == set()


def test_a_schema_that_needs_newer_code(database: Database, new_server: NewServer) -> None:
    at_head(database)
    database.execute("UPDATE jupyter_session_store_version SET version_num = '9999'")
    database.execute("UPDATE jupyter_session_store_meta SET value = '2'")
    log = refusal(new_server(stored_in(database) + PATIENT))
    for word in ["at revision 9999", "generation 2", "pip install --upgrade"]:
        assert word in log


def test_a_newer_schema_that_this_code_can_use(database: Database, new_server: NewServer) -> None:
    at_head(database)
    database.execute("UPDATE jupyter_session_store_version SET version_num = '9999'")
    server = new_server(stored_in(database) + PATIENT)
    server.start()
    session = server.create("a.ipynb")
    assert [row.session_id for row in rows_of(database)] == [session["id"]]


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no passwords")
def test_a_wrong_password_is_no_reason_not_to_start(
    database: Database, new_server: NewServer
) -> None:
    url = with_password(database, PASSWORD)
    server = new_server(
        f"c.SessionManager.database_filepath = {url!r}\nc.Application.log_level = 10"
    )
    server.start()
    answers = [server.api.get("/api/sessions"), server.post("a.ipynb")]
    assert [answer.status_code for answer in answers] == [200, 201]
    (session,) = server.sessions()
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    until(lambda: store_lines(server.log) == ["away"], why="it is told")
    for text in (server.log, *(answer.text for answer in answers)):
        assert leaked(PASSWORD, text) == set()
        assert "s3cr3t" not in text
    assert server.own_frames() == []


def _own_password_leaked(database: Database, log: str) -> set[str]:
    password = password_of(database)
    return leaked(password, log) if password else set()
