"""What copy says where it cannot copy, and what it leaves behind then."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from jupyter_session_store.sql.tables import to_utc

from ..databases import Database
from .conftest import Run
from .support import (
    COMMAND,
    configure,
    environment,
    fill,
    server,
    session,
    session_store,
    shows_password,
    upgraded,
)
from .test_transfer import GOES_ON, copied
from .transfer_support import adoption, checksum, contents, counts, file_database, many, number

#: Pages of a file that has no room for what is copied: 4 KiB each.
_PAGES: Final = 400
_SMALL: Final = (
    "import sqlite3",
    "class Small(sqlite3.Connection):",
    "    def __init__(self, *words, **options):",
    "        super().__init__(*words, **options)",
    f"        self.execute('PRAGMA max_page_count={_PAGES}')",
    "c.PersistentSessionManager.engine_options = {'connect_args': {'factory': Small}}",
)
#: Runs a command that may write no file of more than so many bytes.
_LIMITED: Final = f"""if True:
    import os, resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * {_PAGES},) * 2)
    os.execv(sys.argv[1], sys.argv[1:])
"""
#: Runs a command, and writes how much memory it has had at most. Itself it has next to none,
#: which matters, since Linux counts in what a process had before it became the command.
_WEIGHED: Final = """if True:
    import os, sys
    pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(pid, 0)
    sys.stderr.write(f"peak {usage.ru_maxrss}")
    sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("how", ["no more pages", "no more bytes"])
def test_a_full_disk(run: Run, database: Database, home: Path, tmp_path: Path, how: str) -> None:
    target = file_database(tmp_path / "target.db")
    fill(database.url, many(4000))
    upgraded(target.url)
    words = ("copy", "--from", "env:SOURCE", "--to", target.url)
    if how == "no more pages":
        # Those of the configured database, and of no other driver's.
        configure(home, f"c.SessionManager.database_filepath = {target.url!r}", *_SMALL)
        done = session_store(*words, home=home, SOURCE=database.url)
        assert "database or disk is full" in done.stderr
    else:
        prefix = (sys.executable, "-c", _LIMITED)
        done = session_store(*words, home=home, prefix=prefix, SOURCE=database.url)
    assert done.returncode == 3, done.stderr
    assert f"unavailable: sqlite {tmp_path}/target.db: " in done.stderr
    assert GOES_ON in done.stderr
    assert "Traceback" not in done.stderr
    there = number(target)
    assert there < 4000
    assert there % 1000 == 0, "a batch is there as a whole, or not at all"
    assert target.rows("PRAGMA integrity_check") == [("ok",)]
    configure(home)
    found = copied(run, database, target)
    assert (found["there_already"], found["copied"]) == (there, 4000 - there)
    assert checksum(target) == checksum(database)


def test_what_is_no_other_database(run: Run, new_database: Callable[[], Database]) -> None:
    database, other = new_database(), new_database()
    fill(database.url, many(10))
    found = copied(run, database, other)
    assert found["copied"] == 10
    assert contents(other) == contents(database)
    same = f"{database.url}?connect_timeout=9"
    if database.kind == "sqlite":
        same = f"{database.url}.link"
        path = Path(database.url.removeprefix("sqlite:///"))
        path.with_name(f"{path.name}.link").symlink_to(path)
    for url in (database.url, same):
        done = run("copy", "--from", "env:A", "--to", "env:B", A=database.url, B=url)
        assert done.returncode == 2, done.stdout
        assert "lead to the same database" in done.stderr
        assert not shows_password(database, done.stdout, done.stderr)
    assert number(database) == 10


