"""What each subcommand ends with: the table of the reference, cell by cell."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from generated_reference import commands

from jupyter_session_store.cli.app import SessionStoreApp
from jupyter_session_store.records import Liveness
from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from ..docs.blocks import source
from ..migrations.support import surroundings
from .cleaning_support import aged
from .doctor_support import another_user
from .in_process import run
from .support import fill, server, session, upgraded
from .walls import walled

NOBODY: Final = "postgresql://nobody@127.0.0.1:1/nothing"
#: What each needs to have something to do in a database that is filled.
WORDS: Final[dict[str, list[str]]] = {
    "downgrade": ["base"],
    "show": ["session-000001"],
    "prune": ["--older-than=30d"],
    "purge": ["a"],
    "remove": ["session-000001"],
    "rename": ["a", "c"],
    "copy": ["--to=other.db"],
    "import": ["stock.db", "--namespace=a", "--gateway=http://gateway"],
}
#: For PostgreSQL alone; tests/cli/test_wall.py does with it what others do with a file.
WALL: Final = "wall"
#: What is not there, or is not to be done.
OTHER_WORDS: Final = {"downgrade": [HEAD], "show": ["no-such"], "kernels": ["no-such"]}


def table() -> Iterator[tuple[str, str, int]]:
    """Yield the subcommand, what happens, and the code of each cell but the dashes."""
    page = source("docs/reference/commands.md").partition("What each subcommand ends with.")[2]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    heading, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    for name, *cells in rows[: len(SessionStoreApp.subcommands)]:
        for outcome, code in zip(heading[1:], cells, strict=True):
            if code != "-":
                yield name, outcome, int(code)


CELLS: Final = list(table())


def of(outcome: str) -> list[tuple[str, int]]:
    """Return the subcommands to which something happens, and their codes."""
    found = [(name, code) for name, what, code in CELLS if what == outcome]
    assert found, outcome
    return found


def of_files(outcome: str) -> list[tuple[str, int]]:
    """Return them, but for the one that is not for files."""
    return [one for one in of(outcome) if one[0] != WALL]


def test_every_subcommand_is_there() -> None:
    assert [name for name, outcome, _ in CELLS if outcome == "done"] == [*commands()]


@pytest.fixture(autouse=True)
def _ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is served by other tests."""

    async def serve(_self: object, _reader: object) -> None:
        pass

    monkeypatch.setattr("jupyter_session_store.cli.serve.Serve._serve", serve)


@pytest.fixture(autouse=True)
def _alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found but what lies in the folder of the operator."""
    for name, value in surroundings(home).items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    connection = sqlite3.connect("stock.db")
    connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
    connection.close()
    see(Liveness.GONE, monkeypatch)


def see(liveness: Liveness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all servers be seen so, without waiting for their leases."""

    def observe(_connection: Any, servers: Any, *_: Any, **__: Any) -> dict[Any, str]:
        return {one.key: liveness.value for one in servers}

    monkeypatch.setattr("jupyter_session_store.cli.removal.observe", observe)


def ends_with(name: str, *words: str, url: str | None = None, other: bool = False) -> int:
    """Run a subcommand with what it needs, and return its exit code."""
    all_words = [*(OTHER_WORDS if other else {}).get(name, WORDS.get(name, [])), *words]
    if "yes" in commands()[name].flags:
        all_words.append("--yes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_SESSION_STORE_URL", url or "sessions.db")
        return run(name, *all_words)


def filled() -> None:
    fill("sessions.db", [session("a", 1, **aged())], [server("a")])


@pytest.mark.parametrize(("name", "code"), of_files("done"))
def test_done(name: str, code: int) -> None:
    filled()
    assert ends_with(name) == code


@pytest.mark.parametrize(("name", "code"), of_files("nothing to do"))
def test_nothing_to_do(name: str, code: int) -> None:
    upgraded("sessions.db")
    words = [] if name != "kernels" else ["--detached", "--stop"]
    assert ends_with(name, *words, other=name == "downgrade") == code


