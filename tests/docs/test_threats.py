"""What the page on threats says: of a wall between users, and of what can be done without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest

from jupyter_session_store.sql.admin import admin_connection, listing
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema import migrating

from ..cli.support import session_store
from ..databases import Database, Server
from ..system.cluster import KERNEL_MANAGER, LEASE
from ..system.conftest import stored_in
from ..system.gateway import Gateway, gateway
from ..system.server import PATIENT, JupyterServer
from ..system.waiting import until
from .blocks import blocks

__all__ = ["gateway"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

PAGE: Final = "docs/threats.md"


def as_role(database: Database, role: str, password: str = "...") -> Database:
    """Return a database as another role reaches it."""
    parts = urlsplit(database.url)
    netloc = f"{role}:{password}@{parts.hostname}:{parts.port}"
    return Database(database.kind, parts._replace(netloc=netloc).geturl())


@pytest.fixture
def walled(named_database: Callable[[str], Database], tmp_path: Path) -> Database:
    """A database with a wall and two users, made as the page says, as its owner reaches it."""
    database = named_database("postgresql")
    (typed,) = (b.text for b in blocks(PAGE) if b.language == "console" and "wall" in b.text)
    words = [line.removeprefix("$ jupyter session-store ").split() for line in typed.splitlines()]
    for name in ("ada", "bob"):
        database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '...'")
        for one in words:
            told = [name if word == "ada" else word for word in one]
            done = session_store(*told, home=tmp_path, url=database.url)
            assert done.returncode == 0, done.stderr
    return database


@pytest.fixture
def serve() -> Iterator[Callable[..., JupyterServer]]:
    """A function that starts a server of a namespace."""
    made: list[JupyterServer] = []

    def start(database: Database, namespace: str, more: str = "") -> JupyterServer:
        config = f"{stored_in(database)}{PATIENT}"
        config += f"c.PersistentSessionManager.namespace = {namespace!r}\n"
        config += f"c.PersistentSessionManager.lease_seconds = {LEASE}\n"
        made.append(JupyterServer(config + more))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        print(server.log)
        server.close()


def test_each_role_has_its_own_sessions(
    walled: Database, serve: Callable[..., JupyterServer]
) -> None:
    roles = {name: as_role(walled, name) for name in ("ada", "bob")}
    ada, bob = (serve(roles[name], f"hub:{name}/") for name in roles)
    sessions = {server: server.create("same.ipynb") for server in (ada, bob)}
    for server, other in ((ada, bob), (bob, ada)):
        own, others = sessions[server]["id"], sessions[other]["id"]
        assert [model["id"] for model in server.sessions()] == [own]
        assert server.get(own).status_code == 200
        assert server.get(others).status_code == 404
        assert server.patch(others, path="mine.ipynb").status_code == 404
        assert server.delete(others).status_code == 404
        assert server.model(server.patch(own, path="moved.ipynb"), 200)["path"] == "moved.ipynb"
        assert server.execute(sessions[server]["kernel"]["id"], "6 * 7") == "42"
    # Leases are renewed.
    renewals = "SELECT server_id, renewals FROM jupyter_servers"
    before = dict(walled.rows(renewals))
    assert len(before) == len(roles)
    until(
        lambda: all(count > before[server] for server, count in walled.rows(renewals)),
        why="each renews its own",
    )
    assert ada.uncaught() == bob.uncaught() == []
    # The owner of the tables, whom the operator's commands run as, sees all.
    with (
        admin_connection.engine(walled.url) as engine,
        admin_connection.connected(engine) as connection,
    ):
        found = [(one.namespace, one.path) for one in listing.sessions(connection)]
    assert found == [("hub:ada/", "moved.ipynb"), ("hub:bob/", "moved.ipynb")]
    for server in (ada, bob):
        assert server.delete(sessions[server]["id"]).status_code == 204
    assert walled.rows("SELECT * FROM jupyter_sessions") == []
    for server in (ada, bob):
        server.stop()
    assert walled.rows("SELECT * FROM jupyter_servers") == []


def test_a_role_that_lies_about_its_namespace(
    walled: Database, serve: Callable[..., JupyterServer]
) -> None:
    ada = serve(as_role(walled, "ada"), "hub:ada/")
    session = ada.create("a.ipynb")
    before = walled.rows("SELECT session_id, path FROM jupyter_sessions")
    liar = serve(as_role(walled, "bob"), "hub:ada/")
    assert liar.get(session["id"]).status_code == 404
    # Its own memory is its own affair.
    own = liar.create("a.ipynb")
    assert own["id"] != session["id"]
    assert liar.delete(session["id"]).status_code == 404
    assert [model["id"] for model in liar.sessions()] == [own["id"]]
    assert [model["id"] for model in ada.sessions()] == [session["id"]]
    assert walled.rows("SELECT session_id, path FROM jupyter_sessions") == before
    namespaces = walled.rows("SELECT namespace FROM jupyter_servers")
    assert namespaces == [("hub:ada/",)]


def test_a_role_that_lies_about_its_namespace_and_has_a_gateway(
    walled: Database, serve: Callable[..., JupyterServer], gateway: Gateway
) -> None:
    more = gateway.client_config + KERNEL_MANAGER
    ada = serve(as_role(walled, "ada"), "hub:ada/", more)
    session = ada.create("a.ipynb")
    liar = serve(as_role(walled, "bob"), "hub:ada/", more)
    assert liar.get(session["id"]).status_code != 200
    assert liar.post("a.ipynb").status_code == 503
    assert liar.delete(session["id"]).status_code != 204
    assert [model["id"] for model in ada.sessions()] == [session["id"]]
    assert gateway.kernels() == [session["kernel"]["id"]]


def test_what_a_role_can_do_by_hand(
    walled: Database, serve: Callable[..., JupyterServer], gateway: Gateway
) -> None:
    ada = serve(as_role(walled, "ada"), "hub:ada/")
    with_a_gateway = serve(
        as_role(walled, "ada"), "hub:ada/gateway/", gateway.client_config + KERNEL_MANAGER
    )
    session = ada.create("a.ipynb")
    serve(as_role(walled, "bob"), "hub:bob/").create("b.ipynb")
    bob = as_role(walled, "bob")
    # A renewal writes how the kernels are.
    looked_at = (
        "SELECT namespace, session_id, path, name, type, kernel_id, authority, server_id, state,"
        " claim FROM jupyter_sessions ORDER BY namespace"
    )
    before = walled.rows(looked_at)

    namespaces = "SELECT namespace FROM jupyter_sessions"
    assert bob.rows(namespaces) == [("hub:bob/",)]
    with closing(bob.connect()) as connection:
        # No setting of a client's own lets it through.
        for trick in ("SET row_security = off", "SET ROLE jupyter_users", "SET ROLE ada"):
            try:
                connection.execute(trick)
                seen = [row[0] for row in connection.execute(namespaces)]
            except psycopg.Error:
                seen = []
            assert "hub:ada/" not in seen, trick
            connection.execute("RESET ALL")
            connection.execute("RESET ROLE")
        for theft, rows in {
            "UPDATE jupyter_sessions SET path = 'x' WHERE namespace = 'hub:ada/'": 0,
            "DELETE FROM jupyter_sessions WHERE namespace = 'hub:ada/'": 0,
            "DELETE FROM jupyter_servers WHERE namespace = 'hub:ada/'": 0,
        }.items():
            assert connection.execute(theft).rowcount == rows, theft
        for refused in (
            "UPDATE jupyter_sessions SET namespace = 'hub:ada/'",
            "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'x', NULL, NULL, NULL, now(), 1, 90",
            "TRUNCATE jupyter_sessions",
            "ALTER TABLE jupyter_sessions DISABLE ROW LEVEL SECURITY",
            "DROP POLICY jupyter_session_store_wall ON jupyter_sessions",
            "INSERT INTO jupyter_session_store_wall VALUES ('bob', 'hub:ada/', 'prefix')",
            "UPDATE jupyter_session_store_meta SET value = '9'",
            "CREATE TABLE mine (x integer)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
        # The limit: one table for all can be locked by any of them.
        connection.autocommit = False
        connection.execute("LOCK TABLE jupyter_sessions IN ACCESS EXCLUSIVE MODE")
        assert with_a_gateway.api.get("/api/sessions").status_code == 503
        assert [model["id"] for model in ada.sessions()] == [session["id"]]
        connection.rollback()
    until(
        lambda: with_a_gateway.api.get("/api/sessions").status_code == 200, why="the lock is gone"
    )
    assert walled.rows(looked_at) == before


def test_changed_rows_mislead_no_user_of_a_living_server(
    walled: Database, serve: Callable[..., JupyterServer]
) -> None:
    ada = serve(as_role(walled, "ada"), "hub:ada/")
    shown = ada.create("a.ipynb"), ada.create("b.ipynb")
    stored = "SELECT path, session_id, kernel_id FROM jupyter_sessions ORDER BY path"
    before = walled.rows(stored)

    def are_as_before() -> bool:
        assert [(one["id"], one["path"]) for one in ada.sessions()] == [
            (one["id"], one["path"]) for one in shown
        ]
        return walled.rows(stored) == before

    for change in (
        "DELETE FROM jupyter_sessions WHERE path = 'a.ipynb'",
        "TRUNCATE jupyter_sessions, jupyter_servers",
        "UPDATE jupyter_sessions SET session_id = 'x' WHERE path = 'a.ipynb'",
        "INSERT INTO jupyter_sessions SELECT namespace, 'x', 'x.ipynb', NULL, NULL, NULL,"
        " kernel_id, NULL, NULL, authority, server_id, state, NULL, now(), now()"
        " FROM jupyter_sessions LIMIT 1",
        "UPDATE jupyter_sessions SET kernel_id = 'another', version = version + 1",
    ):
        with closing(walled.connect()) as connection:
            connection.autocommit = False
            connection.execute(change)
            assert connection.execute(stored).fetchall() != before, change
            connection.commit()
        until(are_as_before, why="the next renewal")

    # The version does not tell; a change of the session does.
    walled.execute("UPDATE jupyter_sessions SET kernel_id = 'another' WHERE path = 'a.ipynb'")
    assert ada.patch(shown[0]["id"], path="moved.ipynb").status_code == 200
    (_, *row), other = before
    until(lambda: walled.rows(stored) == [other, ("moved.ipynb", *row)], why="the next renewal")


def test_who_is_above_the_policies(walled: Database) -> None:
    walled.execute(
        "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'x', NULL, NULL, NULL, now(), 1, 90;"
        "CREATE ROLE owner LOGIN PASSWORD '...';"
        "GRANT ALL ON SCHEMA public TO owner;"
        "ALTER TABLE jupyter_servers OWNER TO owner"
    )
    owner = as_role(walled, "owner")
    count = "SELECT count(*) FROM jupyter_servers"
    assert owner.rows(count) == [(1,)]
    walled.execute("ALTER TABLE jupyter_servers FORCE ROW LEVEL SECURITY")
    assert owner.rows(count) == [(0,)]
    walled.execute("ALTER ROLE owner BYPASSRLS")
    assert owner.rows(count) == [(1,)]


def test_a_schema_for_each(
    named_database: Callable[[str], Database], server_of: Callable[[str], Server]
) -> None:
    named_database("postgresql")
    database = server_of("postgresql").create_database()
    (sql,) = (b.text for b in blocks(PAGE) if b.language == "sql" and "carol" in b.text)
    database.execute(sql)
    carol = as_role(database, "carol")
    engine = engines.create(carol.url)
    migrating.upgrade(engine)
    engine.dispose()
    tables = "SELECT schemaname FROM pg_tables WHERE tablename LIKE 'jupyter_se%'"
    assert set(database.rows(tables)) == {("carol",)}
    assert carol.rows("SELECT * FROM jupyter_sessions") == []


def execute_sql(database: Database, sql: str, *values: Any) -> None:
    with closing(database.connect()) as connection:
        connection.execute(sql, values)


def test_forged_rows_and_a_gateway_that_users_share(
    gateway: Gateway, tmp_path: Path, serve: Callable[..., JupyterServer]
) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path}/sessions.db")
    more = gateway.client_config + KERNEL_MANAGER
    ada, bob = (serve(database, f"hub:{name}/", more) for name in ("ada", "bob"))
    session = ada.create("a.ipynb")
    kernel = session["kernel"]["id"]
    ada.execute(kernel, "secret = 'of ada'")

    # Not by its id alone: the server attaches to what a session of its own namespace names.
    assert bob.api.get(f"/api/kernels/{kernel}").status_code == 404
    execute_sql(
        database,
        "INSERT INTO jupyter_sessions (namespace, session_id, path, path_digest, name, type,"
        " kernel_id, kernel_name, kernel_model, authority, server_id, state, claim, created_at,"
        " updated_at, version) SELECT 'hub:bob/', 'forged', 'x.ipynb', path_digest, name, type,"
        " kernel_id, kernel_name, kernel_model, authority, server_id, state, NULL, created_at,"
        " updated_at, version FROM jupyter_sessions",
    )
    assert bob.execute(kernel, "secret") == "'of ada'"

    # The other way round: what ada runs, a kernel of bob's gets.
    trap = bob.create("trap.ipynb")["kernel"]["id"]
    bob.execute(trap, "whose = 'of bob'")
    execute_sql(
        database, "UPDATE jupyter_sessions SET kernel_id = ? WHERE namespace = 'hub:ada/'", trap
    )
    (model,) = ada.sessions()
    assert (model["id"], model["kernel"]["id"]) == (session["id"], trap)
    assert ada.execute(trap, "whose") == "'of bob'"

    # And a row of a create that nobody wants any more has a server end a kernel.
    execute_sql(
        database,
        "UPDATE jupyter_sessions SET kernel_id = ?, path = NULL, path_digest = NULL, claim = NULL,"
        " state = 'starting', server_id = 'nobody' WHERE namespace = 'hub:ada/'",
        kernel,
    )
    execute_sql(database, "DELETE FROM jupyter_sessions WHERE session_id = 'forged'")
    execute_sql(
        database,
        "INSERT INTO jupyter_servers SELECT namespace, 'nobody', hostname, pid, version,"
        " started_at, 1, 1 FROM jupyter_servers WHERE namespace = 'hub:ada/'",
    )
    until(lambda: kernel not in gateway.kernels(), why="the server of ada ends it")


def test_forged_rows_and_kernels_beside_their_servers(
    tmp_path: Path, serve: Callable[..., JupyterServer]
) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path}/sessions.db")
    ada, bob = (serve(database, f"hub:{name}/") for name in ("ada", "bob"))
    session, trap = ada.create("a.ipynb"), bob.create("trap.ipynb")["kernel"]["id"]
    other = ada.create("other.ipynb")
    wanted = [(one["id"], one["kernel"]["id"]) for one in (session, other)]

    def shown(server: JupyterServer) -> list[tuple[str, str]]:
        return [(model["id"], model["kernel"]["id"]) for model in server.sessions()]

    def stored() -> list[tuple[Any, ...]]:
        return database.rows(
            "SELECT session_id, kernel_id FROM jupyter_sessions WHERE namespace = 'hub:ada/'"
            " ORDER BY created_at, session_id"
        )

    # Neither to another's kernel nor to another of the user's own.
    change = "UPDATE jupyter_sessions SET kernel_id = ? WHERE session_id = ?"
    for forged in (trap, other["kernel"]["id"]):
        with closing(database.connect()) as connection:
            assert connection.execute(change, (forged, session["id"])).rowcount == 1
        assert shown(ada) == wanted
    execute_sql(database, "DELETE FROM jupyter_sessions WHERE session_id = ?", session["id"])
    execute_sql(
        database,
        "UPDATE jupyter_sessions SET session_id = 'forged' WHERE session_id = ?",
        other["id"],
    )
    assert shown(ada) == wanted
    until(lambda: stored() == wanted, why="the next renewal puts it right")
    assert shown(ada) == wanted
    assert sorted(ada.kernels()) == sorted(kernel_id for _, kernel_id in wanted)
    assert bob.kernels() == [trap]
