"""What a user may have prepared, or holds open, while an operator works on the wall."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.records import Scope
from jupyter_session_store.testing import SCOPE, record
from jupyter_session_store.testing import run as run_verb

from ..databases import Database
from ..migrations.support import opened
from ..system.waiting import until
from .conftest import Run
from .doctor_support import look
from .support import fill, running, server, session
from .test_wall import DENIED, SEEN, findings, put, unwell, wrongs
from .timing import Pause
from .walls import Walled, answer, quoted, walled

pytestmark = pytest.mark.only("postgresql", reason="others have no policies for rows")

#: What a statement of a server would run in the place of PostgreSQL's own, and what removes it.
TRAPS = {
    "CREATE FUNCTION public.trap(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS"
    " 'BEGIN RAISE NOTICE $$caught %$$, session_user; RETURN true; END';"
    "CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.trap)": (
        "DROP OPERATOR public.=(character varying,character varying);"
    ),
    "CREATE FUNCTION public.starts_with(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS"
    " 'BEGIN RETURN true; END'": "DROP FUNCTION public.starts_with(character varying,",
    "CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE plpgsql AS"
    " 'BEGIN RETURN $1; END'": "DROP FUNCTION public.quote_ident(",
}


@pytest.fixture
def house(database: Database) -> Iterator[Walled]:
    with walled(database) as made:
        yield made


@pytest.mark.parametrize("trap", TRAPS, ids=["an operator", "a function", "another function"])
@pytest.mark.parametrize("when", ["before the wall", "behind it"])
def test_what_others_have_made_is_found_and_not_run(
    house: Walled, run: Run, trap: str, when: str
) -> None:
    """As anybody could in PostgreSQL 14; to take that right away leaves what was made."""
    url = house.owner.url
    eve = house.role(house.name("eve"))
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/", "hub:bob/")
    words = ("wall", "--apply", "--yes", "--group", house.group)
    if when == "behind it":
        assert run(*words, url=url).returncode == 0
        assert run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url).returncode == 0
    house.admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    eve.execute(trap)
    house.admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for refused in (
        run(*words, url=url),
        run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url),
        run("wall", "--group", house.group, url=url),
    ):
        assert refused.returncode == 4
        assert f"is {house.name('eve')}'s" in refused.stderr
        assert TRAPS[trap] in refused.stderr
        assert "Nothing was changed." in refused.stderr
    code, found = findings(run, house)
    assert (code, [*found], unwell(found)) == (1, ["wall"], {"wall": "failed"})
    if when == "behind it":
        assert look(of_ada.url)["wall"].verdict.value == "failed"
    for cure in wrongs(house)["wall"].cure:
        house.admin.execute(cure)
    assert run(*words, url=url).returncode == 0
    assert run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url).returncode == 0
    assert answer(of_ada, SEEN) == [("hub:ada/",)]
    assert unwell(findings(run, house)[1]) == {"grants": "warning"}


def test_why_that_is_looked_for(house: Walled) -> None:
    """A server's comparison runs what another has made, with that server's rights."""
    eve = house.role(house.name("eve"))
    put(house, "hub:ada/")
    house.admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    eve.execute(next(iter(TRAPS)))
    caught = []
    with closing(house.owner.connect()) as connection:
        connection.add_notice_handler(lambda one: caught.append(one.message_primary))
        connection.execute("SELECT FROM jupyter_sessions WHERE namespace = 'hub:eve/'")
    assert caught == [f"caught {house.owner_role}"]


def test_functions_of_other_programs_are_left_alone(house: Walled, run: Run) -> None:
    """What has a name of its own, nobody calls by mistake."""
    other = house.role(house.name("other"))
    house.admin.execute(f"GRANT CREATE ON SCHEMA public TO {quoted(house.name('other'))}")
    other.execute(
        "CREATE FUNCTION public.invoice(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "CREATE TABLE public.invoices (number integer)"
    )
    house.build()
    assert unwell(findings(run, house)[1]) == {}


def test_a_schema_of_another_users_name(house: Walled, run: Run) -> None:
    """A role looks there first: what its owner makes there is found in the place of ours."""
    house.build()
    ada, eve = house.name("ada"), house.name("eve")
    for role in (ada, eve):
        house.role(role)
        words = ("wall", "grant", f"hub:{role}/", "--role", role, "--yes")
        assert run(*words, url=house.owner.url).returncode == 0
    house.admin.execute(f"CREATE SCHEMA {ada} AUTHORIZATION {eve}")
    found = wrongs(house)["schemas"]
    assert f"{eve} may create in the schema {ada}" in found.text
    house.admin.execute(f"CREATE TABLE {ada}.jupyter_sessions (namespace text)")
    house.admin.execute(f"ALTER TABLE {ada}.jupyter_sessions OWNER TO {eve}")
    found = wrongs(house)["wall"]
    assert f"the table {ada}.jupyter_sessions is {eve}'s" in found.text
    for name in ("wall", "schemas"):
        for cure in wrongs(house)[name].cure:
            house.admin.execute(cure)
    assert wrongs(house) == {}


def test_a_transaction_that_outlasts_a_revocation(house: Walled, run: Run, home: Path) -> None:
    """What it has entered is seen by others when it has ended: the revocation waits for it."""
    house.build()
    ada = house.name("ada")
    of_ada = house.role(ada)
    url = house.owner.url
    for what in (("--user", "ada"), ("hub:shared/",)):
        assert run("wall", "grant", *what, "--role", ada, "--yes", url=url).returncode == 0
    words = ("wall", "revoke", "--user", "ada", "--role", ada, "--yes")
    entered = "INSERT INTO jupyter_servers SELECT %s, 'x', NULL, NULL, NULL, now(), 1, 90"
    with closing(of_ada.connect()) as connection:
        connection.execute("BEGIN")
        connection.execute(entered, ("hub:ada/late",))
        refused = run(*words, url=url)
        assert refused.returncode == 3
        assert f"the role {ada!r} has had a transaction open" in refused.stderr
        assert "Nothing was changed." in refused.stderr
        with running(*words, home=home, url=url) as process:
            until(lambda: answer(house.admin, WAITING) != [], why="it waits for the transaction")
            connection.execute("COMMIT")
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(entered, ("hub:ada/later",))
    assert answer(of_ada, "SELECT * FROM jupyter_servers") == []
    kept = "SELECT namespace, kind FROM jupyter_session_store_wall"
    assert answer(house.owner, kept) == [("hub:shared/", "namespace")]
    # What it says to run ends such a transaction.
    again = run("wall", "grant", "--user", "ada", "--role", ada, "--yes", url=url)
    assert again.returncode == 0
    with closing(of_ada.connect()) as connection:
        connection.execute("BEGIN")
        connection.execute(entered, ("hub:ada/last",))
        house.admin.execute(refused.stderr.rpartition("run this again: ")[2])
        assert run(*words, url=url).returncode == 0
    assert answer(house.owner, kept) == [("hub:shared/", "namespace")]


WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.mark.parametrize("statement", ["ALTER TABLE", "CREATE POLICY", "GRANT SELECT"])
def test_an_operator_who_is_killed_half_way(
    house: Walled, run: Run, home: Path, statement: str
) -> None:
    """It is there as a whole, or not at all, and nobody is locked out."""
    put(house, "hub:ada/", "hub:bob/")
    ada = house.name("ada")
    of_ada = house.role(ada)
    house.admin.execute(f"GRANT SELECT ON jupyter_sessions TO {quoted(ada)}")
    before = answer(house.owner, SEEN)
    url = house.owner.url
    pause = Pause(home, 2, statement)
    words = ("wall", "--apply", "--yes", "--group", house.group)
    with running(*words, home=home, url=url) as process:
        pause.reached_by(process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    until(lambda: answer(house.owner, SEEN) == before, why="its transaction has ended")
    assert answer(house.owner, "SELECT to_regclass('jupyter_session_store_wall')") == [(None,)]
    assert answer(of_ada, SEEN) == before
    house.build()
    assert answer(of_ada, SEEN) == []
    assert "wall" not in wrongs(house)


def test_who_is_behind_the_wall_is_told_so(house: Walled, run: Run) -> None:
    """What it cannot see would seem to be well, and there to be nothing to do."""
    house.build()
    url = house.owner.url
    ada, bob = house.name("ada"), house.name("bob")
    of_ada = house.role(ada)
    house.role(bob)
    put(house, "hub:ada/", "hub:bob/")
    for role, name in ((ada, "ada"), (bob, "bob")):
        assert (
            run("wall", "grant", "--user", name, "--role", role, "--yes", url=url).returncode == 0
        )
    before = answer(house.owner, "SELECT * FROM jupyter_session_store_wall ORDER BY 1, 2, 3")
    for words in (
        ("check",),
        ("grant", "hub:bob/", "--role", ada, "--yes"),
        ("revoke", "--role", bob, "--yes"),
        ("revoke", "--role", ada, "--yes"),
    ):
        done = run("wall", *words, url=of_ada.url)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert f"The role {ada} is behind the wall in postgresql " in done.stderr
    applied = run("wall", "--apply", "--yes", url=of_ada.url)
    assert applied.returncode == 0
    assert "stands: nothing to do." in applied.stdout
    after = answer(house.owner, "SELECT * FROM jupyter_session_store_wall ORDER BY 1, 2, 3")
    assert after == before
    assert answer(of_ada, SEEN) == [("hub:ada/",)]


def test_a_role_for_which_nobody_logs_in(house: Walled, run: Run) -> None:
    """The wall goes by the role that has logged in: a team's grant would let nobody in."""
    house.build()
    team = house.name("team")
    house.role(team)
    house.admin.execute(f"ALTER ROLE {quoted(team)} NOLOGIN")
    done = run("wall", "grant", "hub:x/", "--role", team, "--yes", url=house.owner.url)
    assert done.returncode == 2
    assert f"The role {team!r} may not log in, and the wall goes by the role" in done.stderr
    assert answer(house.owner, "SELECT * FROM jupyter_session_store_wall") == []


