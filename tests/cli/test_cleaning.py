"""prune, purge and rename: their help, their questions, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ..databases import Database
from ..system.passwords import leaked, with_password
from .cleaning_support import aged, asked, dead, everything, local, name_of
from .conftest import Run
from .support import fill, shows_password, upgraded_by_later_release

COMMANDS: Final = (
    ("prune", "--older-than", "30d", "--yes"),
    ("purge", "user", "--yes"),
    ("rename", "user", "new", "--yes"),
)
_WRONG: Final = "Wr0ng-%40@:/?#%s"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("prune", "jupyter session-store prune --older-than 30d --dry-run"),
        ("purge", "jupyter session-store purge hub:alice/ hub:bob/ --yes"),
        ("remove", "jupyter session-store remove notes-1 notes-2 --namespace hub:alice/ --yes"),
        ("rename", "jupyter session-store rename hub:alice/ hub:alice.smith/ --dry-run"),
    ],
)
def test_help(run: Run, command: str, told: str) -> None:
    answer = run(command, "--help", url="postgresql://nobody@no-such-host.invalid/nothing")
    assert answer.returncode == 0, answer.stderr
    assert told in answer.stdout
    for flag in ("--json", "--force", "--url=", "--dry-run", "--yes"):
        assert f" {flag}" in answer.stdout, flag


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("prune --yes", "expected at least one of them"),
        ("prune --older-than 30 --yes", "--older-than is '30'"),
        ("prune --older-than=-1d --yes", "--older-than is '-1d'"),
        ("prune --older-than 99999999999w --yes", "expected a number and a unit"),
        ("prune me --older-than 30d --yes", "Found the argument 'me'; expected none"),
        ("purge --yes", "Found no argument; expected NAMESPACE"),
        ("purge --user me --prefix hub: --yes", "Found --user and --prefix; expected one"),
        ("purge --users no-such --yes", "There is no file 'no-such'"),
        ("remove --yes", "Found no argument; expected SESSION"),
        ("rename user", "Found 'user'; expected NAMESPACE NEW"),
        ("rename a b c", "Found 'a' and 'b' and 'c'; expected NAMESPACE NEW"),
        (
            "rename a b --user c --new-user d",
            "Found 'a' and 'b' and --user; expected NAMESPACE NEW",
        ),
        ("rename --user c", "Found --user without --new-user; expected both"),
        ("rename --new-prefix c", "Found --new-prefix without --prefix; expected both"),
        ("rename user user", "Found 'user' twice"),
        ("rename --user c --new-user c", "Found 'c' twice"),
        ("rename a b a c", "Found one NAMESPACE twice"),
        ("rename a b b c", "'a' would become 'b', which is renamed, too"),
        ("prune --no-such-flag", "no-such-flag"),
    ],
)
def test_wrong_usage(run: Run, words: str, told: str) -> None:
    # Refused before anything is connected to.
    answer = run(*words.split(), url="postgresql://nobody@no-such-host.invalid/nothing")
    assert answer.returncode == 2, answer.stdout
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("", "An argument is empty"),
        ("\udcff", "An argument is not UTF-8"),
        *((new, "Invalid namespace: it ") for new in (" a", "a ", "a\n", "x" * 256)),
    ],
    ids=ascii,
)
def test_a_namespace_that_no_server_could_have(run: Run, new: str, told: str) -> None:
    answer = run("rename", "user", new, url="postgresql://nobody@no-such-host.invalid/nothing")
    assert answer.returncode == 2, answer.stdout
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        "prune --older-than 30d",
        "prune --dead-servers",
        "purge user",
        "remove session-000001",
        "rename user new",
    ],
)
def test_nothing_goes_that_nobody_could_be_asked_about(
    run: Run, database: Database, words: str
) -> None:
    fill(database.url, [local("user", 1, "gone", **aged())], [dead("user", "dead")])
    before = everything(database)
    # Whatever stands in a pipe is no answer.
    answer = run(*words.split(), answer="y\n", url=database.url)
    assert answer.returncode == 2
    assert "expected --yes" in answer.stderr
    assert "Watching" not in answer.stderr
    assert everything(database) == before


@pytest.mark.parametrize("words", ["prune --older-than 30d", "purge user", "remove session-000001"])
@pytest.mark.usefixtures("hurried")
def test_the_question(home: Path, database: Database, words: str) -> None:
    fill(database.url, [local("user", 1, "dead", **aged())], [dead("user", "dead")])
    before = everything(database)
    for answer in ("n", ""):
        code, output = asked(*words.split(), answer=answer, home=home, url=database.url)
        assert code == 1, output
        assert "Remove 1 session(s)" in output
        assert f"from {name_of(database.url)}? [y/N]" in output
        assert output.endswith("Nothing was changed.\n")
        assert everything(database) == before
    code, output = asked(*words.split(), answer="y", home=home, url=database.url)
    assert code == 0, output
    assert everything(database) == []


def test_an_unreachable_database(run: Run) -> None:
    for words in COMMANDS:
        answer = run(*words, url="postgresql://nobody@127.0.0.1:1/nothing")
        assert answer.returncode == 3, answer.stdout
        assert (
            "The session store is unavailable: postgresql nobody@127.0.0.1:1/nothing: "
            in answer.stderr
        )
        assert "jupyter session-store doctor" in answer.stderr
        assert "Traceback" not in answer.stderr


@pytest.mark.only("postgresql", "mysql", reason="SQLite has no passwords")
def test_a_wrong_password(run: Run, database: Database) -> None:
    for words in COMMANDS:
        answer = run(*words, url=with_password(database, _WRONG))
        assert answer.returncode == 3, answer.stdout
        assert "The session store is unavailable" in answer.stderr
        assert leaked(_WRONG, answer.stderr + answer.stdout) == set()
        assert "Traceback" not in answer.stderr


def test_tables_of_another_program(run: Run, database: Database) -> None:
    database.execute("CREATE TABLE jupyter_sessions (namespace varchar(9))")
    database.execute("INSERT INTO jupyter_sessions VALUES ('user')")
    for words in COMMANDS:
        answer = run(*words, url=database.url)
        assert answer.returncode == 4, answer.stdout
        assert "did not make" in answer.stderr
        assert not shows_password(database, answer.stderr)
    assert database.rows("SELECT * FROM jupyter_sessions") == [("user",)]


@pytest.mark.parametrize("floor", [1, 99])
def test_a_database_of_a_newer_version(
    run: Run, database: Database, floor: int, tmp_path: Path
) -> None:
    upgraded_by_later_release(database.url, tmp_path / "later", floor)
    for words in COMMANDS:
        answer = run(*words, url=database.url)
        if floor == 1:
            assert answer.returncode == 0, answer.stderr
        else:
            assert answer.returncode == 4, answer.stdout
            assert "pip install --upgrade jupyter_session_store" in answer.stderr


def test_a_database_without_tables(run: Run, database: Database) -> None:
    for words in COMMANDS:
        answer = run(*words, url=database.url)
        # A file is not there at all.
        assert answer.returncode == (6 if database.kind == "sqlite" else 4), answer.stdout
        assert "Run: jupyter session-store upgrade" in answer.stderr
