"""``wall``: what it makes, grants and finds, and what it refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_session_store.config.namespaces import hub_namespace
from jupyter_session_store.sql.doctor import Finding, Verdict, examine_wall
from jupyter_session_store.sql.schema.versions import HEAD, VERSION_TABLE
from jupyter_session_store.sql.tables import META

from ..databases import Database
from ..migrations.support import engine_of
from .conftest import Run
from .doctor_support import look
from .support import fill, on_terminal, server, session, shows_password
from .walls import PASSWORD, Walled, answer, quoted, walled

pytestmark = pytest.mark.only("postgresql", reason="others have no policies for rows")

DENIED = "42501"
SEEN = "SELECT DISTINCT namespace FROM jupyter_sessions ORDER BY 1"


@pytest.fixture
def house(database: Database) -> Iterator[Walled]:
    with walled(database) as made:
        yield made


def put(house: Walled, *namespaces: str) -> None:
    """Put a session and a server into each namespace."""
    fill(
        house.owner.url,
        [session(name, number) for number, name in enumerate(namespaces)],
        [server(name) for name in namespaces],
    )


def findings(run: Run, house: Walled) -> tuple[int, dict[str, Any]]:
    done = run("wall", "check", "--json", url=house.owner.url)
    assert done.stderr == ""
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


def unwell(found: dict[str, Any]) -> dict[str, str]:
    return {name: one["verdict"] for name, one in found.items() if one["verdict"] != "ok"}


def test_it_is_made_once_and_only_if_that_is_confirmed(house: Walled, run: Run) -> None:
    url = house.owner.url
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/")
    shown = run("wall", "--group", house.group, url=url)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("-- The wall between users of postgresql ")
    assert answer(of_ada, SEEN) == DENIED
    dry = run("wall", "--apply", "--dry-run", "--group", house.group, url=url)
    assert dry.returncode == 0
    assert "Would run " in dry.stdout
    asked = run("wall", "--apply", "--group", house.group, url=url)
    assert asked.returncode == 2
    assert "expected --yes. Nothing was changed." in asked.stderr
    assert f"in postgresql {house.owner_role}@" in asked.stderr
    code, found = findings(run, house)
    assert (code, unwell(found)) == (1, {"wall": "failed"})
    refused = run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url)
    assert refused.returncode == 4
    assert "There is no wall between users" in refused.stderr

    made = run("wall", "--apply", "--yes", "--group", house.group, url=url)
    assert made.returncode == 0, made.stderr
    assert "stands. Only a role that has been granted a namespace" in made.stdout
    again = run("wall", "--apply", url=url)
    assert (again.returncode, again.stderr) == (0, "")
    assert "stands: nothing to do." in again.stdout
    for done in (shown, dry, asked, refused, made, again):
        assert not shows_password(house.owner, done.stdout, done.stderr)


def test_two_users(house: Walled, run: Run) -> None:
    house.build()
    url = house.owner.url
    ada, bob = house.name("ada"), house.name("bob")
    of_ada, of_bob = house.role(ada), house.role(bob)
    put(house, "hub:ada/", "hub:ada/gpu", "hub:bob/")
    granted = run("wall", "grant", "--user", "ada", "--role", ada, "--yes", "--json", url=url)
    assert granted.returncode == 0, granted.stderr
    assert json.loads(granted.stdout)["namespaces"] == [
        {"namespace": "hub:ada/", "is_prefix": True}
    ]
    assert run("wall", "grant", "hub:bob/", "--role", bob, "--yes", url=url).returncode == 0
    again = run("wall", "grant", "hub:bob/", "--role", bob, url=url)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do" in again.stdout
    assert answer(of_ada, SEEN) == [("hub:ada/",), ("hub:ada/gpu",)]
    assert answer(of_bob, SEEN) == [("hub:bob/",)]
    assert len(answer(house.owner, SEEN)) == 3
    code, found = findings(run, house)
    assert (code, unwell(found)) == (0, {})
    assert found["grants"]["text"] == "Roles: 2. Grants: 2."
    # A named server of which there is nothing yet.
    new = (
        "INSERT INTO jupyter_servers SELECT %s, 'x', NULL, NULL, NULL, now(), 1, 90",
        "SELECT namespace FROM jupyter_servers WHERE server_id = 'x'",
    )
    assert answer(of_ada, new[0], "hub:ada/new") == 1
    assert answer(of_ada, new[1]) == [("hub:ada/new",)]
    for other in ("hub:adam/", "hub:bob/", "hub:ada", "hub:ad"):
        assert answer(of_ada, new[0], other) == DENIED
    assert answer(of_bob, new[0], "hub:bob/gpu") == DENIED

    gone = run("wall", "revoke", "--role", bob, "--yes", url=url)
    assert gone.returncode == 0, gone.stderr
    assert answer(of_bob, SEEN) == DENIED
    assert run("wall", "revoke", "--role", bob, url=url).returncode == 0
    assert len(answer(house.owner, SEEN)) == 3
    code, found = findings(run, house)
    assert (code, unwell(found)) == (0, {"grants": "warning"})
    assert "'hub:bob/'" in found["grants"]["text"]
    for done in (granted, again, gone):
        assert not shows_password(house.owner, done.stdout, done.stderr)


def test_the_sql_that_is_shown_makes_it(house: Walled, run: Run) -> None:
    """Run by a superuser for an owner who may not make roles; and once more."""
    house.admin.execute(f"ALTER ROLE {quoted(house.owner_role)} NOCREATEROLE")
    refused = run("wall", "--apply", "--yes", "--group", house.group, url=house.owner.url)
    assert refused.returncode == 2
    assert f"CREATE ROLE {house.group} NOLOGIN; GRANT {house.group} TO" in refused.stderr
    for url in (house.owner.url, house.admin.url):
        shown = run("wall", "--group", house.group, url=url)
        house.admin.execute(shown.stdout)
        code, found = findings(run, house)
        assert (code, unwell(found)) == (0, {})
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/", "hub:bob/")
    # The owner lets roles into the group.
    done = run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert answer(of_ada, SEEN) == [("hub:ada/",)]


def test_a_superuser_makes_it_for_the_owner(house: Walled, run: Run) -> None:
    done = run("wall", "--apply", "--yes", "--group", house.group, url=house.admin.url)
    assert done.returncode == 0, done.stderr
    assert unwell(findings(run, house)[1]) == {}
    ada = house.name("ada")
    house.role(ada)
    house.admin.execute(f"ALTER ROLE {quoted(house.owner_role)} NOCREATEROLE")
    done = run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr


def test_where_everybody_may_create_things(house: Walled, run: Run) -> None:
    """As in PostgreSQL 14, where an owner who is no superuser cannot change that."""
    house.admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    words = ("wall", "--apply", "--yes", "--group", house.group)
    done = run(*words, url=house.owner.url)
    assert done.returncode == 2
    cure = "REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
    assert done.stderr.rstrip().endswith(f"and then this command again: {cure}")
    house.admin.execute(cure)
    assert run(*words, url=house.owner.url).returncode == 0
    house.admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    ada = house.name("ada")
    house.role(ada)
    done = run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=house.owner.url)
    assert done.returncode == 4
    assert "everybody may create objects in the schema public" in done.stderr
    assert run(*words, url=house.admin.url).returncode == 0
    assert unwell(findings(run, house)[1]) == {}


def test_another_role_makes_nothing(house: Walled, run: Run) -> None:
    ada = house.role(house.name("ada"))
    rights = "SELECT ON jupyter_session_store_version, jupyter_session_store_meta"
    house.owner.execute(f"GRANT {rights} TO {quoted(house.name('ada'))}")
    done = run("wall", "--apply", "--yes", "--group", house.group, url=ada.url)
    assert done.returncode == 2
    assert f"does not own the tables in postgresql {house.name('ada')}@" in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize(
    "name", ['quote"s', "with 'apostrophe", "per%cent:colon", "Groß ✓", "x; --"]
)
def test_names_that_have_to_be_quoted(house: Walled, run: Run, name: str) -> None:
    house.build()
    role = f"{name}{house.name('')}"
    user = house.role(role)
    namespace = hub_namespace(name, "100%_'\"")
    put(house, namespace, "hub:bob/")
    url = house.owner.url
    done = run("wall", "grant", namespace, "--role", role, "--yes", url=url)
    assert done.returncode == 0, done.stderr
    assert answer(user, SEEN) == [(namespace,)]
    assert unwell(findings(run, house)[1]) == {"grants": "warning"}
    assert look(user.url)["wall"].text == f"It stands. Namespaces of {quoted(role)}: 1."
    unknown = run("wall", "grant", namespace, "--role", f"{role}?", "--yes", url=url)
    assert f"CREATE ROLE {quoted(role + '?')} LOGIN PASSWORD '...';" in unknown.stderr
    done = run("wall", "revoke", namespace, "--role", role, "--yes", url=url)
    assert done.returncode == 0, done.stderr
    assert answer(user, SEEN) == DENIED


def test_the_longest_name_and_a_digest(house: Walled, run: Run) -> None:
    house.build()
    longest = house.name("") + "r" * (63 - len(house.name("")))
    user = house.role(longest)
    namespace = hub_namespace("u" * 300)
    assert namespace.startswith("hub-sha256:")
    put(house, namespace, hub_namespace("v" * 300))
    url = house.owner.url
    done = run("wall", "grant", "--user", "u" * 300, "--role", longest, "--yes", url=url)
    assert done.returncode == 0, done.stderr
    assert "this is for the default server alone" in done.stderr
    assert answer(user, SEEN) == [(namespace,)]
    # PostgreSQL would cut it to the other's name.
    too_long = run("wall", "grant", "hub:eve/", "--role", f"{longest}e", "--yes", url=url)
    assert too_long.returncode == 2
    assert "has 64 bytes; expected at most 63" in too_long.stderr
    assert len(answer(house.owner, "SELECT * FROM jupyter_session_store_wall")) == 1


def test_bad_input(house: Walled, run: Run) -> None:
    house.build()
    url = house.owner.url
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/", "hub:bob/")
    mistakes = {
        ("wall", "build"): "Found 'build'; expected one of grant, revoke, check",
        ("wall", "grant", "hub:ada/"): "was given no role; expected --role ROLE",
        ("wall", "grant", "--role", ada): "no namespace; expected NAMESPACE or --user USER",
        ("wall", "grant", "hub:ada/", "--user", "ada", "--role", ada): "'hub:ada/' and --user",
        ("wall", "grant", " hub:ada/", "--role", ada): "it has white space at its edges",
        ("wall", "check", "hub:ada/"): "Found 'hub:ada/' after check; expected nothing",
        ("wall", "check", "--role", ada): "Found --role with wall check, which has no such",
        ("wall", "grant", "hub:ada/", "--role", ada, "--apply"): "Found --apply with wall grant",
        ("wall", "--role", ada): "Found --role with wall without an action",
        ("wall", "--apply", "--group", "others"): f"for the members of {house.group!r}",
    }
    for words, said in mistakes.items():
        done = run(*words, url=url)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert said in done.stderr, words
        assert done.stderr.count("\n") == 1, words
    # No role of that name.
    nobody = run("wall", "grant", "hub:ada/", "--role", "no one", "--yes", url=url)
    assert nobody.returncode == 1
    assert "There is no role 'no one' in postgresql " in nobody.stderr
    assert "CREATE ROLE \"no one\" LOGIN PASSWORD '...';" in nobody.stderr
    # A wildcard lets nobody in.
    for pattern in ("*", "hub:%", "hub:?da/"):
        done = run("wall", "grant", pattern, "--role", ada, "--yes", url=url)
        assert done.returncode == 0
        assert f"The namespace {pattern!r} is taken as it is written" in done.stderr
    assert answer(of_ada, SEEN) == []
    assert answer(house.owner, "SELECT count(*) FROM jupyter_sessions") == [(2,)]


def test_roles_that_go_round_it_are_not_let_in(house: Walled, run: Run) -> None:
    house.build()
    url = house.owner.url
    refused = {
        house.owner_role: "it owns the tables",
        house.name("super"): "it is a superuser",
        house.name("bypass"): "it has BYPASSRLS",
        house.name("replica"): "it has REPLICATION",
        house.name("creator"): "it has CREATEROLE",
        house.name("deputy"): f"it is a member of {house.owner_role}, which owns the tables",
        house.name("files"): "which reads the files of the database server",
        house.name("writer"): "which writes all tables, that of the revision too",
    }
    house.role(house.name("super"), "SUPERUSER")
    house.role(house.name("bypass"), "BYPASSRLS")
    house.role(house.name("replica"), "REPLICATION")
    house.role(house.name("creator"), "CREATEROLE")
    house.role(house.name("deputy"), f"IN ROLE {quoted(house.owner_role)}")
    house.role(house.name("files"), "IN ROLE pg_read_server_files")
    house.role(house.name("writer"), "IN ROLE pg_write_all_data")
    for role, why in refused.items():
        done = run("wall", "grant", "hub:x/", "--role", role, "--yes", url=url)
        assert done.returncode == 2, role
        assert why in done.stderr, role
    assert answer(house.owner, "SELECT * FROM jupyter_session_store_wall") == []
    # Neither is one that would have no rights.
    house.role(house.name("bare"), "NOINHERIT")
    done = run("wall", "grant", "hub:x/", "--role", house.name("bare"), "--yes", url=url)
    assert done.returncode == 2
    assert "inherits nothing from the group" in done.stderr
    assert answer(house.owner, "SELECT * FROM jupyter_session_store_wall") == []


def test_what_check_finds_and_mends(house: Walled, run: Run) -> None:
    house.build()
    url = house.owner.url
    ada, bob = house.name("ada"), house.name("bob")
    for name in (ada, bob):
        house.role(name)
        assert (
            run("wall", "grant", "--user", name, "--role", name, "--yes", url=url).returncode == 0
        )
    code, found = findings(run, house)
    assert (code, unwell(found)) == (0, {})
    faults = {
        "ALTER TABLE jupyter_sessions DISABLE ROW LEVEL SECURITY": "wall",
        "ALTER TABLE jupyter_servers FORCE ROW LEVEL SECURITY": "wall",
        "DROP POLICY jupyter_session_store_wall ON jupyter_servers": "wall",
        "ALTER POLICY jupyter_session_store_wall ON jupyter_sessions USING (true)": "wall",
        "ALTER POLICY jupyter_session_store_wall ON jupyter_sessions WITH CHECK (true)": "wall",
        f"ALTER POLICY jupyter_session_store_wall ON jupyter_sessions TO {house.group}": "wall",
        "CREATE OR REPLACE FUNCTION jupyter_session_store_is_granted(wanted text) RETURNS boolean"
        " LANGUAGE plpgsql AS 'BEGIN RETURN true; END'": "wall",
        f"REVOKE UPDATE ON jupyter_sessions FROM {house.group}": "wall",
        "ALTER TABLE jupyter_sessions ALTER COLUMN path SET STATISTICS 100": "wall",
        f"GRANT TRUNCATE, REFERENCES, TRIGGER ON jupyter_sessions TO {ada}": "rights",
        f"GRANT REFERENCES (session_id) ON jupyter_sessions TO {ada}": "rights",
        "GRANT INSERT ON jupyter_session_store_wall TO PUBLIC": "rights",
        "CREATE POLICY mine ON jupyter_session_store_wall USING (true)": "wall",
        "GRANT UPDATE ON jupyter_session_store_meta TO PUBLIC": "rights",
        "GRANT CREATE ON SCHEMA public TO PUBLIC": "schemas",
        f"GRANT CREATE ON SCHEMA public TO {bob}": "schemas",
        f"GRANT CREATE ON DATABASE {house.admin.url.rpartition('/')[2]} TO {bob}": "schemas",
        "CREATE VIEW open AS SELECT * FROM jupyter_sessions;"
        "GRANT SELECT ON open TO PUBLIC": "views",
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER spy BEFORE INSERT ON jupyter_sessions FOR EACH ROW EXECUTE FUNCTION t()": (
            "views"
        ),
        f"ALTER ROLE {ada} BYPASSRLS": "roles",
        f"ALTER ROLE {ada} SUPERUSER": "roles",
        f"GRANT {house.owner_role} TO {ada}": "roles",
        f"SET ROLE {house.owner_role}; REVOKE {house.group} FROM {ada}": "grants",
        "INSERT INTO jupyter_session_store_wall"
        " VALUES ('nobody there', 'hub:x/', 'namespace')": "grants",
    }
    for fault, name in faults.items():
        house.admin.execute(fault)
        wrong = wrongs(house)
        assert name in wrong, fault
        assert wrong[name].cure, fault
        for cure in wrong[name].cure:
            if cure.startswith("jupyter session-store "):
                done = run(*shlex.split(cure)[2:], "--yes", url=house.owner.url)
                assert done.returncode == 0, (fault, cure, done.stderr)
            else:
                house.admin.execute(cure)
        assert wrongs(house) == {}, fault


def wrongs(house: Walled) -> dict[str, Finding]:
    """Return what is not well, without a process of its own."""
    with engine_of(house.owner.url) as engine:
        return {one.name: one for one in examine_wall(engine) if one.verdict is not Verdict.OK}


def test_a_table_of_another_is_not_believed(house: Walled, run: Run) -> None:
    """Where anybody may create tables, as in PostgreSQL 14, one may lie there already."""
    eve = house.role(house.name("eve"))
    house.admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    eve.execute(
        "CREATE TABLE jupyter_session_store_wall (role name, namespace text, kind text);"
        f"INSERT INTO jupyter_session_store_wall VALUES ('{house.name('eve')}', 'hub:', 'prefix')"
    )
    for url in (house.owner.url, house.admin.url):
        done = run("wall", "--apply", "--yes", "--group", house.group, url=url)
        assert done.returncode == 4
        assert (
            f"is not {house.owner_role}'s, as the others are, and may say anything" in done.stderr
        )


def test_what_doctor_says(house: Walled, run: Run) -> None:
    assert look(house.owner.url)["wall"].verdict.value == "ok"
    house.build()
    found = look(house.owner.url)["wall"]
    assert found.verdict.value == "warning"
    assert f"{house.owner_role} goes round it: it owns the tables" in found.text
    found = look(house.admin.url)["wall"]
    assert "goes round it: it is a superuser" in found.text
    ada = house.name("ada")
    of_ada = house.role(ada)
    house.admin.execute(f"GRANT {house.group} TO {ada}")
    found = look(of_ada.url)["wall"]
    assert found.verdict.value == "failed"
    assert found.cure == (f"jupyter session-store wall grant NAMESPACE --role {ada}",)
    done = run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    all_found = look(of_ada.url)
    assert all_found["wall"].text == f"It stands. Namespaces of {ada}: 1."
    assert {one.verdict.value for one in all_found.values()} == {"ok"}
    assert all_found["revision"].text.startswith(HEAD)
    house.owner.execute("ALTER TABLE jupyter_servers DISABLE ROW LEVEL SECURITY")
    found = look(of_ada.url)["wall"]
    assert found.verdict.value == "failed"
    assert "row-level security is off for jupyter_servers" in found.text


def test_a_role_that_may_not_read_the_policies(house: Walled, run: Run) -> None:
    house.build()
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/")
    url = house.owner.url
    assert run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url).returncode == 0
    functions = (
        "jupyter_session_store_is_among(text,text[])",
        "jupyter_session_store_is_granted(text)",
    )
    for function in functions:
        house.owner.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    house.owner.execute("REVOKE SELECT ON jupyter_session_store_wall FROM PUBLIC")
    assert answer(of_ada, SEEN) == DENIED
    found = look(of_ada.url)["rights"]
    assert found.verdict.value == "failed"
    assert found.cure == (
        *(f"GRANT EXECUTE ON FUNCTION {function} TO {ada};" for function in functions),
        f"GRANT SELECT ON jupyter_session_store_wall TO {ada};",
    )
    listed = run("list", url=of_ada.url)
    assert listed.returncode == 2
    assert f"GRANT EXECUTE ON FUNCTION {functions[0]} TO {ada};" in listed.stderr
    for cure in found.cure:
        house.owner.execute(cure)
    assert answer(of_ada, SEEN) == [("hub:ada/",)]


def test_a_role_that_may_not_look_is_told_what_it_takes(house: Walled, run: Run) -> None:
    house.build()
    eve = house.name("eve")
    url = house.role(eve, "BYPASSRLS").url
    for table in (META.name, VERSION_TABLE):
        house.owner.execute(f"GRANT SELECT ON {table} TO {eve}")
    done = run("wall", "check", "--json", url=url)
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["grants"]["verdict"] == "unknown"
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON jupyter_servers TO {eve};" in str(
        found["grants"]["cure"]
    )


def test_it_asks_on_a_terminal(house: Walled, home: Any) -> None:
    code, shown = on_terminal("wall", "check", home=home, url=house.owner.url)
    assert code == 1
    assert "wall: jupyter session-store wall --apply" in shown


def test_what_was_known_of_the_rows_is_forgotten(house: Walled) -> None:
    put(house, "hub:ada/", "hub:bob/")
    house.owner.execute("ANALYZE")
    kept = "SELECT count(*) FROM pg_stats WHERE tablename LIKE 'jupyter_se%rs'"
    assert answer(house.owner, kept) != [(0,)]
    files = (
        "SELECT relname, relfilenode FROM pg_class WHERE relname ~ '_jupyter_s|^jupyter_s'"
        " ORDER BY 1"
    )
    before = answer(house.owner, files)
    columns = (
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attcollation"
        " FROM pg_attribute WHERE attrelid IN ('jupyter_sessions'::regclass,"
        " 'jupyter_servers'::regclass) AND attnum > 0 ORDER BY 1, attnum"
    )
    were = answer(house.owner, columns)
    house.build()
    house.owner.execute("ANALYZE jupyter_sessions, jupyter_servers")
    assert answer(house.owner, kept) == [(0,)]
    # Nothing was rewritten, and nothing else was changed.
    after = answer(house.owner, files)
    assert [row for row in after if "wall" not in row[0]] == before
    assert answer(house.owner, columns) == were


@pytest.mark.parametrize("schema", ["sessions", 'My "Schema" 100%'])
def test_another_schema(database: Database, run: Run, schema: str) -> None:
    with walled(database) as house:
        house.owner.execute(
            "DROP TABLE jupyter_sessions, jupyter_servers,"
            " jupyter_session_store_meta, jupyter_session_store_version"
        )
        ada = house.name("ada")
        of_ada = house.role(ada)
        owner = quoted(house.owner_role)
        house.admin.execute(f"CREATE SCHEMA {quoted(schema)} AUTHORIZATION {owner}")
        for role in (owner, quoted(ada)):
            house.admin.execute(f"ALTER ROLE {role} SET search_path = {quoted(schema)}")
        put(house, "hub:ada/", "hub:bob/")
        house.build()
        url = house.owner.url
        done = run("wall", "grant", "--user", "ada", "--role", ada, "--yes", url=url)
        assert done.returncode == 0, done.stderr
        assert answer(of_ada, SEEN) == [("hub:ada/",)]
        assert unwell(findings(run, house)[1]) == {"grants": "warning"}
        house.admin.execute(f"DROP SCHEMA {quoted(schema)} CASCADE")
