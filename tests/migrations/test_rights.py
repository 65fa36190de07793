"""Servers whose role may not change the schema, and a schema other than the usual one.

What roles there are, and what they may do, is taken from the documentation.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import pytest

from jupyter_session_store.errors import SchemaMismatch, StoreUnavailable
from jupyter_session_store.records import STARTING, Scope
from jupyter_session_store.sql.schema import migrating, rights, starting, versions
from jupyter_session_store.sql.schema.versions import HEAD
from jupyter_session_store.testing import server

from ..cli.doctor_support import another_user, role_of
from ..databases import DRIVER_ERRORS, Database, Instance
from ..databases.server import new_password
from ..system.conftest import stored_in
from ..system.server import PATIENT, JupyterServer
from .shape import shape
from .support import ROOT, SCOPE, TABLES, engine_of, opened, record, status
from .test_states import later_code

PASSWORD: Final = new_password()
PAGES: Final = {"postgresql": "docs/how-to/postgresql.md", "mysql": "docs/how-to/mysql.md"}
#: What the block of them has that no other has.
GRANTS: Final = "jupyter_session_store_meta"
NEVER: Final = '\nc.PersistentSessionManager.auto_upgrade = "never"\n'
#: What a server's role must not be able to do.
FORBIDDEN: Final = (
    "CREATE TABLE theirs (id INTEGER)",
    "DROP TABLE jupyter_sessions",
    "ALTER TABLE jupyter_sessions ADD COLUMN note INTEGER",
    "CREATE INDEX theirs ON jupyter_sessions (state)",
    "UPDATE jupyter_session_store_meta SET value = '9'",
    "DELETE FROM jupyter_session_store_version",
)


def documented(kind: str, words: str) -> list[str]:
    """Return the statements of the one SQL block of a page that has certain words."""
    text = (ROOT / PAGES[kind]).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if words in block]
    return [
        one.replace("'...'", f"'{PASSWORD}'")
        for one in re.split(r";\s*$", found, flags=re.MULTILINE)
        if one.strip()
    ]


def execute(database: Database, statements: Sequence[str]) -> None:
    """Execute statements on one connection."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)


def as_role(server: Instance, role: str, query: str = "") -> Database:
    """Return the documented database as a role reaches it."""
    parts = urlsplit(server.admin.url)
    netloc = f"{role}:{quote(PASSWORD, safe='')}@{parts.hostname}:{parts.port}"
    whole = parts._replace(netloc=netloc, path="/jupyter", query=query)
    return Database(server.kind, whole.geturl())


def administered(server: Instance) -> Database:
    """Return the documented database as the server's administrator reaches it."""
    return Database(server.kind, urlsplit(server.admin.url)._replace(path="/jupyter").geturl())


@pytest.fixture
def owned(own_server: Instance) -> Database:
    """The documented database, as the owner of the tables reaches it, who has made none yet."""
    execute(own_server.admin, documented(own_server.kind, "CREATE DATABASE jupyter"))
    return as_role(own_server, "jupyter")


def upgrade(database: Database) -> None:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        assert status(engine).state is versions.State.CURRENT


@contextmanager
def serving(database: Database) -> Iterator[JupyterServer]:
    """Run a server that may not change the schema."""
    with closing(JupyterServer(stored_in(database) + NEVER + PATIENT)) as server:
        server.start()
        try:
            yield server
        finally:
            print(server.log)


def check_service(role: Database, owner: Database) -> None:
    """Check that a server does with a role all that it ever does."""
    with serving(role) as server:
        session = server.create("a.ipynb")
        other = server.create("b.ipynb", kernel=session["kernel"])
        assert [one["id"] for one in server.sessions()] == [session["id"], other["id"]]
        renamed = server.model(server.patch(session["id"], path="renamed.ipynb"), 200)
        found = server.model(server.get(session["id"]), 200)
        # What the kernel does meanwhile is not the question.
        assert found | {"kernel": renamed["kernel"]} == renamed
        for key in ("id", "name"):
            assert found["kernel"][key] == renamed["kernel"][key]
        moved = server.model(server.patch(other["id"], kernel={"name": "python3"}), 200)
        assert moved["kernel"]["id"] != session["kernel"]["id"]
        rows = "SELECT path FROM jupyter_sessions ORDER BY path"
        assert owner.rows(rows) == [("b.ipynb",), ("renamed.ipynb",)]
        assert server.delete(session["id"]).status_code == 204
        assert owner.rows(rows) == [("b.ipynb",)]
        assert owner.rows("SELECT COUNT(*) FROM jupyter_servers") == [(1,)]
        server.stop()
        assert owner.rows(rows) == []
        assert owner.rows("SELECT COUNT(*) FROM jupyter_servers") == [(0,)]
        assert "unavailable" not in server.log
        assert server.own_frames() == []


def check_housekeeping(role: Database) -> None:
    """Check that a role may evict a server and take over what it has left."""

    async def keep_house() -> None:
        await gone.add(record("left", server_id="gone", **on_gateway, state=STARTING))
        await one.add(record("mine", **on_gateway))
        servers = one.renew(server("server", SCOPE.namespace), [], timeout=30)
        dead = [found for found in servers if found.server_id == "gone"]
        assert len(dead) == 1
        [left] = one.evict(scope, dead, "server", timeout=30)
        assert (left.session_id, left.server_id) == ("left", "server")
        closing = await one.begin_close(scope, "mine", "server")
        assert closing is not None
        assert closing.last
        assert await one.remove(scope, [left, closing.record]) == 2

    scope = Scope(SCOPE.namespace, "gateway:g")
    on_gateway = {"authority": scope.authority}
    with (
        opened(role.url, scope, server_id="gone", auto_upgrade="never") as gone,
        opened(role.url, scope, auto_upgrade="never") as one,
    ):
        asyncio.run(keep_house())


