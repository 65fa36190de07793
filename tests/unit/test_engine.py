"""From what a user types to an engine: what is accepted, refused, and never shown."""

from __future__ import annotations

import logging
import os
import sqlite3
import ssl
import stat
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from jupyter_session_store.errors import ConfigurationError, StoreUnavailable
from jupyter_session_store.sql.engine import backend, mysql, sqlite, sqlite_files
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.testing import SCOPE, server
from tests.databases import KINDS
from tests.databases.database import Database, parameters
from tests.migrations.support import engine_of, opened

PASSWORD = "s3cr%t@:/?#"


@pytest.mark.parametrize(
    ("typed", "driver"),
    [
        ("sessions.db", "sqlite"),
        (":memory:", "sqlite"),
        ("sqlite://", "sqlite"),
        ("sqlite:///sessions.db", "sqlite"),
        ("C:\\Users\\me\\sessions.db", "sqlite"),
        ("postgres://db/jupyter", "postgresql+psycopg"),
        ("postgresql://db/jupyter", "postgresql+psycopg"),
        ("postgresql+psycopg://db/jupyter", "postgresql+psycopg"),
        ("mysql://db/jupyter", "mysql+pymysql"),
        ("mariadb://db/jupyter", "mariadb+pymysql"),
        ("mysql+mysqldb://db/jupyter", "mysql+mysqldb"),
    ],
)
def test_the_driver_of_what_is_typed(typed: str, driver: str) -> None:
    assert urls.parse(typed).drivername == driver


def test_each_dialect_with_a_file_of_its_own_is_tested() -> None:
    assert {where.partition(":")[0] for where in backend._BACKENDS.values()} == set(KINDS)


def test_a_path_is_not_read_as_a_url(tmp_path: Path) -> None:
    name = str(tmp_path / "a%20b?c#d.db")
    assert urls.sqlite_file(urls.parse(name)) == Path(name)
    with closing(engines.create(name).raw_connection()):
        pass
    assert Path(name).exists()