def test_a_revocation_of_what_was_granted_in_another_way(house: Walled, run: Run) -> None:
    """It would seem to be done, and the role would have all that it had."""
    house.build()
    ada = house.name("ada")
    of_ada = house.role(ada)
    url = house.owner.url
    put(house, "hub:ada/", "hub:ada/gpu")
    assert run("wall", "grant", "--user", "ada", "--role", ada, "--yes", url=url).returncode == 0
    left = f"The role {ada!r} still has 'hub:ada/...', which was granted in another way."
    for namespace in ("hub:ada/", "hub:ada/gpu"):
        done = run("wall", "revoke", namespace, "--role", ada, "--yes", url=url)
        assert done.returncode == 1
        assert left in done.stderr
    assert len(answer(of_ada, SEEN)) == 2
    granted = run("wall", "grant", "hub:ada/gpu", "--role", ada, "--yes", url=url)
    assert granted.returncode == 0
    words = ("wall", "revoke", "--user", "ada", "--role", ada)
    for more in ("--dry-run", "--yes"):
        done = run(*words, more, url=url)
        assert done.returncode == 1
        assert "still has 'hub:ada/gpu'" in done.stderr
    assert answer(of_ada, SEEN) == [("hub:ada/gpu",)]
    last = run(*done.stderr.rpartition("session-store ")[2].split(), "--yes", url=url)
    assert (last.returncode, last.stderr) == (0, "")
    assert answer(of_ada, SEEN) == DENIED