@pytest.mark.system
@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
def test_a_server_needs_no_right_to_change_the_schema(
    own_server: Instance, owned: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(owned)
    execute(administered(own_server), documented(own_server.kind, GRANTS))
    role = as_role(own_server, "jupyter_server")
    check_service(role, owned)
    check_housekeeping(role)

    before = shape(owned)
    for statement in FORBIDDEN:
        with pytest.raises(DRIVER_ERRORS):
            role.execute(statement)
    with later_code(tmp_path, 1, monkeypatch), engine_of(role.url) as engine:
        with pytest.raises(SchemaMismatch, match=f"at revision {HEAD}, which is behind") as refused:
            starting.ensure(engine, "always")
        assert "This role may not change the schema (" in str(refused.value)
        assert "take the URL of such a role as: --url env:NAME" in str(refused.value)
        assert PASSWORD not in str(refused.value)
    assert shape(owned) == before
    with engine_of(role.url) as engine:
        assert status(engine) == versions.Status(versions.State.CURRENT, versions.HEAD, 1)


@pytest.mark.system
@pytest.mark.only("postgresql", reason="the others have no schemas inside a database")
def test_a_schema_of_its_own(own_server: Instance, owned: Database) -> None:
    administrator = administered(own_server)
    execute(administrator, documented(own_server.kind, "CREATE SCHEMA sessions"))
    # Others of the same names in the usual one.
    upgrade(administrator)
    upgrade(owned)
    places = "SELECT schemaname, tablename FROM pg_tables WHERE tableowner = 'jupyter' ORDER BY 2"
    assert administrator.rows(places) == [("sessions", table) for table in sorted(TABLES)]
    grants = documented(own_server.kind, GRANTS)
    in_sessions = [one.replace("SCHEMA public", "SCHEMA sessions") for one in grants]
    assert in_sessions != grants
    execute(administrator, ["SET search_path = sessions", *in_sessions])

    by_url = as_role(own_server, "jupyter_server", "options=-csearch_path%3Dsessions")
    check_service(by_url, owned)
    execute(
        administrator, ["ALTER ROLE jupyter_server IN DATABASE jupyter SET search_path = sessions"]
    )
    check_housekeeping(as_role(own_server, "jupyter_server"))
    assert administrator.rows("SELECT COUNT(*) FROM public.jupyter_sessions") == [(0,)]
    with engine_of(owned.url) as engine:
        migrating.downgrade(engine, "base")
    assert administrator.rows(places) == [("sessions", versions.VERSION_TABLE)]
    with engine_of(administrator.url) as engine:
        assert status(engine).state is versions.State.CURRENT


# ------------------------------------------------ a right that is missing


def told_grants(text: str) -> list[str]:
    """Return the GRANT statements of a text."""
    return re.findall(r"GRANT .*?(?=;)", text)


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
async def test_a_missing_right_is_told_with_its_grant(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade(database)
    with another_user(database) as url:
        for table in sorted(TABLES):
            database.execute(f"GRANT SELECT ON {table} TO {role_of(database, url)}")
        with opened(url, auto_upgrade="never") as repository:
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as failed:
                    await repository.find(SCOPE)
            grants = told_grants(str(failed.value))
            assert [re.findall(r"GRANT (.*) ON \S*\b(\w+) TO", one)[0] for one in grants] == [
                ("INSERT, UPDATE, DELETE", "jupyter_sessions"),
                ("INSERT, UPDATE, DELETE", "jupyter_servers"),
            ]
            assert len(re.findall("is unavailable", caplog.text)) == 1
            execute(database, grants)
            await repository.add(record("a"))
            # Under a running server.
            database.execute(f"REVOKE UPDATE ON jupyter_sessions FROM {role_of(database, url)}")
            repository._database.release()
            with pytest.raises(StoreUnavailable) as failed:
                await repository.update(SCOPE, "a", {"name": "b"})
            [grant] = told_grants(str(failed.value))
            assert grant.startswith("GRANT UPDATE ON ")
            execute(database, [grant])
            repository._database.release()
            assert await repository.update(SCOPE, "a", {"name": "b"}) is not None


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
async def test_a_role_that_may_not_even_connect_is_told_its_grant(own_server: Instance) -> None:
    database = own_server.create_database()
    name = urlsplit(database.url).path[1:]
    upgrade(database)
    with another_user(database) as url:
        role = role_of(database, url)
        if database.kind == "postgresql":
            database.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        else:
            database.execute(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {role}")
        with opened(url, auto_upgrade="never") as repository:
            with pytest.raises(StoreUnavailable) as failed:
                await repository.find(SCOPE)
            grants = told_grants(str(failed.value))
            assert len(grants) == 1
            execute(database, grants)
            with (
                pytest.raises(StoreUnavailable) if database.kind == "postgresql" else nullcontext()
            ):
                assert await repository.find(SCOPE) == []


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no roles")
@pytest.mark.parametrize(
    "error", [RuntimeError("another fault"), StoreUnavailable("the password cannot be read")]
)
async def test_a_look_for_the_grant_that_fails_does_not_hide_the_fault(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    upgrade(database)

    def fail(_connection: object) -> None:
        raise error

    monkeypatch.setattr(rights, "lacking", fail)
    with another_user(database) as url:
        for table in sorted(TABLES):
            database.execute(f"GRANT SELECT ON {table} TO {role_of(database, url)}")
        with opened(url, auto_upgrade="never") as repository:
            with pytest.raises(StoreUnavailable, match=r"(?i)denied") as failed:
                await repository.find(SCOPE)
            assert str(error) not in str(failed.value)
