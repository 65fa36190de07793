"""Whatever a driver raises is a fault of the store: told in plain words, and with no password."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from traitlets import TraitError

from jupyter_session_store.errors import ConfigurationError, StoreUnavailable
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.faults import DriverFault
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, record, server
from tests.databases import Database, Instance, parameters
from tests.migrations.support import engine_of, opened
from tests.unit.dummies import make_manager
from tests.unit.test_worker import assert_said_once_away_and_once_back, open_repository

#: What PyMySQL cannot send; each character of it must not be shown.
UNSENDABLE: Final = "\u043f\u0430\u0440\u043e\u043b\u044c\u20ac"
LATIN: Final = "caf\u00e9"
RAISED: Final[dict[str, Callable[[], BaseException]]] = {
    "RuntimeError": lambda: RuntimeError(f"failed with {UNSENDABLE}"),
    "KeyError": lambda: KeyError(UNSENDABLE),
    "AssertionError": lambda: AssertionError(UNSENDABLE),
    "UnicodeEncodeError": lambda: UnicodeEncodeError("latin-1", UNSENDABLE, 0, 1, "no"),
    "TypeError": lambda: TypeError(UNSENDABLE),
    "struct.error": lambda: __import__("struct").error(UNSENDABLE),
    "OSError": lambda: OSError(5, "Input/output error"),
}


def shows(text: str) -> set[str]:
    """Return the characters of the password that a text shows."""
    return {one for one in UNSENDABLE if one in text or ascii(one).strip("'") in text}


@pytest.mark.parametrize("name", RAISED)
def test_what_a_driver_raises_at_a_connect(database: Database, name: str) -> None:
    def connect() -> Any:
        raise RAISED[name]()

    engine = engines.create(database.url, {"creator": connect})
    with pytest.raises(OperationalError) as failed:
        engine.connect()
    engine.dispose()
    assert isinstance(failed.value, DriverFault)
    assert (engine.dialect.driver if name != "OSError" else "Input/output") in str(failed.value)
    assert shows(str(failed.value)) == set()


@pytest.mark.parametrize("name", RAISED)
def test_what_is_raised_when_a_dialect_is_initialised(
    database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def initialize(_self: object, _connection: Connection) -> None:
        raise RAISED[name]()

    with engine_of(database.url) as engine:
        kind = type(engine.dialect)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "initialize", initialize)
        engine = engines.create(database.url)
    with pytest.raises(DriverFault) as failed:
        engine.connect()
    engine.dispose()
    assert shows(str(failed.value)) == set()


@pytest.mark.parametrize("name", RAISED)
async def test_what_a_driver_raises_at_a_statement(
    database: Database, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.INFO, "tests")
    failing = True

    def execute(*_: object) -> None:
        if failing:
            raise RAISED[name]()

    repository = open_repository(database.url)
    event.listen(repository._database.engine, "do_execute", execute)
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as failed:
            await repository.add(record("a"))
        with pytest.raises(StoreUnavailable):
            repository.renew(server("one"), [], timeout=10)
    assert shows(str(failed.value)) == set()
    failing = False
    await repository.add(record("a"))
    repository.close(timeout=10)
    assert_said_once_away_and_once_back(caplog)
    assert shows(caplog.text) == set()


def test_an_interrupt_is_no_fault(database: Database) -> None:
    def connect() -> Any:
        raise KeyboardInterrupt

    engine = engines.create(database.url, {"creator": connect})
    with pytest.raises(KeyboardInterrupt):
        engine.connect()
    engine.dispose()


# ------------------------------------------------------------------ passwords


def test_a_password_that_cannot_be_sent_is_refused() -> None:
    url = f"mysql://u:{quote(UNSENDABLE)}@db/x"
    with pytest.raises(ConfigurationError, match="characters of Latin-1") as refused:
        engines.check(url)
    assert shows(str(refused.value)) == set()
    for option in ("password", "passwd"):
        with pytest.raises(ConfigurationError, match="characters of Latin-1") as refused:
            engines.create("mariadb://u@db/x", {"connect_args": {option: UNSENDABLE}})
        assert shows(str(refused.value)) == set()
    engines.check(f"mysql://u:{quote(LATIN)}@db/x")
    engines.check(f"postgresql://u:{quote(UNSENDABLE)}@db/x")


@pytest.mark.only("mysql", reason="the others have no such password")
async def test_a_password_that_turns_into_one_that_cannot_be_sent(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tests")
    file = tmp_path / "password"
    file.write_text(UNSENDABLE, encoding="utf-8")
    options: dict[str, Any] = {"password_file": str(file)}
    with pytest.raises(ConfigurationError, match="cannot send"), opened(database.url, **options):
        pass
    file.write_text(parameters(database.url)["password"])
    repository = SQLAlchemySessionRepository(
        database.url, options=options, auto_upgrade="safe", log=logging.getLogger("tests")
    )
    repository.open(SCOPE, server("one"), timeout=60)
    file.write_text(UNSENDABLE, encoding="utf-8")
    repository._database.release()
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as failed:
            await repository.find(SCOPE)
    file.write_text(parameters(database.url)["password"])
    assert await repository.find(SCOPE) == []
    repository.close(timeout=10)
    assert shows(str(failed.value)) == set()
    assert_said_once_away_and_once_back(caplog)
    assert shows(caplog.text) == set()


# ----------------------------------------------- packages that a log-in needs


@pytest.mark.only("mysql", reason="the other drivers need no package of another")
def test_a_log_in_that_needs_a_package(
    own_server: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = own_server.create_database()
    package, extra = "pynacl", "pymysql[ed25519]"
    if "MariaDB" in own_server.version():
        own_server.admin.execute("INSTALL SONAME 'auth_ed25519'")
        how = "VIA ed25519 USING PASSWORD('anothers')"
        monkeypatch.setitem(sys.modules, "nacl", None)
        monkeypatch.setattr("pymysql._auth._nacl_bindings", None, raising=False)
    else:
        package, extra = "cryptography", "jupyter_session_store[mysql]"
        how = "WITH caching_sha2_password BY 'anothers'"
        monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    own_server.admin.execute(f"CREATE USER 'other'@'%' IDENTIFIED {how}")
    own_server.admin.execute("GRANT ALL ON *.* TO 'other'@'%'")
    parts = urlsplit(database.url)
    where = f"{parts.hostname}:{parts.port}{parts.path}"
    # Over TLS, MySQL 8 takes the password as it is.
    options: dict[str, Any] = {"connect_args": {"ssl_disabled": True}}
    with (
        pytest.raises(ConfigurationError) as refused,
        opened(f"mysql://other:anothers@{where}", **options),
    ):
        pass
    said = str(refused.value)
    assert f"the driver pymysql needs the package {package}, which is not installed" in said
    assert f"pip install '{extra}'" in said


# --------------------------------------------- servers that SQLAlchemy does not know


@pytest.mark.only("postgresql", reason="SQLAlchemy reads any version of the others")
@pytest.mark.filterwarnings("ignore:connection .* was deleted:ResourceWarning")
@pytest.mark.parametrize(
    ("version", "said", "cure"),
    [
        ("CockroachDB CCL v23.1.11 (x86_64, built 2023)", "CockroachDB", "cockroachdb://"),
        ("Lizard 3.2 on ", "Lizard 3.2", "https://docs.sqlalchemy.org/dialects/"),
    ],
)
def test_a_server_that_is_another_database(
    own_server: Instance, version: str, said: str, cure: str
) -> None:
    database = own_server.create_database()
    database.execute(
        "SET allow_system_table_mods = on; CREATE OR REPLACE FUNCTION pg_catalog.version() "
        f"RETURNS text LANGUAGE sql AS $$ SELECT '{version}' $$"
    )
    with pytest.raises(ConfigurationError) as refused, opened(database.url):
        pass
    assert f"the server calls itself '{said}" in str(refused.value)
    assert cure in str(refused.value)


# -------------------------------------------------------------------- encodings


@pytest.fixture
def encoded(database: Database, request: pytest.FixtureRequest) -> Any:
    """A database of PostgreSQL in another encoding."""
    encoding = request.param
    other = f"{urlsplit(database.url).path[1:]}_{encoding.lower()}"
    database.execute(
        f"CREATE DATABASE {other} TEMPLATE template0 ENCODING '{encoding}'"
        " LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    yield Database("postgresql", urlsplit(database.url)._replace(path=f"/{other}").geturl())
    database.execute(f"DROP DATABASE {other} WITH (FORCE)")


@pytest.mark.only("postgresql", reason="the others store every text")
@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
async def test_a_database_without_an_encoding_keeps_every_text(encoded: Database) -> None:
    stored = record("a", path="\u20ac \U0001f600.ipynb", kernel_id="k")
    with closing(open_repository(encoded.url)) as repository:
        await repository.add(stored)
        assert await repository.find(SCOPE) == [stored]
        assert await repository.find(SCOPE, path=stored.path) == [stored]


@pytest.mark.only("postgresql", reason="the others store every text")
@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
async def test_a_text_that_a_database_does_not_have(encoded: Database) -> None:
    stored = record("a", path=f"{LATIN}.ipynb", kernel_id="k")
    with closing(open_repository(encoded.url)) as repository:
        await repository.add(stored)
        with pytest.raises(ValueError, match="was refused by the database"):
            await repository.add(record("b", path="\u20ac.ipynb", kernel_id="k"))
        with pytest.raises(ValueError, match="was refused by the database"):
            await repository.update(SCOPE, "a", {"name": "\u20ac"})
        with pytest.raises(ValueError, match="was refused by the database"):
            await repository.find(SCOPE, name="\u20ac")
        assert await repository.find(SCOPE) == [stored]
    scope = replace(SCOPE, namespace="dir:/home/\u20ac")
    with pytest.raises(ConfigurationError) as refused, opened(encoded.url, scope):
        pass
    assert "cannot store the namespace 'dir:/home/\u20ac'" in str(refused.value)
    assert "Set c.PersistentSessionManager.namespace" in str(refused.value)
    with pytest.raises(TraitError, match="cannot store the namespace"):
        make_manager(encoded.url, namespace=scope.namespace)


def test_text_is_sent_as_unicode() -> None:
    for url, name in (("postgresql://db/x", "client_encoding"), ("mysql://db/x", "charset")):
        with pytest.raises(ConfigurationError, match="utf8"):
            engines.create(url, {"connect_args": {name: "latin1"}})


def test_errors_of_sqlalchemy_stay_what_they_are(database: Database) -> None:
    with engine_of(database.url) as engine, engine.connect() as connection:
        with pytest.raises(SQLAlchemyError) as failed:
            connection.exec_driver_sql("SELECT * FROM nothing")
        assert not isinstance(failed.value, DriverFault)