@pytest.mark.parametrize(("name", "code"), of_files("not there"))
def test_not_there(name: str, code: int) -> None:
    filled()
    assert ends_with(name, other=True) == code


@pytest.mark.parametrize(("name", "code"), of("mistyped"))
def test_mistyped(name: str, code: int) -> None:
    filled()
    assert ends_with(name, "--no-such") == code
    assert ends_with(name, "one", "two", "three", "--debug=1") == code


@pytest.mark.parametrize(("name", "code"), of("unreachable"))
def test_unreachable(name: str, code: int) -> None:
    assert ends_with(name, url=NOBODY) == code


@pytest.mark.parametrize(("name", "code"), of_files("no file"))
def test_no_file(name: str, code: int) -> None:
    assert ends_with(name) == code


@pytest.mark.parametrize(("name", "code"), of_files("no tables"))
def test_no_tables(name: str, code: int) -> None:
    connection = sqlite3.connect("sessions.db")
    connection.execute("CREATE TABLE another (id)")
    connection.close()
    Path("sessions.db").chmod(0o600)
    assert ends_with(name) == code


@pytest.mark.parametrize(
    ("name", "code"), [one for one in of("server alive") if one[0] != "kernels"]
)
def test_a_server_is_alive(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    see(Liveness.ALIVE, monkeypatch)
    filled()
    assert ends_with(name) == code


@pytest.mark.parametrize("name", ["purge", "remove", "rename"])
def test_it_cannot_be_seen_whether_a_server_is_alive(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(Liveness.UNKNOWN, monkeypatch)
    filled()
    assert ends_with(name) == 5
    assert ends_with(name, "--force") == 0


@pytest.mark.parametrize(
    ("outcome", "error"), [("Ctrl-C", KeyboardInterrupt), ("pipe closed", BrokenPipeError)]
)
@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_cut_off(
    name: str, outcome: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object) -> None:
        raise error

    monkeypatch.setattr(commands()[name], "run", fail)
    # That of this process is pytest's.
    monkeypatch.setattr("jupyter_session_store.cli.command.discard_output", lambda: None)
    assert ends_with(name) == dict(of(outcome))[name]


@pytest.mark.only("postgresql", reason="others have no policies for rows")
def test_the_wall(database: Database) -> None:
    codes = {outcome: code for name, outcome, code in CELLS if name == WALL}
    assert ends_with(WALL, "grant", "a", "--role=no-such", url=database.url) == codes["no tables"]
    assert ends_with(WALL, url=database.url) == codes["no tables"]
    with walled(database) as house:
        url = house.owner.url
        for outcome in ("done", "nothing to do"):
            words = ["--apply", *(["--group", house.group] if outcome == "done" else [])]
            assert ends_with(WALL, *words, url=url) == codes[outcome]
        grant = ["grant", "a", "--role=no-such"]
        assert ends_with(WALL, *grant, url=url) == codes["not there"]
        assert ends_with(WALL, "check", url=url) == codes["done"]


@pytest.mark.only("sqlite", "mysql", reason="PostgreSQL has policies for rows")
def test_no_wall(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database.url)
    for words in ([], ["--apply"], ["check"], ["grant", "a", "--role=b"]):
        assert ends_with(WALL, *words, url=database.url) == 2
        said = capsys.readouterr().err
        assert "cannot have a wall between users: it has no " in said
        assert "expected PostgreSQL. Nothing was changed." in said


@pytest.mark.only("postgresql", "mysql", reason="a file has one owner")
def test_no_right(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database.url, [session("a", 1, **aged())], [server("a")])
    with another_user(database) as url:
        for name, code in of("no right") if database.kind == "postgresql" else of_files("no right"):
            assert ends_with(name, url=url) == code, name
            said = "".join(capsys.readouterr())
            assert "GRANT " in said or name == "doctor", (name, said)
