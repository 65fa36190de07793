"""The databases of the tests: each is real, its own, and none is left out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from .databases import (
    DRIVER_ERRORS,
    KINDS,
    Database,
    Instance,
    NoDatabase,
    Server,
    local,
    parameters,
    shared_server,
)
from .databases.plugin import Servers

pytestmark = pytest.mark.usefixtures("few_plugins")
servers_only = pytest.mark.only("postgresql", "mysql", reason="SQLite has no server")

PLUGIN = ("-p", "tests.databases.plugin", "-p", "no:cacheprovider")
#: For who loads no other plugin.
XDIST = ("-p", "xdist.plugin")
INCOMPLETE = """
    import pytest

    @pytest.mark.parametrize("kind", ["sqlite", "mysql"], indirect=True)
    def test_x(kind):
        assert kind

    def test_fine(kind):
        assert kind
"""


def test_a_database_is_empty_and_of_its_own(
    database: Database, new_database: Callable[[], Database]
) -> None:
    other = new_database()
    for one in (database, other):
        one.execute("CREATE TABLE sessions (path VARCHAR(20))")
    database.execute("INSERT INTO sessions VALUES ('a.ipynb')")
    assert database.rows("SELECT path FROM sessions") == [("a.ipynb",)]
    assert other.rows("SELECT path FROM sessions") == []


def test_sqlalchemy_reaches_the_same_database(database: Database) -> None:
    database.execute("CREATE TABLE sessions (path VARCHAR(20))")
    engine = sqlalchemy.create_engine(database.sqlalchemy_url)
    try:
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT path FROM sessions")).all() == []
    finally:
        engine.dispose()


@servers_only
def test_dropped_under_an_open_transaction(
    kind: str, servers: Servers, new_database: Callable[[], Database]
) -> None:
    database = new_database()
    database.execute("CREATE TABLE sessions (path VARCHAR(20))")
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT path FROM sessions")
        servers.get(kind).drop_database(database)
    with pytest.raises(DRIVER_ERRORS):
        database.rows("SELECT 1")


@servers_only
def test_the_server_checks_the_password(own_server: Instance) -> None:
    password = parameters(own_server.admin.url)["password"]
    assert set("%@:/?#") <= set(password)
    assert own_server.admin.rows("SELECT 1") == [(1,)]
    parts = urlsplit(own_server.admin.url)
    for login in ("jss:wrong", "jss", "root", "nobody", ":"):
        netloc = f"{login}@{parts.hostname}:{parts.port}"
        intruder = Database(own_server.kind, parts._replace(netloc=netloc).geturl())
        with pytest.raises(DRIVER_ERRORS, match=r"(?i)password|denied"):
            intruder.rows("SELECT 1")


@servers_only
def test_a_server_keeps_its_port_and_its_data(own_server: Instance) -> None:
    database = own_server.create_database()
    database.execute("CREATE TABLE counts (number INTEGER)")
    for number, end in enumerate((own_server.stop, own_server.kill)):
        database.execute(f"INSERT INTO counts VALUES ({number})")
        end()
        with pytest.raises(DRIVER_ERRORS):
            database.rows("SELECT 1")
        own_server.start()
    assert database.rows("SELECT number FROM counts ORDER BY number") == [(0,), (1,)]


@servers_only
def test_nothing_outlives_a_crash(kind: str) -> None:
    code = f"""if True:
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
        from tests.databases import private_server
        server = private_server({kind!r})
        print(server.admin.url, getattr(server, "directory", "/nowhere"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    crash = subprocess.run(
        [sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, text=True
    )
    assert crash.returncode == -9
    url, directory = crash.stdout.split()
    deadline = time.monotonic() + 60
    while _answers(Database(kind, url)) or Path(directory).exists():
        assert time.monotonic() < deadline, f"the server of {directory} lives on"
        time.sleep(0.1)


def _answers(database: Database) -> bool:
    try:
        return database.rows("SELECT 1") == [(1,)]
    except DRIVER_ERRORS:
        return False


@servers_only
def test_a_url_in_the_environment_comes_first(
    kind: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"JSS_TEST_{kind.upper()}_URL"
    monkeypatch.setenv(variable, servers.get(kind).admin.url)
    server = shared_server(kind)
    assert (type(server), server.origin) == (Server, variable)
    database = server.create_database()
    assert database.rows("SELECT 1") == [(1,)]
    server.drop_database(database)


@pytest.mark.only("postgresql", reason="no other takes so long to make a database")
@pytest.mark.parametrize(
    ("left", "again"),
    [
        ("CREATE TABLE one (x integer PRIMARY KEY); CREATE VIEW two AS SELECT x FROM one", True),
        ("CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'", False),
        ("CREATE SCHEMA one", False),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", False),
        (
            "DO $$ BEGIN EXECUTE"
            " format('ALTER DATABASE %I SET work_mem = 999', current_database()); END $$",
            False,
        ),
    ],
    ids=["tables", "function", "schema", "right", "setting"],
)
def test_a_database_is_lent_again_only_as_it_was(
    kind: str, servers: Servers, left: str, again: bool
) -> None:
    server = servers.get(kind)
    database = server.lend_database()
    database.execute(left)
    server.take_back(database)
    other = server.lend_database()
    assert (other == database) is again
    assert other.rows("SELECT relname FROM pg_class WHERE oid >= 16384") == []
    server.take_back(other)


@servers_only
@pytest.mark.parametrize("url", ["{}://jss:secret@127.0.0.1:1/x", "{}://jss:secret@h:x/y", "jss"])
def test_a_url_that_leads_nowhere_is_refused(
    kind: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"JSS_TEST_{kind.upper()}_URL"
    monkeypatch.setenv(variable, url.format(kind))
    with pytest.raises(NoDatabase, match=variable) as refusal:
        shared_server(kind)
    assert "secret" not in str(refusal.value)


def test_free_port_is_free() -> None:
    assert 20_000 <= local.free_port() < 32_000


@pytest.mark.parametrize("way", ["-q", "-n1"])
def test_without_a_server_the_run_fails_and_says_how_to_get_one(
    way: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("JSS_TEST_DOCKER", "1")
    monkeypatch.delenv("JSS_TEST_POSTGRESQL_URL", raising=False)
    pytester.makepyfile("def test_x(database): assert database")
    result = pytester.runpytest(*PLUGIN, *XDIST, way, "-k", "postgresql")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*There is no PostgreSQL*", "*set JSS_TEST_POSTGRESQL_URL to*"])


def test_server_programs_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(local, "FOLDERS", ())
    with pytest.raises(NoDatabase, match="initdb is neither in PATH nor"):
        local.find_program("initdb")


@pytest.mark.parametrize("way", ["-q", "-n1", "-kfine", "test_it.py::test_fine[mysql]"])
def test_a_kind_that_is_missing_fails_the_collection(way: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=INCOMPLETE)
    result = pytester.runpytest(*PLUGIN, *XDIST, way)
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    result.stdout.fnmatch_lines(
        "test_x[[]*]: collected for sqlite, mysql; expected for sqlite, postgresql, mysql*"
    )
    assert "passed" not in result.stdout.str()


def test_a_kind_that_is_missing_fails_the_collection_of_last_failed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_it=INCOMPLETE)
    cache = pytester.mkdir(".pytest_cache") / "v" / "cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"test_it.py::test_fine[mysql]": true}')
    result = pytester.runpytest("-p", "tests.databases.plugin", "--lf")
    result.stdout.fnmatch_lines("test_x[[]*]: collected for sqlite, mysql; *")


def test_the_kinds_may_differ_where_a_mark_says_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.only("sqlite", reason="a file")
        def test_x(kind):
            assert kind == "sqlite"

        @pytest.mark.parametrize("name", ["sqlite", "b"])
        def test_y(kind, name):
            assert kind and name
        """
    )
    result = pytester.runpytest(*PLUGIN)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(
        ["sqlite: 3 passed", "postgresql: 2 passed", "mysql: 2 passed", "only sqlite: a file"]
    )


@pytest.mark.parametrize("mark", ['"sqlite"', 'reason="why"', f'*{KINDS}, reason="why"'])
def test_a_mark_that_says_too_little_fails_the_collection(
    mark: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.only({mark})\ndef test_x(kind): assert kind")
    result = pytester.runpytest(*PLUGIN)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines("test_x: its mark `only` names no reason, or not just some*")


@pytest.mark.parametrize("way", ["-q", "-n1"])
@pytest.mark.parametrize(
    "source",
    [
        "import pytest\ndef test_x(kind):\n    if kind == 'mysql': pytest.skip('later')",
        "import pytest\npytest.importorskip('no_such_module')",
    ],
    ids=["test", "module"],
)
def test_a_skip_fails_the_run(source: str, way: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=source, test_other="def test_y(): assert True")
    result = pytester.runpytest(*PLUGIN, *XDIST, way)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines("SKIPPED, which fails the run: test_it.py*")
