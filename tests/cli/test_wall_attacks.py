"""Two hostile users behind the wall, each with a role and with SQL of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from jupyter_session_store.paths import path_digest
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema import tenants, wall
from jupyter_session_store.sql.schema.tenants import Grant

from ..databases import Database
from .support import fill, server, session
from .walls import Walled, answer, quoted, walled

pytestmark = pytest.mark.only("postgresql", reason="others have no policies for rows")

DENIED = "42501"
SECRET = "secret plan.ipynb"
#: A row of another's, as its owner has it.
THEIRS = session(
    "hub:ada/",
    0,
    path=SECRET,
    authority="server:of-ada",
    kernel_model='{"secret": "' + "x" * 20_000 + '"}',
)


class Tenants:
    """Two users of one database, and what is theirs."""

    def __init__(self, house: Walled) -> None:
        self.house = house
        self.names = {name: house.name(name) for name in ("ada", "bob")}
        self.ada, self.bob = (house.role(name) for name in self.names.values())
        fill(
            house.owner.url,
            [
                THEIRS,
                *(session("hub:ada/gpu", n) for n in range(1, 40)),
                session("hub:bob/", 1, path="own.ipynb"),
            ],
            [server("hub:ada/"), server("hub:ada/gpu"), server("hub:bob/")],
        )
        house.build()
        engine = engines.create(house.owner.url)
        with engine.connect() as connection:
            facts = wall.look(connection).facts
            for user, role in self.names.items():
                tenants.add(connection, facts, [Grant(role, f"hub:{user}/", True)])
                house.admin.execute(f"GRANT {house.group} TO {role}")
        engine.dispose()
        house.owner.execute("ANALYZE")

    def all_rows(self) -> list[Any]:
        """Return what is stored, as the owner sees it."""
        rows = []
        for table in ("jupyter_sessions", "jupyter_servers", "jupyter_session_store_wall"):
            rows += self.house.owner.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        return rows


@pytest.fixture
def house(database: Database) -> Iterator[Tenants]:
    with walled(database) as made:
        yield Tenants(made)


#: What finds nothing of another's, in words of one who knows all names and ids.
EMPTY = (
    "SELECT * FROM jupyter_sessions WHERE namespace = 'hub:ada/'",
    "SELECT * FROM ONLY jupyter_sessions WHERE namespace LIKE 'hub:ada%'",
    "SELECT * FROM jupyter_sessions WHERE session_id = 'session-000000'",
    "TABLE jupyter_servers EXCEPT SELECT * FROM jupyter_servers WHERE namespace = 'hub:bob/'",
    "SELECT * FROM jupyter_sessions WHERE namespace <> 'hub:bob/' OR true AND namespace > 'hub:a'"
    " AND namespace < 'hub:b'",
    "SELECT b.* FROM jupyter_sessions a RIGHT JOIN jupyter_sessions b ON true"
    " WHERE b.namespace = 'hub:ada/'",
    "SELECT * FROM jupyter_sessions WHERE namespace = 'hub:ada/' FOR UPDATE",
    "UPDATE jupyter_sessions SET path = 'x' WHERE namespace = 'hub:ada/' RETURNING *",
    "UPDATE jupyter_servers SET renewals = renewals + 1 WHERE namespace = 'hub:ada/' RETURNING *",
    "DELETE FROM jupyter_sessions WHERE namespace = 'hub:ada/' RETURNING *",
    "DELETE FROM jupyter_servers USING jupyter_sessions"
    " WHERE jupyter_servers.namespace = 'hub:ada/' RETURNING 1",
    "SELECT * FROM pg_stats WHERE tablename IN ('jupyter_sessions', 'jupyter_servers')",
    "SELECT query FROM pg_stat_activity WHERE usename <> current_user AND query ~ 'jupyter'",
    "WITH x AS (SELECT * FROM jupyter_sessions) SELECT * FROM x WHERE path LIKE 'secret%'",
    "SELECT * FROM jupyter_sessions TABLESAMPLE BERNOULLI (100) WHERE namespace = 'hub:ada/'",
    "SELECT * FROM jupyter_sessions WHERE ctid = '(0,1)' AND namespace = 'hub:ada/'",
    "SELECT * FROM jupyter_session_store_wall WHERE role <> session_user",
    "SELECT 1 WHERE jupyter_session_store_is_granted('hub:ada/')",
)
#: What is refused.
REFUSED = (
    "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'x', NULL, NULL, NULL, now(), 1, 90",
    # Of what is there, and of what is not: the same.
    "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'server-1', NULL, NULL, NULL, now(), 1, 90",
    "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'server-1', NULL, NULL, NULL, now(), 1, 90"
    " ON CONFLICT DO NOTHING",
    "INSERT INTO jupyter_servers SELECT 'hub:ada/', 'server-1', NULL, NULL, NULL, now(), 1, 90"
    " ON CONFLICT (namespace, server_id) DO UPDATE SET renewals = 0 RETURNING *",
    "UPDATE jupyter_sessions SET namespace = 'hub:ada/'",
    "UPDATE jupyter_sessions SET namespace = 'hub:ada/', session_id = 'session-000000'",
    "UPDATE jupyter_servers SET namespace = 'hub:ada/gpu' WHERE namespace = 'hub:bob/'",
    "TRUNCATE jupyter_sessions",
    "TRUNCATE jupyter_servers CASCADE",
    "ALTER TABLE jupyter_sessions DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE jupyter_sessions OWNER TO current_user",
    "DROP POLICY jupyter_session_store_wall ON jupyter_sessions",
    "ALTER POLICY jupyter_session_store_wall ON jupyter_sessions USING (true)",
    "CREATE POLICY mine ON jupyter_sessions USING (true)",
    "INSERT INTO jupyter_session_store_wall VALUES (current_user, 'hub:ada/', 'prefix')",
    "UPDATE jupyter_session_store_wall SET namespace = 'hub:'",
    "DELETE FROM jupyter_session_store_wall",
    "UPDATE jupyter_session_store_meta SET value = '9'",
    "DELETE FROM jupyter_session_store_version",
    "CREATE TABLE mine (x integer)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = pg_catalog.texteq)",
    "CREATE SCHEMA ada",
    "CREATE INDEX mine ON jupyter_sessions (path)",
    "CREATE STATISTICS mine ON path, name FROM jupyter_sessions",
    "CREATE TRIGGER mine BEFORE INSERT ON jupyter_sessions EXECUTE FUNCTION"
    " suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON INSERT TO jupyter_sessions DO ALSO NOTHING",
    "CREATE PUBLICATION mine FOR TABLE jupyter_sessions",
    "CREATE OR REPLACE FUNCTION jupyter_session_store_is_granted(wanted text) RETURNS boolean"
    " LANGUAGE sql AS 'SELECT true'",
    "ALTER FUNCTION jupyter_session_store_is_granted(text) SECURITY INVOKER",
    "COPY jupyter_sessions TO PROGRAM 'cat'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT * FROM pg_statistic",
    "SELECT rolpassword FROM pg_authid",
    "ALTER TABLE jupyter_sessions ALTER COLUMN path SET STATISTICS 100",
    "SET SESSION AUTHORIZATION DEFAULT; SET SESSION AUTHORIZATION {ada}",
    "SET ROLE {ada}",
    "SET ROLE {owner}",
    "GRANT {ada} TO {bob}",
    "SET row_security = off; SELECT * FROM jupyter_sessions",
)


def test_what_is_tried_on_another_finds_nothing(house: Tenants) -> None:
    before = house.all_rows()
    names = {**house.names, "owner": house.house.owner_role}
    for sql in EMPTY:
        assert answer(house.bob, sql) in ([], 0), sql
    for sql in REFUSED:
        found = answer(house.bob, re.sub(r"\{(ada|bob|owner)\}", lambda m: names[m[1]], sql))
        assert found == DENIED, (sql, found)
    assert house.all_rows() == before
    print(f"{len(EMPTY) + len(REFUSED)} inputs of a hostile user: 0 rows of another's")


def test_settings_and_disguises_change_nothing(house: Tenants) -> None:
    """What a client can set, and what it may become."""
    before = house.all_rows()
    namespaces = "SELECT DISTINCT namespace FROM jupyter_sessions"
    # Somebody has let one into the role of the other.
    house.house.admin.execute(f"GRANT {house.names['ada']} TO {house.names['bob']}")
    with closing(house.bob.connect()) as connection:
        for trick in (
            "SET row_security = off",
            f"SET ROLE {house.house.group}",
            f"SET ROLE {house.names['ada']}",
            "SET SESSION AUTHORIZATION DEFAULT",
            "SET search_path = pg_temp",
            "SET search_path = pg_temp, public, pg_catalog",
            "SET transaction_read_only = off",
            "SET default_transaction_isolation = 'serializable'",
            "SET session_replication_role = replica",
            "SET plan_cache_mode = force_generic_plan",
            "SET enable_seqscan = off",
            "SET enable_indexscan = off; SET enable_bitmapscan = off",
        ):
            try:
                connection.execute(trick)
                connection.execute(
                    "CREATE TEMP TABLE IF NOT EXISTS jupyter_session_store_wall AS"
                    " SELECT session_user::name AS role, 'hub:'::text AS namespace,"
                    " 'prefix'::text AS kind"
                )
                seen = connection.execute(f"SELECT * FROM ({namespaces}) n").fetchall()
            except psycopg.Error:
                seen = []
            assert seen in ([], [("hub:bob/",)]), trick
            connection.execute("RESET ROLE; RESET ALL")
    assert house.all_rows() == before


def test_functions_of_a_users_own_see_no_row_of_another(house: Tenants) -> None:
    """Nor does one that is cheap, and would be called first."""
    with closing(house.bob.connect()) as connection:
        seen: list[str] = []
        connection.add_notice_handler(lambda one: seen.append(str(one.message_primary)))
        connection.execute(
            "CREATE FUNCTION pg_temp.spy(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql"
            " AS $$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$"
        )
        for column in ("path", "namespace", "kernel_model"):
            connection.execute(f"SELECT 1 FROM jupyter_sessions WHERE pg_temp.spy({column})")
            connection.execute(
                f"UPDATE jupyter_sessions SET state = state WHERE pg_temp.spy({column})"
            )
        assert seen
        assert not [one for one in seen if "secret" in one or "ada" in one]
        # An error for the sake of a row of another's would tell of it, too.
        connection.execute(
            "SELECT 1 / (CASE WHEN path LIKE 'secret%' THEN 0 ELSE 1 END) FROM jupyter_sessions"
        )
        # Its own definer's rights are its own.
        connection.execute(
            "CREATE FUNCTION pg_temp.definer() RETURNS bigint SECURITY DEFINER LANGUAGE sql"
            " AS 'SELECT count(*) FROM jupyter_sessions'"
        )
        assert connection.execute("SELECT pg_temp.definer()").fetchone() == (1,)


COUNTED = "ANALYZE, TIMING off, SUMMARY off, BUFFERS, VERBOSE"


def planned(connection: Any, sql: str, options: str = COUNTED) -> str:
    """Return what EXPLAIN says, without the constants of the statement."""
    # Once before: the functions are compiled, and the catalogue is read, for the first.
    connection.execute(f"EXPLAIN ({options}) {sql}")
    rows = connection.execute(f"EXPLAIN ({options}) {sql}").fetchall()
    return re.sub(r"'[^']*'", "''", "\n".join(row[0] for row in rows))


GUESSES = (
    # What is there, and what is not.
    ("namespace = 'hub:ada/'", "namespace = 'hub:eve/'"),
    ("namespace LIKE 'hub:ada%'", "namespace LIKE 'hub:eve%'"),
    (f"path = '{SECRET}'", "path = 'no such plan.ipynb'"),
    (
        f"namespace = 'hub:ada/' AND path_digest = '{path_digest(SECRET)}'",
        f"namespace = 'hub:ada/' AND path_digest = '{path_digest('another')}'",
    ),
    (
        "namespace = 'hub:ada/' AND session_id = 'session-000000'",
        "namespace = 'hub:ada/' AND session_id = 'session-999999'",
    ),
    (
        "namespace >= 'hub:a' AND namespace < 'hub:b'",
        "namespace >= 'hub:e' AND namespace < 'hub:f'",
    ),
    ("path < 'secret z'", "path < 'a'"),
    ("authority = 'server:of-ada'", "authority = 'server:of-eve'"),
    ("ctid = '(0,1)' AND namespace = 'hub:ada/'", "ctid = '(0,1)' AND namespace = 'hub:eve/'"),
    (
        "(namespace = 'hub:ada/' OR namespace = 'hub:bob/')",
        "(namespace = 'hub:eve/' OR namespace = 'hub:bob/')",
    ),
    (
        f"claim IS NOT NULL AND path = '{SECRET}'",
        "claim IS NOT NULL AND path = 'no such plan.ipynb'",
    ),
)
SCANS = (
    "",
    "SET cpu_operator_cost = 0",
    "SET enable_indexscan = off; SET enable_bitmapscan = off; SET cpu_operator_cost = 100000",
    "SET enable_seqscan = off",
    "SET enable_seqscan = off; SET enable_indexscan = off",
    "SET enable_seqscan = off; SET enable_bitmapscan = off",
)


def test_explain_tells_nothing_of_another(house: Tenants) -> None:
    """Not by its estimates and, where an index is used, not by what it counts."""
    with closing(house.bob.connect()) as connection:
        for setting in SCANS:
            if setting:
                connection.execute(setting)
            for there, not_there in GUESSES:
                query = "SELECT * FROM jupyter_sessions WHERE {} AND namespace <> 'hub:bob/'"
                told = [planned(connection, query.format(one)) for one in (there, not_there)]
                assert told[0] == told[1], (setting, there)
            connection.execute("RESET ALL")


def test_a_policy_that_looks_at_each_row_would_tell(house: Tenants) -> None:
    """Why the wall is not made of one: what the test above compares would differ."""
    house.house.owner.execute(
        "ALTER POLICY jupyter_session_store_wall ON jupyter_sessions"
        " USING (jupyter_session_store_is_granted(namespace))"
    )
    there, not_there = GUESSES[3]
    with closing(house.bob.connect()) as connection:
        connection.execute("SET enable_seqscan = off")
        query = "SELECT * FROM jupyter_sessions WHERE {}"
        told = [planned(connection, query.format(one)) for one in (there, not_there)]
    assert "Rows Removed by Filter: 1" in told[0]
    assert told[0] != told[1]


def test_large_values_are_behind_it_too(house: Tenants) -> None:
    """They lie in a table of their own, on which nobody has rights."""
    [(toast,)] = house.house.owner.rows(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'jupyter_sessions'"
    )
    assert answer(house.bob, f"SELECT * FROM {toast}") == DENIED
    assert (
        len(
            answer(
                house.ada,
                "SELECT kernel_model FROM jupyter_sessions WHERE session_id = 'session-000000'",
            )[0][0]
        )
        > 20_000
    )


def test_everything_of_ones_own_goes_on(house: Tenants) -> None:
    """All that a server does, and as an owner of rows any SQL on them."""
    assert answer(house.ada, "SELECT count(*) FROM jupyter_sessions") == [(40,)]
    assert answer(house.bob, "SELECT path FROM jupyter_sessions") == [("own.ipynb",)]
    assert answer(house.bob, "UPDATE jupyter_sessions SET path = 'x' RETURNING path") == [("x",)]
    assert answer(house.bob, "UPDATE jupyter_servers SET namespace = 'hub:bob/new'") == 1
    assert answer(house.bob, "DELETE FROM jupyter_sessions") == 1
    assert answer(house.bob, "DELETE FROM jupyter_servers") == 1
    assert answer(house.ada, "DELETE FROM jupyter_sessions") == 40


def test_a_direct_grant_is_no_way_in(house: Tenants) -> None:
    """A role that all servers shared before the wall, and one that somebody gives all rights."""
    shared = house.house.role(house.house.name("shared"))
    role = quoted(house.house.name("shared"))
    house.house.owner.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON jupyter_sessions, jupyter_servers TO {role};"
        f"CREATE POLICY open ON jupyter_sessions TO {role} USING (true);"
        f"CREATE POLICY wide ON jupyter_sessions TO {house.names['bob']} USING (true)"
    )
    assert answer(shared, "SELECT * FROM jupyter_sessions") == []
    assert answer(shared, "DELETE FROM jupyter_servers") == 0
    assert answer(shared, REFUSED[0]) == DENIED
    assert answer(house.bob, "SELECT DISTINCT namespace FROM jupyter_sessions") == [("hub:bob/",)]