def test_a_server_whose_namespace_no_role_was_granted(house: Walled, run: Run) -> None:
    house.build()
    ada = house.name("ada")
    of_ada = house.role(ada)
    words = ("wall", "grant", "hub:ada/", "--role", ada, "--yes")
    assert run(*words, url=house.owner.url).returncode == 0
    scope = Scope("hub:eve/", SCOPE.authority)
    told = "has not been granted this namespace. .* jupyter session-store wall grant NAMESPACE"
    with pytest.raises(StoreUnavailable, match=told), opened(of_ada.url, scope) as repository:
        run_verb(repository.add(record("a", scope)))
    assert answer(house.owner, SEEN) == []


def test_copies_from_and_to_a_role_behind_the_wall(house: Walled, run: Run, tmp_path: Path) -> None:
    """What is its own is copied; what is another's is refused, and nothing is half done."""
    house.build()
    ada, bob = house.name("ada"), house.name("bob")
    of_ada, of_bob = house.role(ada), house.role(bob)
    for role, name in ((ada, "ada"), (bob, "bob")):
        words = ("wall", "grant", "--user", name, "--role", role, "--yes")
        assert run(*words, url=house.owner.url).returncode == 0
    file = str(tmp_path / "own.db")
    fill(file, [session("hub:ada/", 1), session("hub:ada/gpu", 2)], [server("hub:ada/")])
    refused = run("copy", "--from", file, "--to", "env:TO", TO=of_bob.url)
    assert refused.returncode == 2
    assert "The role has not been granted this namespace." in refused.stderr
    assert answer(house.owner, SEEN) == []
    done = run("copy", "--from", file, "--to", "env:TO", TO=of_ada.url)
    assert done.returncode == 0, done.stderr
    assert answer(of_ada, SEEN) == [("hub:ada/",), ("hub:ada/gpu",)]
    put(house, "hub:bob/")
    back = str(tmp_path / "back.db")
    done = run("copy", "--from", "env:FROM", "--to", back, FROM=of_bob.url)
    assert done.returncode == 0, done.stderr
    assert "is behind a wall: it sees its own namespaces, and no others are copied" in done.stderr
    assert answer_of(back) == [("hub:bob/",)]


