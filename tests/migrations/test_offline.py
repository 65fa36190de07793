"""The SQL that ``--sql`` prints, for an administrator to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pymysql
import pytest
from sqlalchemy import Engine, create_mock_engine

from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.schema import migrating, versions
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.sql.tables import METADATA

from ..databases import Database, parameters
from ..forking import start
from .shape import is_mariadb, shape
from .support import ROOT, status, surroundings

#: Nothing is there: printing needs no database.
URLS: Final = {
    "sqlite": ":memory:",
    "postgresql": "postgresql://jupyter@127.0.0.1:1/jupyter",
    "mysql": "mysql://jupyter@127.0.0.1:1/jupyter",
    "mariadb": "mariadb://jupyter@127.0.0.1:1/jupyter",
}
#: What tells the four apart: a text, a long text, and a moment.
EXPECTED: Final = {
    "sqlite": ("path VARCHAR(4096)", "kernel_model TEXT", "created_at VARCHAR(32) NOT NULL"),
    "postgresql": (
        'path VARCHAR(4096) COLLATE "C"',
        "kernel_model TEXT",
        "WITH TIME ZONE NOT NULL",
    ),
    "mysql": (
        "path VARCHAR(4096) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
        "kernel_model MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
        "created_at DATETIME(6) NOT NULL",
    ),
    "mariadb": (
        "path VARCHAR(4096) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "kernel_model MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "created_at DATETIME(6) NOT NULL",
    ),
}


@cache
def printed(scheme: str, *words: str) -> str:
    """Return what Alembic prints on its standard output; its log goes elsewhere."""
    with TemporaryDirectory() as home:
        process = start(
            ["-m", "alembic", *words, "--sql"],
            cwd=ROOT,
            env=surroundings(Path(home), JUPYTER_SESSION_STORE_URL=URLS[scheme]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            sql, log = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert "Generating static SQL" in log
    return sql


def ordered(sql: str) -> str:
    """Return the SQL with the options of a table in one order; old SQLAlchemys shuffle them."""
    return re.sub(r"\)(\w+=\w+(?: \w+=\w+)*)", lambda m: ")" + " ".join(sorted(m[1].split())), sql)


#: How something is made again, or while the table is in use.
_ONLINE: Final = re.compile(" IF NOT EXISTS| CONCURRENTLY| ALGORITHM=INPLACE LOCK=NONE")


def statements(sql: str) -> set[str]:
    """Return the statements that make a table or an index, as if each were made at once."""
    sql = _ONLINE.sub("", ordered(sql))
    found = [re.sub(r"\s+", " ", one).strip() for one in re.sub("--.*", "", sql).split(";")]
    made = {one for one in found if one.startswith("CREATE") and versions.VERSION_TABLE not in one}
    for one in found:
        if added := re.fullmatch(r"ALTER TABLE (\w+) ADD COLUMN (.*)", one):
            [table] = [one for one in made if one.startswith(f"CREATE TABLE {added[1]} ")]
            made -= {table}
            made.add(table.replace(", CONSTRAINT", f", {added[2]}, CONSTRAINT", 1))
    return made


@pytest.mark.parametrize("scheme", URLS)
def test_the_sql_is_that_of_the_database(scheme: str) -> None:
    # Debian has no MySQL server: its collation, which MariaDB does not know, is checked here
    # as text, and on a MySQL 8 wherever the tests get one.
    sql = printed(scheme, "upgrade", "head")
    for part in (
        "CREATE TABLE jupyter_session_store_version",
        "CREATE TABLE IF NOT EXISTS jupyter_sessions",
        "CREATE TABLE IF NOT EXISTS jupyter_servers",
        "CREATE TABLE IF NOT EXISTS jupyter_session_store_meta",
        "CONSTRAINT uq_jupyter_sessions_namespace_claim UNIQUE (namespace, claim)",
        "('oldest_compatible_code', '1')",
        "INSERT INTO jupyter_session_store_version (version_num) VALUES ('0001')",
        "ADD COLUMN",
        "version INTEGER ",
        "DEFAULT 1",
        f"UPDATE jupyter_session_store_version SET version_num='{versions.HEAD}'",
        *EXPECTED[scheme],
    ):
        assert part in sql
    own = {"mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}.get(scheme)
    assert set(re.findall(r"utf8mb4_\w+", sql)) == ({own} if own else set())
    # What a client would take for a parameter, or a driver have left behind.
    assert "%" not in sql


@pytest.mark.parametrize("scheme", URLS)
def test_the_sql_is_the_same_in_process(scheme: str) -> None:
    url = URLS[scheme]
    up = migrating.sql_script(url, None, "head")
    assert ordered(up) == ordered(printed(scheme, "upgrade", "head"))
    down = migrating.sql_script(url, versions.HEAD, "base", downgrade=True)
    assert down == printed(scheme, "downgrade", "head:base")


@pytest.mark.parametrize("scheme", URLS)
def test_the_sql_is_what_the_model_would_make(scheme: str) -> None:
    """On MySQL 8 too, where no server is at hand."""
    made: list[str] = []

    def collect(statement: Any, *_arguments: object) -> None:
        made.append(str(statement.compile(dialect=engine.dialect)))

    engine = create_mock_engine(urls.parse(URLS[scheme]), collect)
    METADATA.create_all(engine, checkfirst=False)
    expected = statements(";".join(made))
    assert len(expected) == 6
    assert statements(printed(scheme, "upgrade", "head")) == expected


def scheme_of(database: Database) -> str:
    """Return the scheme that an administrator gives for the SQL of this very server."""
    return "mariadb" if is_mariadb(database) else database.kind


def test_the_sql_makes_the_schema(
    database: Database, engine: Engine, new_database: Callable[[], Database]
) -> None:
    run_sql(database, printed(scheme_of(database), "upgrade", "head"))
    assert status(engine) == versions.Status(State.CURRENT, versions.HEAD, 1)
    migrated = new_database()
    other = engines.create(migrated.url)
    try:
        migrating.upgrade(other)
    finally:
        other.dispose()
    assert shape(database) == shape(migrated)


def test_the_sql_takes_the_schema_away(database: Database, at_head: Engine) -> None:
    at_head.dispose()
    run_sql(database, printed(scheme_of(database), "downgrade", "head:base"))
    assert status(at_head).state is State.EMPTY
    assert shape(database) == []


def run_sql(database: Database, sql: str) -> None:
    """Run a script as an administrator does, or by the driver where there is no client."""
    settings = parameters(database.url)
    host, user = settings.get("host", ""), settings.get("user", "")
    port, password = str(settings.get("port", "")), settings.get("password", "")
    where = ("--host", host, "--port", port, "--user", user)
    clients = {
        "sqlite": ("sqlite3", "-bail", settings.get("database", "")),
        "postgresql": (
            *("psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"),
            *("--host", host, "--port", port, "--username", user),
            *("--dbname", settings.get("dbname", "")),
        ),
        "mysql": (
            "mariadb" if shutil.which("mariadb") else "mysql",
            *where,
            settings.get("database", ""),
        ),
    }
    command = clients[database.kind]
    if shutil.which(command[0]) is None:
        run_by_driver(database, sql)
        return
    secrets = {"PGPASSWORD": password, "MYSQL_PWD": password}
    done = subprocess.run(
        command,
        input=sql,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **secrets},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def run_by_driver(database: Database, sql: str) -> None:
    if database.kind == "mysql":
        several = pymysql.constants.CLIENT.MULTI_STATEMENTS
        settings = parameters(database.url) | {"client_flag": several}
        with closing(pymysql.connect(**settings)) as mysql, mysql.cursor() as cursor:
            cursor.execute(sql)
            while cursor.nextset():
                pass
            mysql.commit()
        return
    with closing(database.connect()) as connection:
        if database.kind == "sqlite":
            connection.executescript(sql)
            return
        # One by one, as a client does: together they would be one transaction.
        for statement in re.sub("--.*", "", sql).split(";"):
            connection.execute(statement)


def test_the_driver_runs_a_script_as_the_client_does(database: Database, engine: Engine) -> None:
    run_by_driver(database, printed(scheme_of(database), "upgrade", "head"))
    assert status(engine).state is State.CURRENT
