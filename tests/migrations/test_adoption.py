"""A file of the stock session manager: its sessions are taken over once, and it stays."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from jupyter_server.services.sessions.sessionmanager import SessionManager

from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import READY, Scope, SessionRecord
from jupyter_session_store.sql.schema import migrating, stock

from .support import SCOPE, TABLES, engine_of, opened, record
from .test_race import race

OTHER: Final = Scope("dir:/home/bob", "server:2")

Row = tuple[object, object, object, object, object]

#: id, path, name, type, kernel: what the stock manager keeps, and shows.
SESSIONS: Final[tuple[Row, ...]] = (
    ("s1", "a.ipynb", "", "notebook", "k1"),
    ("s2", "A.ipynb", "A", "notebook", "k2"),
    ("s3", "a.ipynb ", "a ", "notebook", "k3"),
    ("s4", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.ipynb", "\N{PARTY POPPER}", "console", "k4"),
    ("s5", "cafe\N{COMBINING ACUTE ACCENT}.ipynb", "%s :x '\"\\", "file", "k5"),
    ("s6", "\N{PARTY POPPER}" * 4096, "n" * 1024, "t" * 255, "k" * 255),
    # Two sessions of one path, and two of one kernel: the stock manager allows both.
    ("s7", "a.ipynb", "", "notebook", "k7"),
    ("s8", "b.ipynb", "", "notebook", "k1"),
    ("S1", "c.ipynb", "", "notebook", "k9"),
    ("s1 ", "d.ipynb", "", "notebook", "k10"),
    # The stock manager stores whatever it is given.
    ("s11", None, None, None, "k11"),
    ("s12", "", "", "", "k12"),
)
#: What nobody could open, or store.
JUNK: Final[tuple[Row, ...]] = (
    (None, "x.ipynb", "", "notebook", "k"),
    ("", "x.ipynb", "", "notebook", "k"),
    ("j1", "x.ipynb", "", "notebook", None),
    ("j2", "x.ipynb", "", "notebook", ""),
    ("j3", b"\xff\x00", "", "notebook", "k"),
    (b"j4", "x.ipynb", "", "notebook", "k"),
    (5, "x.ipynb", "", "notebook", 7),
    ("j6", "x.ipynb", "", "notebook", 1.5),
    ("j7", "x" * 4097, "", "notebook", "k"),
    ("j8", "x.ipynb", "", "notebook", "k" * 256),
    ("j9", "nul\0.ipynb", "", "notebook", "k"),
    (None, None, None, None, None),
    # A second row of an id, which the stock manager never gets to see.
    ("s1", "other.ipynb", "other", "console", "k13"),
)
#: TEXT that is no UTF-8 cannot be bound as text.
NOT_UTF8: Final = (
    "INSERT INTO session VALUES ('j10', CAST(x'ff41' AS TEXT), '', 'notebook', 'k')",
    "INSERT INTO session VALUES (CAST(x'c328' AS TEXT), 'x.ipynb', '', 'notebook', 'k')",
)


@contextmanager
def stock_manager(file: Path) -> Iterator[SessionManager]:
    """Yield Jupyter Server's own session manager, which keeps its sessions in a file."""
    manager = SessionManager(database_filepath=str(file))  # type: ignore[no-untyped-call]
    # It leaves its connection to the collector.
    with closing(manager.connection):
        yield manager
        manager.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the stock manager, with all that may be in it."""
    file = tmp_path / "stock.db"
    with stock_manager(file) as manager:
        manager.cursor.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?)", SESSIONS + JUNK)
        for statement in NOT_UTF8:
            manager.cursor.execute(statement)
    return file


def stock_table(file: Path) -> list[tuple[object, ...]]:
    """Return all there is to know about the stock table, to the bit."""
    columns = ("session_id", "path", "name", "type", "kernel_id")
    exact = ", ".join(f"typeof({name}), hex(CAST({name} AS BLOB))" for name in columns)
    with closing(sqlite3.connect(file)) as connection:
        return [
            *connection.execute("SELECT * FROM sqlite_master WHERE tbl_name = 'session'"),
            *connection.execute(f"SELECT rowid, {exact} FROM session ORDER BY rowid"),
        ]


def found_in(url: str, scope: Scope = SCOPE) -> list[SessionRecord]:
    """Open the store as a server does, and return what it shows."""
    with opened(url, scope) as repository:
        return asyncio.run(repository.find(scope))


def rows(found: list[SessionRecord]) -> list[Row]:
    return [(one.session_id, one.path, one.name, one.type, one.kernel_id) for one in found]


def test_the_fixture_is_what_it_says(file: Path) -> None:
    table = stock_table(file)
    assert len(table) == 1 + len(SESSIONS) + len(JUNK) + len(NOT_UTF8)
    kinds = {kind for row in table[1:] for kind in row[1::2]}
    assert kinds == {"text", "null", "blob", "integer", "real"}


def test_no_session_is_lost(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The server's own log, not one that nobody shows.
    caplog.set_level(logging.INFO, "tests.migrations.support")
    found = found_in(str(file))
    assert rows(found) == list(SESSIONS)
    left_out = len(JUNK) + len(NOT_UTF8)
    assert (
        f"Took over {len(SESSIONS)} sessions of Jupyter Server's own session manager; "
        f"left out {left_out} rows"
    ) in caplog.text
    for one in found:
        assert one.scope == SCOPE
        assert (one.state, one.server_id) == (READY, "server")
        assert (one.kernel_name, one.kernel_model) == (None, None)
    # In the order of the table, which is the order of a list.
    moments = [one.created_at for one in found]
    assert moments == sorted(set(moments))


def test_the_first_session_of_a_path_holds_it(file: Path) -> None:
    claims = {one.session_id: one.claim for one in found_in(str(file))}
    assert claims.pop("s7") is None
    assert claims.pop("s11") is None
    paths = {str(row[0]): str(row[1]) for row in SESSIONS}
    assert claims == {name: claim_of(SCOPE, paths[name]) for name in claims}
    assert "s1" in claims


def test_the_stock_table_stays_to_the_bit(file: Path) -> None:
    before = stock_table(file)
    with opened(str(file)) as repository:
        for change in (
            repository.add(record("new")),
            repository.update(SCOPE, "s1", {"path": "moved.ipynb"}),
            repository.remove(SCOPE, asyncio.run(repository.find(SCOPE, session_id="s2"))),
        ):
            asyncio.run(change)
    assert stock_table(file) == before


def test_going_back_works(file: Path) -> None:
    found_in(str(file))
    with stock_manager(file) as manager:
        manager.connection.text_factory = bytes
        kept = manager.cursor.execute("SELECT session_id, path FROM session").fetchall()
        manager.cursor.execute("INSERT INTO session VALUES ('back', 'p', '', 'notebook', 'k')")
    assert [tuple(row) for row in kept][: len(SESSIONS)] == [
        (str(row[0]).encode(), None if row[1] is None else str(row[1]).encode()) for row in SESSIONS
    ]
    assert "back" not in {one.session_id for one in found_in(str(file))}


def test_what_was_deleted_does_not_come_back(file: Path) -> None:
    with opened(str(file)) as repository:
        found = asyncio.run(repository.find(SCOPE))
        assert asyncio.run(repository.remove(SCOPE, found)) == len(SESSIONS)
    assert found_in(str(file)) == []
    assert len(stock_table(file)) > len(SESSIONS)


def test_the_sessions_are_the_first_servers(file: Path) -> None:
    assert len(found_in(str(file))) == len(SESSIONS)
    assert found_in(str(file), OTHER) == []
    assert len(found_in(str(file))) == len(SESSIONS)


@pytest.mark.parametrize("spelling", ["{}", "sqlite:///{}"])
def test_a_file_without_sessions(tmp_path: Path, spelling: str) -> None:
    file = tmp_path / "stock.db"
    with stock_manager(file) as manager:
        assert manager.cursor is not None
    url = spelling.format(file)
    assert found_in(url) == []
    # It is done: what the stock manager writes later was made beside us, not before us.
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("INSERT INTO session VALUES ('late', 'p', '', 'notebook', 'k')")
    assert found_in(url) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_stock_file_that_a_migration_came_before(file: Path, first: bool) -> None:
    """An operator may run ``alembic upgrade head`` before the first start."""
    if first:
        with engine_of(str(file)) as engine:
            migrating.upgrade(engine)
    assert rows(found_in(str(file))) == list(SESSIONS)


def test_a_session_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "stock.db"
    with opened(str(file)) as repository:
        asyncio.run(repository.add(record("s1", "a.ipynb", kernel_id="mine")))
    with stock_manager(file) as manager:
        manager.cursor.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?)", SESSIONS)
    found = {one.session_id: one for one in found_in(str(file))}
    assert len(found) == len(SESSIONS)
    assert found["s1"].kernel_id == "mine"
    assert found["s1"].claim is not None
    assert found["s7"].claim is None


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE TABLE session (id INTEGER PRIMARY KEY, path TEXT)",
        "CREATE TABLE session (session_id, path, name, type, kernel_id, user)",
        "CREATE TABLE session (session_id, path, name, type)",
        "CREATE VIEW session AS SELECT 1 AS id",
        "CREATE VIEW session AS SELECT 's' AS session_id, 'p' AS path, 'n' AS name, 't' AS type,"
        " 'k' AS kernel_id",
        "CREATE TABLE session (session_id PRIMARY KEY, path, name, type, kernel_id) WITHOUT ROWID",
    ],
)
def test_what_is_called_session_and_is_not_the_stock_table(tmp_path: Path, definition: str) -> None:
    file = tmp_path / "theirs.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(definition)
        if "VIEW" not in definition:
            columns = definition.count(",") + 1
            values = ", ".join(["1"] * columns)
            connection.execute(f"INSERT INTO session VALUES ({values})")
        connection.commit()
        before = connection.execute("SELECT * FROM session").fetchall()
    assert found_in(str(file)) == []
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT * FROM session").fetchall() == before
        [(sql,)] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'session'")
    assert sql == definition


@pytest.mark.torture
def test_servers_that_start_together_adopt_once(file: Path, tmp_path: Path) -> None:
    number = 4
    before = stock_table(file)
    with race(tmp_path / "race", number) as racers:
        racers.start(str(file))
        assert max(racers.finish()) == len(SESSIONS) + number
        assert sum("Took over" in log for log in racers.logs()) == 1
    adopted = [one for one in found_in(str(file)) if not one.session_id.startswith("session-")]
    assert rows(adopted) == list(SESSIONS)
    assert stock_table(file) == before


def test_a_file_of_ours_alone_is_no_stock_file(tmp_path: Path) -> None:
    file = tmp_path / "ours.db"
    assert found_in(str(file)) == []
    with closing(sqlite3.connect(file)) as connection:
        names = {
            str(name)
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert names == TABLES


def test_a_crash_while_adopting_loses_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: object, **_more: object) -> None:
        raise OSError("disk full")

    before = stock_table(file)
    with monkeypatch.context() as patch:
        patch.setattr(stock, "insert", crash)
        with opened(str(file)):
            pass
    assert stock_table(file) == before
    assert rows(found_in(str(file))) == list(SESSIONS)