def answer_of(file: str) -> list[tuple[str]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT namespace FROM jupyter_sessions").fetchall()


def test_a_policy_that_was_made_wider_is_a_gap(house: Walled) -> None:
    house.build()
    ada = "jupyter_session_store_is_among(namespace, ARRAY(SELECT w.namespace::text FROM"
    wall = "jupyter_session_store_wall w WHERE w.role = session_user))"
    house.owner.execute(
        "ALTER POLICY jupyter_session_store_wall ON jupyter_sessions"
        f" USING ({ada} {wall} OR namespace = 'hub:bob/')"
    )
    assert "jupyter_sessions lacks the policy jupyter_session_store_wall" in (
        wrongs(house)["wall"].text
    )
    house.build()
    assert wrongs(house) == {}


def test_a_member_whom_another_has_let_in(house: Walled, run: Run) -> None:
    """From PostgreSQL 16 on, who has let a role in has to let it go; it sees nothing meanwhile."""
    house.build()
    ada = house.name("ada")
    of_ada = house.role(ada)
    put(house, "hub:ada/")
    house.admin.execute(f"GRANT {house.group} TO {quoted(ada)}")
    url = house.owner.url
    assert run("wall", "grant", "hub:ada/", "--role", ada, "--yes", url=url).returncode == 0
    done = run("wall", "revoke", "--role", ada, "--yes", url=url)
    assert done.returncode == 0
    member = house.admin.rows(f"SELECT pg_has_role('{ada}', '{house.group}', 'MEMBER')")
    if member == [(True,)]:
        assert "has no namespace left, and is still in the group" in done.stderr
        assert answer(of_ada, SEEN) == []
        house.admin.execute(done.stderr.rpartition(": ")[2])
    assert answer(of_ada, SEEN) == DENIED
