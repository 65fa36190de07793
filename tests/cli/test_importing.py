"""import, as an operator runs it: a file of Jupyter Server's own session manager."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.paths import claim_of, digest
from jupyter_session_store.records import READY, Scope
from jupyter_session_store.sql.admin.bulk_insert import NAMES

from ..databases import Database
from ..migrations.test_adoption import JUNK, NOT_UTF8, SESSIONS, stock_manager, stock_table
from .conftest import Run
from .support import PATIENCE, configure, fill, running, session, shows_password, upgraded
from .test_transfer import GOES_ON
from .timing import Pause
from .transfer_support import ADDING, contents, counts, file_database, number

ALICE: Final = "hub:alice/"
GATEWAY: Final = "https://gateway.example.org/x"
SCOPE: Final = Scope(ALICE, "gateway:https://gateway.example.org:443/x")
TO_ALICE: Final = ("--namespace", ALICE, "--gateway", GATEWAY)


@pytest.fixture
def file(home: Path) -> Path:
    """A file of the stock manager, with all that may be in it."""
    return stock_file(home / "stock.db", SESSIONS + JUNK, *NOT_UTF8)


def stock_file(file: Path, rows: Any, *statements: str) -> Path:
    """Make a file with the stock manager, and fill it."""
    with stock_manager(file) as manager, manager.connection:
        manager.cursor.execute("BEGIN")
        manager.cursor.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?)", rows)
        for statement in statements:
            manager.cursor.execute(statement)
    return file


def imported(run: Run, file: Path, database: Database, *words: str) -> dict[str, Any]:
    """Import for Alice, and return what was counted."""
    return counts(run("import", str(file), *TO_ALICE, "--json", *words, url=database.url))


def column(database: Database, name: str) -> dict[str, Any]:
    """Return a column of each session, by its id."""
    return {row[1]: row[NAMES.index(name)] for row in contents(database)}


def test_no_session_is_lost(run: Run, file: Path, database: Database) -> None:
    before, table = file.read_bytes(), stock_table(file)
    total = len(SESSIONS) + len(JUNK) + len(NOT_UTF8)
    planned = imported(run, file, database, "--dry-run")
    assert (planned["read"], planned["imported"], planned["dry_run"]) == (
        *(total, len(SESSIONS)),
        True,
    )
    found = imported(run, file, database)
    assert found["read"] == total
    assert found["imported"] == found["verified"] == len(SESSIONS)
    assert found["left_out"] == total - len(SESSIONS)
    assert (found["without_claim"], found["missing"], found["there_already"]) == (1, 0, 0)
    rows = contents(database)
    keys = ("session_id", "path", "name", "type", "kernel_id")
    stock = sorted(tuple(row[NAMES.index(key)] for key in keys) for row in rows)
    assert stock == sorted(SESSIONS)
    assert {row[0] for row in rows} == {ALICE}
    assert set(column(database, "authority").values()) == {SCOPE.authority}
    assert set(column(database, "state").values()) == {READY}
    for name in ("server_id", "kernel_name", "kernel_model"):
        assert set(column(database, name).values()) == {None}
    # In the order of the table, which is the order of a list.
    created = column(database, "created_at")
    moments = [created[str(row[0])] for row in SESSIONS]
    assert moments == sorted(set(moments))
    # The first session of a path holds it.
    claims = column(database, "claim")
    assert claims.pop("s7") is None
    assert claims.pop("s11") is None
    paths = {str(row[0]): str(row[1]) for row in SESSIONS}
    assert claims == {name: claim_of(SCOPE, paths[name]) for name in claims}
    assert file.read_bytes() == before
    assert stock_table(file) == table

    again = imported(run, file, database)
    assert (again["imported"], again["there_already"]) == (0, len(SESSIONS))
    assert again["different"] == 0
    assert contents(database) == rows
    database.execute("UPDATE jupyter_sessions SET name = 'moved' WHERE session_id = 's2'")
    moved = imported(run, file, database)
    assert (moved["there_already"], moved["different"]) == (len(SESSIONS), 1)
    assert column(database, "name")["s2"] == "moved"


def test_what_servers_have_written_stays(run: Run, file: Path, database: Database) -> None:
    mine = session(
        ALICE,
        1,
        session_id="s1",
        path="mine.ipynb",
        authority=SCOPE.authority,
        claim=claim_of(SCOPE, "mine.ipynb"),
    )
    rival = session(
        ALICE,
        2,
        path="A.ipynb",
        authority=SCOPE.authority,
        claim=claim_of(SCOPE, "A.ipynb"),
    )
    fill(database.url, [mine, rival, session("hub:bob/", 3, session_id="s2")])
    before = contents(database)
    found = imported(run, file, database)
    assert (found["imported"], found["there_already"]) == (len(SESSIONS) - 1, 1)
    assert found["without_claim"] == 1
    assert found["different"] == 1
    after = contents(database)
    assert set(before) <= set(after)
    claims = {row[1]: row[NAMES.index("claim")] for row in after if row[0] == ALICE}
    assert claims["s2"] is None
    # The path of the session that did not come.
    assert claims["s7"] == claim_of(SCOPE, "a.ipynb")


@pytest.mark.torture
def test_killed_half_way_it_goes_on(
    run: Run, database: Database, home: Path, rounds: Callable[[int], int]
) -> None:
    total = max(rounds(50_000), 5000)
    rows = [(f"s{n}", f"{n}.ipynb", "", "notebook", f"k{n}") for n in range(total)]
    # Of one id, far apart.
    file = stock_file(home / "stock.db", [*rows, ("s0", "twice", "", "notebook", "k")])
    upgraded(database.url)
    pause = Pause(home, 3, *ADDING)
    with running("import", str(file), *TO_ALICE, home=home, url=database.url) as process:
        pause.reached_by(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    configure(home)
    assert process.returncode == 130, errors
    assert GOES_ON in errors
    there = number(database)
    assert 0 < there < total
    found = imported(run, file, database)
    assert found["imported"] == total - there
    assert found["there_already"] == there + 1
    assert number(database) == total
    assert column(database, "path") == {row[0]: row[1] for row in rows}


@pytest.mark.parametrize(
    ("words", "lines", "variable", "expected"),
    [
        ((), ("c.GatewayClient.url = 'http://GW:8888/'",), "", "gateway:http://gw:8888"),
        ((), (), "http://gw", "gateway:http://gw:80"),
        ((), ("c.PersistentSessionManager.gateway_name = 'ours'",), "http://gw", "gateway:ours"),
        (("--gateway", "theirs"), ("c.GatewayClient.url = 'http://gw'",), "", "gateway:theirs"),
        (("--gateway", "http://127.0.0.1:1@host"), (), "", "gateway:http://127.0.0.1:1@host"),
        (
            ("--gateway", "g" * 300),
            (),
            "",
            f"gateway-sha256:{digest('g' * 300)}",
        ),
    ],
    ids=["configuration", "environment", "name", "argument", "loopback", "long"],
)
def test_whose_kernels_they_are(
    run: Run,
    home: Path,
    words: tuple[str, ...],
    lines: tuple[str, ...],
    variable: str,
    expected: str,
) -> None:
    """The authority is that of a server which is configured alike."""
    file = stock_file(home / "stock.db", SESSIONS[:1])
    configure(home, *lines)
    more = {"JUPYTER_GATEWAY_URL": variable} if variable else {}
    database = file_database(home / "ours.db")
    done = run("import", str(file), "--namespace", ALICE, *words, url=database.url, **more)
    assert done.returncode == 0, done.stderr
    assert "Verified: all 1 sessions are there." in done.stdout
    [authority] = column(database, "authority").values()
    assert authority == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("stock.db --gateway http://gw", "Found no --namespace"),
        ("stock.db --namespace hub:alice/", "This configuration names no gateway"),
        ("stock.db --namespace x --gateway http://me:s3cr3t@gw", "without a user and a password"),
        ("stock.db --namespace x --gateway http://gw:port", "expected http://HOST:PORT/PATH"),
        ("stock.db --gateway http://gw --namespace=\N{NO-BREAK SPACE}x", "white space"),
        ("--namespace x --gateway http://gw", "Found no argument"),
        ("none.db --namespace x --gateway http://gw", "There is no file 'none.db'"),
        (". --namespace x --gateway http://gw", "There is no file '.'"),
        ("text --namespace x --gateway http://gw", "is not SQLite's"),
        ("empty --namespace x --gateway http://gw", "has no table of sessions"),
        ("theirs.db --namespace x --gateway http://gw", "has no table of sessions"),
        ("full.db --namespace x --gateway http://gw", "session-store copy --from FILE"),
        ("adopted.db --namespace x --gateway http://gw", "session-store copy --from FILE"),
        (
            "stock.db --namespace x --gateway http://gw --url ./stock.db",
            "is the database that its sessions would be imported into",
        ),
    ],
)
def test_what_was_typed_is_wrong(run: Run, file: Path, home: Path, words: str, told: str) -> None:
    (home / "text").write_text("no database")
    (home / "empty").touch()
    with closing(sqlite3.connect(home / "theirs.db")) as connection:
        connection.execute("CREATE TABLE session (id INTEGER PRIMARY KEY, path TEXT)")
    fill(f"sqlite:///{home}/full.db", [session("n", 1)])
    adopted = stock_file(home / "adopted.db", SESSIONS)
    upgraded(f"sqlite:///{adopted}")
    file_database(adopted).execute(
        "INSERT INTO jupyter_session_store_meta VALUES ('stock_sessions_adopted_at', 'once')"
    )
    before = file.read_bytes()
    done = run("import", *words.split(" "), url=f"sqlite:///{home}/new.db")
    output = done.stdout + done.stderr
    assert (done.returncode, told in output) == (2, True), output
    assert "s3cr3t" not in output
    assert "Traceback" not in output
    assert not (home / "new.db").exists()
    assert file.read_bytes() == before


def test_a_file_that_another_process_holds(run: Run, file: Path, home: Path) -> None:
    before = file.read_bytes()
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        done = run("import", str(file), *TO_ALICE, url=f"sqlite:///{home}/new.db")
        holder.execute("ROLLBACK")
    assert done.returncode == 3, done.stderr
    assert f"The stock manager's file is unavailable: '{file}': database is locked" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before


def test_a_damaged_file(run: Run, file: Path, home: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    done = run("import", str(file), *TO_ALICE, url=f"sqlite:///{home}/new.db")
    assert done.returncode == 3, done.stdout
    assert f"'{file}': database disk image is malformed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_does_not_answer(run: Run, file: Path) -> None:
    done = run("import", str(file), *TO_ALICE, url="postgresql://jupyter:s3cr3t@127.0.0.1:1/x")
    assert done.returncode == 3, done.stdout
    assert "The session store is unavailable: postgresql jupyter@127.0.0.1:1/x: " in done.stderr
    assert "s3cr3t" not in done.stderr


def test_a_file_that_an_upgrade_came_before(run: Run, file: Path, home: Path) -> None:
    """Nobody has taken its sessions over yet."""
    upgraded(f"sqlite:///{file}")
    target = file_database(home / "new.db")
    assert imported(run, file, target)["imported"] == len(SESSIONS)


def test_what_is_said(run: Run, file: Path, database: Database) -> None:
    told = run("import", str(file), *TO_ALICE, "--dry-run", url=database.url)
    assert told.returncode == 0, told.stderr
    assert f"Would import {len(SESSIONS)} sessions from the stock file" in told.stdout
    assert f"for the namespace '{ALICE}' and the authority '{SCOPE.authority}'" in told.stdout
    assert "Would make the tables there." in told.stdout
    assert not shows_password(database, told.stdout, told.stderr)


def test_its_help(run: Run) -> None:
    done = run("import", "--help")
    assert done.returncode == 0
    for word in ("--namespace=", "--gateway=", "--dry-run", "--json", "import sessions.db"):
        assert word in done.stdout
