"""``doctor``: what it finds, what it says would mend it, and that this mends it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy.exc import OperationalError

from jupyter_session_store.sql.doctor import Finding, Verdict
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.engine import url as urls
from jupyter_session_store.sql.engine.cures import cure_of
from jupyter_session_store.sql.engine.mysql import MariaDB, MySQL
from jupyter_session_store.sql.engine.postgresql import PostgreSQL
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.versions import HEAD, VERSION_TABLE
from jupyter_session_store.sql.tables import METADATA

from ..databases import Database
from ..migrations.support import ROOT, engine_of
from .conftest import Run
from .doctor_support import (
    EXAMINED,
    GENERAL,
    SERVERS,
    TABLES,
    another_user,
    look,
    mend,
    role_of,
    told,
    unwell,
    with_login,
)
from .support import fill, on_terminal, server, session, shows_password, upgraded


def test_a_database_that_is_well(database: Database, run: Run) -> None:
    fill(database.url, [session(f"ns-{n % 3}", n) for n in range(7)], [server("ns-1")])
    done = run("doctor", "--json", url=database.url)
    findings = told(done)
    assert unwell(findings) == {}
    assert list(findings) == EXAMINED[database.kind]
    assert all(finding.cure == () for finding in findings.values())
    assert done.returncode == 0
    assert findings["sessions"].text == "Sessions: 7. Namespaces: 3. Registered servers: 1."
    assert findings["revision"].text == f"{HEAD}, the newest."
    assert not shows_password(database, done.stdout)
    if database.kind == "sqlite":
        assert sqlite3.sqlite_version in findings["driver"].text
    else:
        driver = {"postgresql": r"psycopg \d.*libpq \d", "mysql": r"pymysql 1\."}[database.kind]
        assert re.match(driver, findings["driver"].text)
        version = database.rows("SELECT version()")[0][0]
        assert findings["server"].text.split()[1].rstrip(".") in version


def test_the_documentation_names_all_that_is_examined() -> None:
    page = (ROOT / "docs" / "how-to" / "diagnose.md").read_text()
    named = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    examined = {name for names in EXAMINED.values() for name in names}
    # These only where a URL names several.
    assert sorted(named) == sorted(examined | {"hosts"})


def test_the_oldest_releases_are_those_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (PostgreSQL|MariaDB|MySQL) \|.*\| ([\d.]+) \|", text, re.MULTILINE)
    assert {name: tuple(map(int, version.split("."))) for name, version in rows} == {
        backend.title: backend.oldest_release for backend in (PostgreSQL, MySQL, MariaDB)
    }


def test_an_empty_database(database: Database, run: Run) -> None:
    """Plain lines; and nothing is made."""
    with closing(database.connect()):
        pass
    done = run("doctor", url=database.url)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["EXAMINED", "VERDICT", "FOUND", "CURE"]
    rows = {line[0]: line[1:] for line in lines}
    assert [*rows][1:] == [name for name in EXAMINED[database.kind] if name in rows]
    verdict, text, cure = rows["revision"]
    assert (verdict, cure) == ("failed", "jupyter session-store upgrade")
    assert "holds no session tables; this code expects revision" in text
    # What needs the tables is not asked for.
    assert not rows.keys() & {*TABLES, "collation", "storage engine", "wall"}
    assert not shows_password(database, done.stdout)
    assert "holds no session tables" in look(database.url)["revision"].text


def test_tables_of_another(database: Database) -> None:
    database.execute("CREATE TABLE jupyter_sessions (id INTEGER)")
    found = look(database.url)["revision"]
    assert found.verdict is Verdict.FAILED
    assert "that jupyter_session_store did not make" in found.text
    assert found.cure[0].startswith("To go on, name another database or schema (c.SessionManager")


def test_a_database_of_a_newer_release(database: Database) -> None:
    upgraded(database.url)
    database.execute("UPDATE jupyter_session_store_version SET version_num = '9999'")
    found = look(database.url)
    assert unwell(found) == {}
    assert "newer than this code, which can work with it" in found["revision"].text
    database.execute(
        "UPDATE jupyter_session_store_meta SET value = '9' WHERE name = 'oldest_compatible_code'"
    )
    found = look(database.url)
    assert unwell(found) == {"revision": Verdict.FAILED}
    assert found["revision"].cure == ("pip install --upgrade jupyter_session_store",)


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_wrong_password(database: Database, run: Run) -> None:
    """It says what it has found until then."""
    user = urlsplit(database.url).username or ""
    done = run("doctor", "--json", url=with_login(database, user, "s3cr3t"))
    findings = told(done)
    assert done.returncode == 3
    assert list(findings) == [*GENERAL, "connection"]
    found = findings["connection"]
    assert found.verdict is Verdict.FAILED
    assert user in found.text
    assert "password_file" in found.cure[0]
    assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_what_prevents_a_connection(database: Database, tmp_path: Path) -> None:
    def found(**changes: Any) -> Finding:
        url = urls.parse(database.url).set(**changes)
        findings = look(url.render_as_string(hide_password=False))
        assert list(findings) == [*GENERAL, "connection"]
        assert not shows_password(database, *(finding.text for finding in findings.values()))
        return findings["connection"]

    assert found(host="no-such-host.invalid").cure == (
        "Mend the host in the URL. Whether it is known here: getent hosts no-such-host.invalid",
    )
    # Nothing listens on the first of all ports.
    refused = found(port=1)
    assert "refused" in refused.text
    assert refused.cure[0].startswith("Start the server, or mend the host and the port")
    quoted = {"postgresql": '"jss-missing"', "mysql": "`jss-missing`"}[database.kind]
    assert found(database="jss-missing").cure == (f"CREATE DATABASE {quoted};",)
    missing = tmp_path / "no such file"
    option = look(
        urls.parse(database.url).set(password=None).render_as_string(),
        password_file=str(missing),
    )["connection"]
    assert "engine_options['password_file'] gave no password (FileNotFoundError)" in option.text
    assert option.cure == ("Mend what that option names; it is read at each connect.",)


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_role_that_may_only_read(database: Database, run: Run) -> None:
    upgraded(database.url)
    with another_user(database) as url:
        for table in (*METADATA.tables, VERSION_TABLE):
            database.execute(f"GRANT SELECT ON {table} TO {role_of(database, url)}")
        done = run("doctor", "--json", url=url)
        findings = told(done)
        assert done.returncode == 1
        rights = findings["rights"]
        assert rights.verdict is Verdict.FAILED
        assert "INSERT, UPDATE, DELETE on jupyter_sessions" in rights.text
        assert "SELECT" not in rights.text
        mend(database, rights)
        after = look(url)
        assert after["rights"].verdict is Verdict.OK
        assert Verdict.FAILED not in unwell(after).values()


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_role_that_may_do_nothing(database: Database) -> None:
    fill(database.url, [session("ns", 1)])
    with another_user(database) as url:
        found = look(url)
        assert {name: found[name].verdict for name in ("revision", "rights", "sessions")} == {
            "revision": Verdict.FAILED,
            "rights": Verdict.FAILED,
            "sessions": Verdict.UNKNOWN,
        }
        assert found["revision"].text.startswith("It may not be read: ")
        # Each of them once, whatever could not be examined for lack of it.
        cures = [cure for one in found.values() for cure in one.cure if cure.startswith("GRANT ")]
        assert cures == [*found["rights"].cure]
        assert len(set(cures)) == 4
        for name in ("revision", "sessions"):
            assert found[name].text.endswith(" See rights.")
        mend(database, found["rights"])
        after = look(url)
        assert Verdict.FAILED not in unwell(after).values()
        assert after["revision"].verdict is Verdict.OK
        assert after["sessions"].text.startswith("Sessions: 1.")


@pytest.mark.only("postgresql", reason="MySQL tells such a role of no table whether it is there")
def test_a_role_that_may_not_read_what_a_downgrade_has_left(database: Database) -> None:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        migrating.downgrade(engine, "base")
    with another_user(database) as url:
        found = look(url)
        assert found["revision"].verdict is Verdict.FAILED
        [grant] = found["rights"].cure
        assert grant.startswith("GRANT SELECT ON ")
        mend(database, found["rights"])
        assert "holds no session tables" in look(url)["revision"].text


@pytest.mark.only("postgresql", reason="the others have no schemas inside a database")
def test_tables_in_a_schema_that_the_role_does_not_find(database: Database) -> None:
    database.execute("CREATE SCHEMA sessions")
    upgraded(f"{database.url}?options=-csearch_path%3Dsessions")
    with another_user(database) as url:
        found = look(url)["revision"]
        assert found.verdict is Verdict.FAILED
        assert "in the schema sessions, and" in found.text
        assert [one.partition(" ")[0] for one in found.cure] == ["GRANT", "ALTER"]
        mend(database, found)
        found = look(url)["revision"]
        assert found.text.startswith("It may not be read: ")
        mend(database, look(url)["rights"])
        assert Verdict.FAILED not in unwell(look(url)).values()


@pytest.mark.only("postgresql", reason="MySQL has no such right")
def test_a_role_that_may_not_log_in(database: Database) -> None:
    with another_user(database) as url:
        database.execute(f"ALTER ROLE {role_of(database, url)} NOLOGIN")
        mend(database, look(url)["connection"])
        assert look(url)["connection"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("said", "query", "cure"),
    [
        ('no pg_hba.conf entry for host "::1", user "u", no encryption', "", "Set sslmode=verify"),
        (
            'no pg_hba.conf entry for host "::1", user "u", no encryption',
            "?sslmode=disable",
            "In the URL, replace sslmode=disable by: sslmode=verify-full&sslrootcert=PATH",
        ),
        (
            "no pg_hba.conf entry for host, SSL off",
            "?sslmode=allow&sslrootcert=system",
            "In the URL, replace sslmode=allow by: sslmode=verify-full",
        ),
        ('pg_hba.conf rejects connection for host "::1", user "u"', "", "Put before the line of"),
        ('invalid connection option "sslmod"', "", "Mend that parameter of the URL"),
        ('database "d" is not currently accepting connections', "", "ALTER DATABASE d ALLOW_CON"),
        ("Access denied, this account is locked", "", "ALTER USER 'u'@'%' ACCOUNT UNLOCK;"),
        ("Your password has expired", "", "ALTER USER 'u'@'%' IDENTIFIED BY '...';"),
        ("Host '::1' is blocked because of many connection errors", "", "FLUSH HOSTS;"),
    ],
)
def test_what_mends_a_connect(said: str, query: str, cure: str) -> None:
    """What servers say that are set up in ways that would take a server each."""
    with engine_of(f"postgresql://u@db.example.org/d{query}") as engine:
        found = cure_of(OperationalError(None, None, Exception(said)), engine)
    assert found is not None
    assert found.startswith(cure)


def test_a_table_is_not_taken_for_the_policy_of_its_name() -> None:
    with engine_of("postgresql://u@db.example.org/d") as engine:
        for said, cured in (
            ('new row violates row-level security policy "jupyter_session_store_wall" for', True),
            ('relation "jupyter_session_store_wall" does not exist', False),
        ):
            found = cure_of(OperationalError(None, None, Exception(said)), engine)
            assert ("wall grant" in (found or "")) == cured, said


@pytest.mark.only("postgresql", "mysql", **SERVERS)
def test_a_role_that_may_not_change_the_schema(database: Database) -> None:
    name = urlsplit(database.url).path[1:]
    with another_user(database) as url:
        user = role_of(database, url)
        if database.kind == "postgresql":
            # Before PostgreSQL 15 everybody may.
            database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        else:
            # Whether a table is there is told to nobody else.
            database.execute(f"GRANT SELECT ON {name}.* TO {user}")
        found = look(url)
        assert found["revision"].verdict is Verdict.FAILED
        if database.kind == "postgresql":
            assert found["schema rights"].verdict is Verdict.WARNING
            assert found["schema rights"].cure[0].endswith("upgrade --url env:DDL_URL")
            database.execute(f"GRANT CREATE ON SCHEMA public TO {user}")
            assert look(url)["schema rights"].verdict is Verdict.OK
        else:
            assert found["schema rights"].verdict is Verdict.UNKNOWN
            database.execute(f"GRANT CREATE, ALTER, DROP, INDEX ON {name}.* TO {user}")
            assert look(url)["schema rights"].verdict is Verdict.OK


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Hold a lock under which nobody else can write sessions."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in {
            "sqlite": ["BEGIN IMMEDIATE"],
            "postgresql": ["BEGIN", "LOCK TABLE jupyter_sessions"],
            "mysql": ["LOCK TABLES jupyter_sessions WRITE"],
        }[database.kind]:
            cursor.execute(statement)
        yield


def test_an_examination_that_fails_is_unknown_and_the_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(database.url)
    monkeypatch.setattr(timeouts, "STATEMENT_TIMEOUT", 1.0)
    arguments = {
        "sqlite": {"timeout": 0.2},
        "postgresql": {},
        "mysql": {"init_command": "SET SESSION lock_wait_timeout = 1"},
    }[database.kind]
    with held(database):
        found = look(database.url, connect_args=arguments)
    assert list(found) == EXAMINED[database.kind]
    rights = found["rights"]
    assert rights.verdict is Verdict.UNKNOWN
    assert rights.text.startswith("It could not be examined: ")
    assert set(unwell(found).values()) == {Verdict.UNKNOWN}
    assert found["revision"].verdict is Verdict.OK


def test_sessions_of_strangers(database: Database) -> None:
    authorities = ["server:server-1", "gateway:http://g", "hand", "serve"]
    fill(
        database.url,
        [session("ns", n, authority=name, claim=None) for n, name in enumerate(authorities)],
    )
    found = look(database.url)
    assert unwell(found) == {"strangers": Verdict.WARNING}
    assert found["strangers"].text.startswith("2 sessions have an authority")
    mend(database, found["strangers"])
    assert unwell(look(database.url)) == {}
    left = database.rows("SELECT authority FROM jupyter_sessions ORDER BY session_id")
    assert [row[0] for row in left] == authorities[:2]


def test_a_terminal_gets_a_table_and_the_commands_below_it(home: Path) -> None:
    file = home / ("long-" * 20 + "name.db")
    upgraded(str(file))
    file.chmod(0o640)
    code, shown = on_terminal("doctor", home=home, url=str(file))
    assert code == 0
    assert "EXAMINED" in shown
    assert "\x1b[33mwarning\x1b[0m" in shown
    # Whole, in one line.
    assert f"file: chmod 600 {file}" in shown.splitlines()