@pytest.mark.parametrize(
    ("typed", "cure"),
    [
        ("", "is empty"),
        ("://", "percent-encoded"),
        (f"mysql//u:{PASSWORD}@host/db", "percent-encoded"),
        (f"postgresql://u:{PASSWORD}@host/db", "urllib.parse.quote"),
        ("postgresql://u:p@host:port/db", "percent-encoded"),
        (f"mysql://h/d?user=rootpassword={PASSWORD}", "the name of the user"),
        (f"postgresql://h/d?host=/run/xpassword={PASSWORD}", "the name of the host"),
        (f"postgresql://u@/d?host=a&port=5432password={PASSWORD}", "the name of the port"),
        (f"mysql://u@/d?port=1password={PASSWORD}", "the name of the port"),
        ("postgresql://u@/d?host=a&port=x", "The port in"),
        ("mysql://u@/d?host=a&port=x", "The port in"),
        ("postgresql://u@/d?port=x", "port"),
        (f"mysql://u@/d?unix_socket=/run/spassword={PASSWORD}", "the name of the unix_socket"),
        (f"postgresql://u@h/d?password%3D{PASSWORD}=1", "may be a part of a password"),
        (f"mysql://u@h/d?pwd:{PASSWORD}=1", "may be a part of a password"),
        (f"mysql://u@h/d?password=ab&{PASSWORD[:4]}=ef", "may be a part of a password"),
        ("postgresql://u@h/d?sslmode=require&sslmode=disable", "'sslmode' 2 times"),
        ("mysql://u@h/d?connect_timeout=1&connect_timeout=2", "'connect_timeout' 2 times"),
        ("sqlite:///x.db?timeout=1&timeout=2&timeout=3", "'timeout' 3 times"),
        (f"mysql://u@h/d?local_infile={PASSWORD}", "'local_infile' of"),
        ("mysql://u@h/d?ssl_check_hostname=2", "true or false"),
        ("sqlite:///x.db?uri=x", "true or false"),
        ("sqlite:///x.db?check_same_thread=-1", "true or false"),
        ("sqlite:///x.db?detect_types=x", "a whole number"),
        ("sqlite:///x.db?cached_statements=1.5", "a whole number"),
        ("postgresql://u@h/d?port=1,2", "do not belong together"),
        ("postgresql://u@/d?port=1,2", "do not belong together"),
        ("postgresql://g,h/d?port=1,2,3", "do not belong together"),
        ("postgresql://g:1,h:2/d?port=3,4", "do not belong together"),
        ("postgresql://h:1/d?port=2", "do not belong together"),
        ("postgresql://h:1/d?service=x&port=2", "do not belong together"),
        ("postgresql://u@:1/d?port=2", "do not belong together"),
        ("mysql://h:1/d?port=2", "do not belong together"),
        ("mysql://g,h:3307/d", "a name in DNS"),
        ("mysql+types://h/d", "SQLAlchemy does not know"),
        ("sqlite+__init__:///x.db", "SQLAlchemy does not know"),
        ("nonsense://host/db", "SQLAlchemy does not know"),
        ("nonsense+driver://host/db", "SQLAlchemy does not know"),
        ("postgresql+nonsense://host/db", "SQLAlchemy does not know"),
        ("mysql++pymysql://user:secret@host/db", "SQLAlchemy does not know"),
        ("mysql+://host/db", "SQLAlchemy does not know"),
        ("sqlite+aiosqlite:///x.db", "aiosqlite"),
        ("mysql+mysqldb://host/db", "not installed"),
        ("/nowhere/at/all/sessions.db", "Create it first"),
    ],
)
def test_what_can_never_work_is_refused(typed: str, cure: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        engines.check(typed)
    message = str(refused.value)
    assert "c.SessionManager.database_filepath" in message
    assert cure in message
    assert PASSWORD[:4] not in message


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, url, extra in (
        ("psycopg", "postgresql://db/x", "postgresql"),
        ("pymysql", "mysql://db/x", "mysql"),
        ("pymysql", "mariadb://db/x", "mysql"),
        ("psycopg", "postgresql://a:5432,b:5432/x", "postgresql"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigurationError, match=rf"jupyter_session_store\[{extra}\]"):
            engines.check(url)


def test_files_that_are_no_database_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("this is no database")
    for path, found in ((tmp_path, "is a directory"), (other, "is not an SQLite database")):
        for typed in (str(path), f"sqlite:///{path}"):
            with pytest.raises(ConfigurationError, match=found):
                engines.check(typed)
    assert other.read_text() == "this is no database"
    empty = tmp_path / "empty.db"
    empty.touch()
    engines.check(str(empty))
    assert empty.read_bytes() == b""


def test_a_place_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may write anywhere, so the answer is the operating system's only in part.
    def access(path: Any, mode: int) -> bool:
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(ConfigurationError, match="where this user may not write"):
        engines.check(str(tmp_path / "new.db"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir())
    (tmp_path / "other.db").touch()
    with pytest.raises(ConfigurationError, match="may not read and write"):
        engines.check(str(tmp_path / "other.db"))


def test_a_backup_is_read_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    engines.check(str(path), writes=False)
    with pytest.raises(ConfigurationError, match="where this user may not write"):
        engines.check(str(path))
    # To be read it would need its log beside it.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    for name in (path, tmp_path / "missing.db"):
        with pytest.raises(ConfigurationError, match="where this user may not write"):
            engines.check(str(name), writes=False)


def test_checking_creates_nothing(tmp_path: Path) -> None:
    engines.check(str(tmp_path / "new.db"))
    engines.create(str(tmp_path / "new.db"))
    assert list(tmp_path.iterdir()) == []


def journal_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_new_file_is_private_and_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    engine = engines.create(str(path))
    with engine.connect() as connection:
        backend_of(connection).keep_journal(connection)
        connection.exec_driver_sql("CREATE TABLE t (x)")
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    engine.dispose()
    assert (mode, synchronous) == ("wal", 1)
    assert modes == {0o600}
    # As it does after it was made anew, or a backup took its place.
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1
    engine.dispose()
    assert journal_of(path) == "wal"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_that_nobody_has_made_its_own_keeps_its_journal(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    engine = engines.create(str(path))
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM t")
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    engine.dispose()
    assert path.read_bytes() == before
    assert journal_of(path) == mode
    assert synchronous == (1 if mode == "wal" else 2)


@pytest.mark.parametrize("state", ["new", "stock", "restored"])
def test_a_file_that_is_ours_gets_wal(tmp_path: Path, state: str) -> None:
    """From a server, and from an upgrade if there is something to upgrade."""

    def made(name: str) -> Path:
        path = tmp_path / name
        if state == "stock":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
        elif state == "restored":
            with engine_of(str(path)) as engine:
                migrating.upgrade(engine)
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")
        return path

    path = made("server.db")
    with opened(str(path)):
        assert journal_of(path) == "wal"
    assert journal_of(path) == "wal"
    path = made("upgrade.db")
    with engine_of(str(path)) as engine:
        migrating.upgrade(engine)
    assert journal_of(path) == ("delete" if state == "restored" else "wal")


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.touch(mode=0o660)
    path.chmod(0o660)
    engine = engines.create(str(path))
    with engine.connect():
        pass
    engine.dispose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_network_file_system_gets_the_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sessions.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
    monkeypatch.setattr(sqlite, "is_on_network_file_system", lambda path: True)
    engine = engines.create(str(path))
    with engine.connect() as connection:
        backend_of(connection).keep_journal(connection)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "delete"
    engine.dispose()


def test_the_innermost_mount_tells_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Partition:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    mounts = [
        Partition("/", "ext4"),
        Partition("/home", "nfs4"),
        Partition("/home/me/local", "xfs"),
        Partition("/homely", "ext4"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    monkeypatch.setattr(os.path, "realpath", str)
    answers = {
        "/tmp/x.db": False,
        "/home/me/x.db": True,
        "/home/me/local/x.db": False,
        "/homely/x.db": False,
    }
    for path, answer in answers.items():
        assert sqlite_files.is_on_network_file_system(Path(path)) is answer


@pytest.mark.parametrize(
    "typed",
    [
        ":memory:",
        "sqlite://",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        "sqlite:///file:/x?vfs=memdb&uri=true",
    ],
)
def test_memory_is_one_database(typed: str) -> None:
    engine = engines.create(typed)
    assert urls.describe(engine.url) == "sqlite in memory"
    assert isinstance(engine.pool, StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 0
    engine.dispose()


def test_connections_commit_by_themselves(database: Database) -> None:
    engine = engines.create(database.url)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INT)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert database.rows("SELECT x FROM t") == [(1,)]
    engine.dispose()


def test_options_reach_sqlalchemy(database: Database) -> None:
    name = "connect_timeout" if database.kind != "sqlite" else "timeout"
    options = {"echo": False, "connect_args": {name: 7}, "pool_size": 2}
    engine = engines.create(database.url, options)
    seen: dict[str, Any] = {}

    from sqlalchemy import event

    @event.listens_for(engine, "do_connect")
    def look(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
        seen.update(cparams)

    with engine.connect():
        pass
    engine.dispose()
    assert seen[name] == 7
    if database.kind == "postgresql":
        assert seen["prepare_threshold"] is None


def test_a_uri_of_a_file_is_not_memory(tmp_path: Path) -> None:
    url = urls.parse(f"sqlite:///file:{tmp_path}/x.db?mode=rwc&uri=true")
    assert not urls.is_memory(url)


@pytest.mark.only("postgresql", reason="no other database has PgBouncer before it")
def test_a_connection_of_a_pooler_keeps_its_time_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set there stays for the pooler's other clients."""
    import psycopg

    # Of a user's own, so that the time-out does not go with the log-in, which a pooler refuses.
    engine = engines.create(database.url, {"connect_args": {"options": "-cwork_mem=1MB"}})

    def seen() -> str:
        with engine.connect() as connection:
            return str(connection.exec_driver_sql("SHOW statement_timeout").scalar_one())

    assert seen() == "5s"
    with migrating.migration_connection(engine) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "4s"
    assert seen() == "5s"
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0"
    # A pooler names a process of its own invention at connect.
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", -1)
    with migrating.migration_connection(engine) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "5s"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0"
    engine.dispose()
    assert seen() == "0"
    engine.dispose()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"connect_args": "x=y"}, "of type str; expected a dict"),
        ({"connect_args": None}, "of type NoneType; expected a dict"),
        ({"isolation_level": "SERIALIZABLE"}, "isolation_level"),
        ({"pool": None}, "pool"),
        ({"future": False}, "future"),
        ({"pool_recycle": "3600"}, "pool_recycle"),
        ({"execution_options": {"isolation_level": "REPEATABLE READ"}}, "isolation_level"),
        ({"execution_options": {"autocommit": False}}, "autocommit"),
        ({"execution_options": {"postgresql_readonly": True}}, "postgresql_readonly"),
        ({"execution_options": {"schema_translate_map": {None: "x"}}}, "schema_translate_map"),
        ({"execution_options": 5}, "execution_options"),
        ({"connect_args": {"autocommit": False}}, "autocommit"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"password_file": 5}, "password_file"),
        ({"password_provider": 5}, "password_provider"),
        ({"password_provider": "no_such_module:name"}, "ModuleNotFoundError"),
        ({"password_provider": "os:no_such_name"}, "AttributeError"),
        ({"password_file": "/x", "password_provider": "os:getcwd"}, "keep one"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        engines.create(f"postgresql://u:{quote(PASSWORD, safe='')}@db/x", options)
    assert str(refused.value).startswith("c.PersistentSessionManager.engine_options")


def test_options_that_would_lose_a_database_in_memory_are_refused() -> None:
    for options in ({"poolclass": NullPool}, {"pool_recycle": 60}, {"creator": fail}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            engines.create(":memory:", options)


def test_options_that_change_nothing_are_kept(database: Database) -> None:
    options = {"execution_options": {"logging_token": "x"}, "poolclass": NullPool}
    with closing(
        SQLAlchemySessionRepository(
            database.url, options=options, auto_upgrade="safe", log=logging.getLogger("tests")
        )
    ) as repository:
        repository.open(SCOPE, server("one"), timeout=60)
        assert repository.renew(server("one"), [], timeout=10)


async def test_a_connection_is_not_kept_for_longer_than_pool_recycle(database: Database) -> None:
    made: list[object] = []
    repository = SQLAlchemySessionRepository(
        database.url,
        options={"pool_recycle": 3600},
        auto_upgrade="safe",
        log=logging.getLogger("tests"),
    )
    repository.open(SCOPE, server("one"), timeout=60)
    event.listen(repository._database.engine, "connect", lambda *_: made.append(None))
    for _ in range(3):
        assert await repository.find(SCOPE) == []
    assert made == []
    repository._database._connected_at -= 3601
    for _ in range(3):
        assert await repository.find(SCOPE) == []
    assert len(made) == 1
    repository.close(timeout=10)


def test_a_provider_whose_module_fails_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_provider.py").write_text(f"raise RuntimeError({PASSWORD!r})")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="RuntimeError") as refused:
        engines.create("postgresql://db/x", {"password_provider": "failing_provider:token"})
    assert PASSWORD not in str(refused.value)


def fail() -> str:
    raise LookupError(PASSWORD)


def test_a_password_that_is_not_had_is_a_fault_of_the_store(tmp_path: Path) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes("caf\u00e9".encode("latin-1"))
    cases: list[tuple[str, Any, str]] = [
        ("password_file", str(tmp_path / "missing"), "FileNotFoundError"),
        ("password_file", str(latin), "UnicodeDecodeError"),
        ("password_provider", fail, "LookupError"),
        ("password_provider", PASSWORD.encode, "TypeError"),
    ]
    for option, value, kind in cases:
        engine = engines.create("postgresql://u@127.0.0.1:1/x", {option: value})
        with pytest.raises(StoreUnavailable) as failed:
            engine.connect()
        said = str(failed.value)
        assert f"engine_options[{option!r}] gave no password ({kind})" in said
        assert PASSWORD not in said
        assert failed.value.__suppress_context__


def test_a_timeout_in_the_url_wins(database: Database) -> None:
    if database.kind == "sqlite":
        url = f"{database.url}?timeout=7"
        expected: dict[str, Any] = {"timeout": 7.0}
    else:
        joint = "&" if "?" in database.url else "?"
        url = f"{database.url}{joint}connect_timeout=7"
        expected = {"connect_timeout": "7" if database.kind == "postgresql" else 7}
    engine = engines.create(url)
    arguments = engine.dialect.create_connect_args(engine.url)[1]
    ours = engines._connect_args(backend_of(engine).driver, engine.url, {}, limiting=True)
    engine.dispose()
    for name, value in expected.items():
        assert arguments[name] == value
        assert name not in ours


@pytest.mark.only("postgresql", "mysql", reason="a file has no password")
def test_a_password_is_read_at_each_connect(database: Database, tmp_path: Path) -> None:
    password = parameters(database.url)["password"]
    bare = database.url.replace(quote(password, safe=""), "wrong")
    assert bare != database.url
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    calls: list[None] = []

    def provide() -> str:
        calls.append(None)
        return str(password)

    for options in ({"password_file": str(file)}, {"password_provider": provide}):
        engine = engines.create(bare, options)
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.execute(text("SELECT 1")).scalar_one() == 1
            engine.dispose()
    assert len(calls) == 2


@pytest.mark.only("mysql", reason="only PyMySQL takes a long statement for a silent host")
def test_an_operator_waits_for_a_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**mysql.PyMySQL.connect_args, "read_timeout": 1, "write_timeout": 1}
    monkeypatch.setattr(mysql.PyMySQL, "connect_args", short)

    def sleep(options: dict[str, Any], *, statement_timeout: bool) -> object:
        engine = engines.create(database.url, options, statement_timeout=statement_timeout)
        try:
            with engine.connect() as connection:
                return connection.execute(text("SELECT SLEEP(2)")).scalar_one()
        finally:
            engine.dispose()

    assert sleep({}, statement_timeout=False) == 0
    with pytest.raises(OperationalError, match="Lost connection"):
        sleep({}, statement_timeout=True)
    # What an operator has set stays.
    with pytest.raises(OperationalError, match="Lost connection"):
        sleep({"connect_args": {"read_timeout": 1}}, statement_timeout=False)


@pytest.mark.only("mysql", reason="it is PyMySQL that makes a context at each connect")
def test_the_certificates_of_the_system_are_read_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    create = ssl.create_default_context

    def counted(*arguments: Any, **options: Any) -> ssl.SSLContext:
        made.append(arguments)
        return create(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    engine = engines.create(database.url)
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
    # Before PyMySQL 1.2 there is no TLS that nobody asked for.
    assert len(made) <= 1


def test_no_password_and_no_url_is_shown() -> None:
    url = urls.parse(f"postgresql://u:{quote(PASSWORD, safe='')}@db/x")
    said = f"cannot connect to {url.render_as_string(hide_password=False)} with {PASSWORD}"
    shown = urls.redact(said, url)
    assert PASSWORD not in shown
    assert quote(PASSWORD, safe="") not in shown
    assert "postgresql" not in shown
    assert urls.describe(url) == "postgresql u@db:5432/x"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql:///x", "postgresql localhost:5432/x"),
        ("postgres://u@/x?host=/run/postgresql", "postgresql u@[/run/postgresql]:5432/x"),
        ("postgresql://u@a:5433,[::1]/x", "postgresql u@a:5433,[::1]:5432/x"),
        ("postgresql://u@/x?host=::1,a&port=5433,5434", "postgresql u@[::1]:5433,a:5434/x"),
        ("postgresql://u@/x?host=/run/a,/run/b", "postgresql u@[/run/a]:5432,[/run/b]:5432/x"),
        ("postgresql://u@localhost/x?host=/run/a", "postgresql u@[/run/a]:5432/x"),
        ("postgresql://u@/x?hostaddr=192.0.2.1&port=5433", "postgresql u@192.0.2.1:5433/x"),
        ("mysql://u@/x?host=db:3307", "mysql u@db:3307/x"),
        ("mysql://u@:3307/x?host=db", "mysql u@db:3307/x"),
        ("mysql://u@db/x?port=3307", "mysql u@db:3307/x"),
        ("postgresql://u@db/x?port=5433", "postgresql u@db:5433/x"),
        ("postgresql://u@db:5433/x?host=/run/a", "postgresql u@[/run/a]:5433/x"),
        ("postgresql://u@:5433/x?host=a,b", "postgresql u@a:5433,b:5433/x"),
        ("postgresql://u@a,b/x?port=5433", "postgresql u@a:5433,b:5433/x"),
        ("postgresql://u@a,b/x?port=5433,5434", "postgresql u@a:5433,b:5434/x"),
        ("postgresql://u@[::1]/x?sslpassword=s3cr3t", "postgresql u@[::1]:5432/x"),
        ("postgresql:///?service=prod", "postgresql [service prod]"),
        ("mysql://u%0A@db:3307/x", "mysql u?@db:3307/x"),
        ("mariadb://u@/x?unix_socket=/run/my.sock", "mariadb u@[/run/my.sock]/x"),
        ("sqlite:////srv/a.db?timeout=3", "sqlite /srv/a.db"),
        (":memory:", "sqlite in memory"),
    ],
)
def test_the_name_of_a_database(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PGUSER", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)
    assert urls.describe(urls.parse(url)) == name


def test_what_a_url_leaves_out_is_named_as_libpq_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGUSER", "jupyter")
    monkeypatch.setenv("PGHOST", "db")
    assert urls.describe(urls.parse("postgresql:///x")) == "postgresql jupyter@db:5432/x"