def test_a_schema_that_does_not_fit(run: Run, database: Database, tmp_path: Path) -> None:
    full, new = file_database(tmp_path / "full.db"), tmp_path / "new.db"
    fill(full.url, many(3))
    database.execute("CREATE TABLE jupyter_sessions (id INTEGER)")
    foreign = run("copy", "--from", full.url, "--to", "env:DB", DB=database.url)
    assert foreign.returncode == 4
    assert "that jupyter_session_store did not make" in foreign.stderr
    assert database.rows("SELECT * FROM jupyter_sessions") == []
    source = run("copy", "--from", "env:DB", "--to", str(new), DB=database.url)
    assert source.returncode == 4

    database.execute("DROP TABLE jupyter_sessions")
    empty = run("copy", "--from", "env:DB", "--to", str(new), DB=database.url)
    assert empty.returncode == 4
    assert "Run: jupyter session-store upgrade --url env:DB" in empty.stderr
    assert not new.exists()

    planned = run("copy", "--from", full.url, "--to", "env:DB", "--dry-run", DB=database.url)
    assert planned.returncode == 0, planned.stderr
    assert "Would copy 3 sessions and 0 servers" in planned.stdout
    assert "Would make the tables there." in planned.stdout
    assert run("current", "--json", url=database.url).stdout.count('"empty"') == 1

    upgraded(database.url)
    floor = (
        "UPDATE jupyter_session_store_meta SET value = '99' WHERE name = 'oldest_compatible_code'"
    )
    database.execute(floor)
    newer = run("copy", "--from", full.url, "--to", "env:DB", DB=database.url)
    assert newer.returncode == 4
    assert "pip install --upgrade jupyter_session_store" in newer.stderr
    assert number(database) == 0
    for done in (foreign, source, empty, planned, newer):
        assert not shows_password(database, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("--to x.db", 6, "There is no file"),
        ("--from full.db", 2, "Found no --to; expected"),
        ("--from full.db --to postgresql://jupyter:s3cr3t@127.0.0.1:1/x", 2, "env:NAME"),
        ("--from mysql://jupyter:s3cr3t@127.0.0.1:1/x --to x.db", 2, "env:NAME"),
        ("--from no-such.db --to x.db", 6, "There is no file 'no-such.db'"),
        ("--from full.db --to no/such/folder.db", 2, "is not a folder"),
        ("--from full.db --to :memory:", 2, "in the memory of a process"),
        ("--from full.db --to env:NO_SUCH", 2, "'NO_SUCH' is not set"),
        ("--from full.db --to postgresql://127.0.0.1:1/x", 3, "postgresql 127.0.0.1:1/x"),
        ("--from mysql://nobody@127.0.0.1:1/x --to x.db", 3, "mysql nobody@127.0.0.1:1/x"),
        ("--from full.db --to x.db more", 2, "Found the argument "),
        ("--from full.db --to x.db --fast", 2, "fast"),
    ],
)
def test_what_was_typed_is_wrong(run: Run, home: Path, words: str, code: int, told: str) -> None:
    fill(f"sqlite:///{home}/full.db", [session("n", 1)])
    done = run("copy", *words.split())
    output = done.stdout + done.stderr
    assert (done.returncode, told in output) == (code, True), output
    assert "s3cr3t" not in output
    assert "Traceback" not in output
    assert not (home / "x.db").exists()


def test_what_cannot_be_stored_is_named(run: Run, database: Database, tmp_path: Path) -> None:
    """Edited by hand: no server would have written it."""
    source = file_database(tmp_path / "source.db")
    fill(source.url, many(1200))
    ids = [row[1] for row in contents(source)]
    for session_id, change in {
        ids[5]: f"path = '{'x' * 4097}'",
        ids[1100]: f"name = '{'n' * 1025}'",
        ids[1101]: "type = x'ff00'",
        ids[1102]: "version = 'many'",
        ids[1103]: f"version = {2**31}",
    }.items():
        source.execute(f"UPDATE jupyter_sessions SET {change} WHERE session_id = '{session_id}'")
    before = contents(source)
    done = run("copy", "--from", source.url, "--to", "env:TO", "--json", TO=database.url)
    if database.kind == "sqlite":
        # Which keeps what it is given.
        assert counts(done)["copied"] == 1200
        assert contents(database) == before
        return
    found = counts(done, 1)
    assert (found["copied"], found["left_out"], found["missing"]) == (1195, 5, 5)
    left_out = [ids[place] for place in (5, 1100, 1101, 1102, 1103)]
    for session_id in left_out:
        assert f"Left out the session '{session_id}'" in done.stderr
    assert "Of 1200 sessions and servers, 5 are not there" in done.stderr
    assert contents(database) == [row for row in before if row[1] not in left_out]


