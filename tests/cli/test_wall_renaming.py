"""What becomes of grants behind the wall when namespaces get other names, or go."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ..databases import Database
from .conftest import Run
from .support import fill, session
from .test_wall import DENIED, SEEN
from .walls import Walled, answer, quoted, walled

pytestmark = pytest.mark.only("postgresql", reason="others have no policies for rows")

GRANTED = (
    "SELECT CAST(role AS text), namespace, kind FROM jupyter_session_store_wall"
    " WHERE kind <> 'found' ORDER BY 1, 2, 3"
)


@pytest.fixture
def house(database: Database) -> Iterator[Walled]:
    with walled(database) as made:
        made.build()
        yield made


def put(house: Walled, *namespaces: str) -> None:
    fill(house.owner.url, [session(name, number) for number, name in enumerate(namespaces)])


def let_in(house: Walled, run: Run, name: str, *what: str) -> Database:
    """Make a role, grant it something, and return the database as it reaches it."""
    role = house.name(name)
    made = house.role(role)
    done = run("wall", "grant", *what, "--role", role, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    return made


def test_a_grant_goes_along(house: Walled, run: Run) -> None:
    put(house, "dir:/home/ada", "dir:/home/bob")
    ada = let_in(house, run, "ada", "dir:/home/ada")
    spare = let_in(house, run, "spare", "dir:/home/ada")
    bob = let_in(house, run, "bob", "dir:/home/bob")
    before = answer(house.owner, GRANTED)
    words = ("rename", "dir:/home/ada", "dir:/srv/ada")
    dry = run(*words, "--dry-run", url=house.owner.url)
    assert dry.returncode == 0
    told = f"{{}} {house.name('ada')!r} {{}} dir:/srv/ada in the place of dir:/home/ada.\n"
    assert told.format("The role", "would have") in dry.stderr
    assert answer(house.owner, GRANTED) == before
    done = run(*words, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert told.format("The role", "has") in done.stderr
    for role in (ada, spare):
        assert answer(role, SEEN) == [("dir:/srv/ada",)]
    assert answer(bob, SEEN) == [("dir:/home/bob",)]
    # The old name is nobody's: who gets it next is not seen by the former one.
    assert [row[1] for row in answer(house.owner, GRANTED)] == [
        "dir:/srv/ada",
        "dir:/home/bob",
        "dir:/srv/ada",
    ]


def test_a_user_with_all_servers_and_those_to_come(house: Walled, run: Run) -> None:
    put(house, "hub:ada/", "hub:ada/gpu", "hub:bob/")
    ada = let_in(house, run, "ada", "--user", "ada")
    done = run("rename", "--user", "ada", "--new-user", "ada.s", "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    role = house.name("ada")
    assert done.stderr == f"The role {role!r} has hub:ada.s/... in the place of hub:ada/....\n"
    assert answer(ada, SEEN) == [("hub:ada.s/",), ("hub:ada.s/gpu",)]
    assert answer(house.owner, GRANTED) == [(role, "hub:ada.s/", "prefix")]
    new = "INSERT INTO jupyter_servers SELECT %s, 'x', NULL, NULL, NULL, now(), 1, 90"
    assert answer(ada, new, "hub:ada.s/new") == 1
    for former in ("hub:ada/", "hub:ada/gpu"):
        assert answer(ada, new, former) == DENIED
    # Once more, there is nothing to do.
    done = run("rename", "--user", "ada", "--new-user", "ada.s", "--yes", url=house.owner.url)
    assert (done.returncode, answer(ada, SEEN)) == (0, [("hub:ada.s/",), ("hub:ada.s/gpu",)])


def test_rows_that_came_after_the_grant(house: Walled, run: Run) -> None:
    """From an import, for instance: the role has not written one yet."""
    ada = let_in(house, run, "ada", "--user", "ada")
    put(house, "hub:ada/", "hub:ada/gpu")
    done = run("rename", "--user", "ada", "--new-user", "ada.s", "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert answer(ada, SEEN) == [("hub:ada.s/",), ("hub:ada.s/gpu",)]
    assert answer(house.owner, GRANTED) == [(house.name("ada"), "hub:ada.s/", "prefix")]


def test_a_user_of_whom_there_are_no_rows(house: Walled, run: Run) -> None:
    ada = let_in(house, run, "ada", "--user", "ada")
    words = ("rename", "--user", "ada", "--new-user", "eve", "--yes")
    assert run(*words, url=house.owner.url).returncode == 0
    put(house, "hub:ada/")
    assert answer(house.owner, GRANTED) == [(house.name("ada"), "hub:eve/", "prefix")]
    assert answer(ada, SEEN) == []


def test_one_server_of_a_user(house: Walled, run: Run) -> None:
    """The others stay as they are."""
    put(house, "hub:ada/", "hub:ada/gpu", "hub:bob/")
    ada = let_in(house, run, "ada", "--user", "ada")
    done = run("rename", "hub:ada/gpu", "dir:/gpu", "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert answer(ada, SEEN) == [("dir:/gpu",), ("hub:ada/",)]
    role = house.name("ada")
    assert answer(house.owner, GRANTED) == [
        (role, "dir:/gpu", "namespace"),
        (role, "hub:ada/", "prefix"),
    ]


@pytest.mark.parametrize("has", ["a grant", "a user", "rows"])
@pytest.mark.parametrize("by", ["namespace", "user"])
def test_nobody_gets_what_is_anothers(house: Walled, run: Run, has: str, by: str) -> None:
    put(house, "hub:ada/", *(["hub:bob/"] if has == "rows" else []))
    ada = let_in(house, run, "ada", *(["hub:ada/"] if by == "namespace" else ["--user", "ada"]))
    if has != "rows":
        let_in(house, run, "bob", *(["hub:bob/"] if has == "a grant" else ["--user", "bob"]))
    before = answer(house.owner, GRANTED)
    words: tuple[str, ...] = ("hub:ada/", "hub:bob/")
    if by == "user":
        words = ("--user", "ada", "--new-user", "bob")
    done = run("rename", *words, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    role = house.name("ada")
    assert f"The role {role!r} keeps hub:ada/" in done.stderr
    assert ", and does not get hub:bob/" in done.stderr
    why = "there are rows of it" if has == "rows" else f"the role {house.name('bob')!r} was"
    assert f": {why}" in done.stderr
    assert "jupyter session-store wall grant NAMESPACE --role" in done.stderr
    assert answer(ada, SEEN) == []
    assert answer(house.owner, GRANTED) == before
    assert answer(house.owner, SEEN) == [("hub:bob/",)]


@pytest.mark.parametrize("by", ["namespace", "user"])
@pytest.mark.parametrize("helps", ["namespace", "user"])
def test_nobody_gets_what_is_a_helpers_own(house: Walled, run: Run, by: str, helps: str) -> None:
    """Bob was let in to ada's sessions, and has none of his own yet."""
    put(house, "hub:ada/")
    whose = {"namespace": "hub:{}/", "user": "--user {}"}
    ada = let_in(house, run, "ada", *whose[by].format("ada").split())
    let_in(house, run, "bob", *whose[by].format("bob").split())
    granted = run(
        *("wall", "grant", *whose[helps].format("ada").split(), "--yes"),
        *("--role", house.name("bob")),
        url=house.owner.url,
    )
    assert granted.returncode == 0, granted.stderr
    words = ("--user", "ada", "--new-user", "bob")
    done = run("rename", *words, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert f"and does not get hub:bob/{'...' if by == 'user' else ''}: the role" in done.stderr
    mine = [row for row in answer(house.owner, GRANTED) if row[0] == house.name("ada")]
    assert [row[1] for row in mine] == ["hub:ada/"]
    assert answer(ada, SEEN) == []


def test_who_has_one_server_of_a_user_goes_along(house: Walled, run: Run) -> None:
    put(house, "hub:ada/", "hub:ada/gpu")
    ada = let_in(house, run, "ada", "--user", "ada")
    spare = let_in(house, run, "spare", "hub:ada/gpu")
    everybodys = let_in(house, run, "zoe", "--user", "ada")
    done = run("rename", "--user", "ada", "--new-user", "ada.s", "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert "does not get" not in done.stderr
    for role in (ada, everybodys):
        assert answer(role, SEEN) == [("hub:ada.s/",), ("hub:ada.s/gpu",)]
    assert answer(spare, SEEN) == [("hub:ada.s/gpu",)]


def test_a_user_whose_new_name_is_a_digest(house: Walled, run: Run) -> None:
    put(house, "hub:ada/")
    ada = let_in(house, run, "ada", "--user", "ada")
    long = "u" * 300
    done = run("rename", "--user", "ada", "--new-user", long, "--yes", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert "the new name would be too long" in done.stderr
    [(seen,)] = answer(ada, SEEN)
    assert seen.startswith("hub-sha256:")


def test_a_rename_that_fails_changes_no_grant(house: Walled, run: Run) -> None:
    """Both in one unit of work."""
    put(house, "hub:ada/")
    ada = let_in(house, run, "ada", "hub:ada/")
    house.admin.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION $$no$$; END';"
        "CREATE TRIGGER refuse BEFORE UPDATE ON jupyter_sessions FOR EACH ROW"
        " EXECUTE FUNCTION refuse()"
    )
    before = answer(house.owner, GRANTED)
    done = run("rename", "hub:ada/", "hub:eve/", "--yes", url=house.owner.url)
    assert done.returncode != 0
    assert answer(house.owner, GRANTED) == before
    assert answer(ada, SEEN) == [("hub:ada/",)]


def test_who_may_not_change_what_is_granted_says_so(house: Walled, run: Run) -> None:
    put(house, "hub:ada/")
    let_in(house, run, "ada", "hub:ada/")
    operator = house.role(house.name("operator"), "BYPASSRLS")
    house.admin.execute(f"GRANT {house.group} TO {quoted(house.name('operator'))}")
    before = answer(house.owner, GRANTED)
    done = run("rename", "hub:ada/", "hub:eve/", "--yes", url=operator.url)
    assert done.returncode == 0, done.stderr
    assert "does not get hub:eve/: this role may not change what is granted" in done.stderr
    assert answer(house.owner, GRANTED) == before


def test_a_role_behind_the_wall_gives_nobody_anything(house: Walled, run: Run) -> None:
    put(house, "hub:ada/", "hub:bob/")
    ada = let_in(house, run, "ada", "hub:ada/", "hub:ada/gpu")
    let_in(house, run, "bob", "hub:bob/")
    before = answer(house.owner, GRANTED)
    done = run("rename", "hub:ada/", "hub:ada/gpu", "--yes", url=ada.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer(ada, SEEN) == [("hub:ada/gpu",)]
    refused = run("rename", "hub:ada/gpu", "hub:bob/", "--yes", url=ada.url)
    assert refused.returncode != 0
    assert answer(ada, SEEN) == [("hub:ada/gpu",)]
    assert answer(house.owner, GRANTED) == before


@pytest.mark.parametrize("what", [("hub:ada/",), ("--user", "ada")])
def test_a_purge_leaves_grants_and_says_so(house: Walled, run: Run, what: tuple[str, ...]) -> None:
    put(house, "hub:ada/", "hub:bob/")
    ada = let_in(house, run, "ada", *what)
    let_in(house, run, "bob", "hub:bob/")
    before = answer(house.owner, GRANTED)
    done = run("purge", "--user", "ada", "--yes", "--json", url=house.owner.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"] == 1
    role = house.name("ada")
    assert done.stderr.startswith(f"What was granted of these namespaces stays ('{role}: hub:ada/")
    assert done.stderr.endswith(f": jupyter session-store wall revoke --role {role}\n")
    assert answer(house.owner, GRANTED) == before
    command = done.stderr.rpartition("jupyter session-store ")[2].split()
    assert run(*command, "--yes", url=house.owner.url).returncode == 0
    assert answer(ada, SEEN) == DENIED