@pytest.mark.only("mysql", reason="only MySQL and MariaDB can be set to cut off what is too long")
def test_what_is_too_long_is_never_cut_off(
    run: Run, database: Database, home: Path, tmp_path: Path
) -> None:
    source = file_database(tmp_path / "source.db")
    fill(source.url, [session("n", 1), session("n", 2, name="n" * 1025)])
    configure(
        home,
        f"c.SessionManager.database_filepath = {database.url!r}",
        "c.PersistentSessionManager.engine_options = {'connect_args': {'sql_mode': ''}}",
    )
    done = run("copy", "--from", source.url, "--to", "env:TO", "--json", TO=database.url)
    assert counts(done, 1)["left_out"] == 1
    assert [row[4] for row in contents(database)] == [""]


@pytest.mark.only("postgresql", reason="other databases have no such dates")
def test_dates_that_no_calendar_has(run: Run, database: Database, tmp_path: Path) -> None:
    fill(database.url, [session("n", number) for number in range(3)])
    database.execute(
        "UPDATE jupyter_sessions SET created_at = 'infinity' WHERE session_id = 'session-000000'"
    )
    database.execute(
        "UPDATE jupyter_sessions SET created_at = '-infinity', updated_at = '99999-1-1' "
        "WHERE session_id = 'session-000001'"
    )
    target = file_database(tmp_path / "target.db")
    assert copied(run, database, target)["copied"] == 3
    dates = [row[-3:-1] for row in contents(target)]
    assert dates[0][0] == dates[1][1] == to_utc("9999-12-29 00:00:00+00:00")
    assert dates[1][0] == to_utc("0001-01-03 00:00:00+00:00")
    assert copied(run, database, target)["different"] == 0


def test_what_was_adopted_stays_so(run: Run, database: Database, tmp_path: Path) -> None:
    source, back = (file_database(tmp_path / name) for name in ("source.db", "back.db"))
    fill(source.url, [session("n", 1)])
    mark = "INSERT INTO jupyter_session_store_meta VALUES ('stock_sessions_adopted_at', '{}')"
    source.execute(mark.format("once"))
    copied(run, source, database)
    # A database server has no table of the stock manager's.
    once = [("stock_sessions_adopted_at", "once")]
    assert adoption(database) == (once if database.kind == "sqlite" else [])
    upgraded(back.url)
    back.execute(mark.format("before"))
    copied(run, source, back)
    assert adoption(back) == [("stock_sessions_adopted_at", "before")]


@pytest.mark.timeout(900)
@pytest.mark.extended("large tables")
def test_memory_does_not_grow_with_the_table(
    new_database: Callable[[], Database], home: Path, tmp_path: Path
) -> None:
    peaks: dict[str, list[int]] = {"into": [], "out of": []}
    for size in (2000, 8000):
        source, back = (file_database(tmp_path / f"{name}-{size}.db") for name in ("from", "to"))
        database = new_database()
        fill(source.url, (one.replace(kernel_model="k" * 8192) for one in many(size)))
        for way, (here, there) in {"into": (source, database), "out of": (database, back)}.items():
            done = session_store(
                *("copy", "--from", "env:SOURCE", "--to", "env:TARGET"),
                home=home,
                prefix=(sys.executable, "-I", "-S", "-c", _WEIGHED),
                SOURCE=here.url,
                TARGET=there.url,
            )
            assert done.returncode == 0, done.stderr
            assert number(there) == size
            unit = 1 if sys.platform == "darwin" else 1024
            peaks[way].append(int(done.stderr.rpartition("peak ")[2]) * unit)
    growth = {way: large - small for way, (small, large) in peaks.items()}
    # 48 MiB more were copied.
    assert max(growth.values()) < 24 * 2**20, (growth, peaks)


def test_a_terminal_is_shown_how_far_it_is(home: Path, tmp_path: Path) -> None:
    source = file_database(tmp_path / "source.db")
    fill(source.url, many(1500), [server("n")])
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "copy", "--from", source.url, "--to", "target.db"],
        cwd=home,
        env=environment(home, TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                # How Linux says that the other side has closed it.
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        output = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert b"copied" in shown
    assert b"1500/1500" in shown
    assert b"verified" in shown
    assert "Copying 1500 sessions and 1 servers from" in output
    assert "Verified: all 1501 sessions and servers are there." in output.splitlines()


def test_its_help(run: Run) -> None:
    done = run("copy", "--help")
    assert done.returncode == 0
    for told in ("--from=", "--to=", "--dry-run", "--json", "Stop the servers", "--to env:DB_URL"):
        assert told in done.stdout
    assert "--url" not in done.stdout
