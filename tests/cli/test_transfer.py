"""copy, as an operator runs it: what goes in comes out, once, however often it is cut off."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.records import CLOSING, STARTING, SessionRecord
from jupyter_session_store.sql.admin.bulk_insert import NAMES

from ..databases import Database, Instance
from ..forking import Process
from .conftest import Run
from .support import (
    PATIENCE,
    configure,
    fill,
    running,
    server,
    session,
    shows_password,
    upgraded,
)
from .timing import Pause
from .transfer_support import (
    ADDING,
    checksum,
    contents,
    counts,
    file_database,
    many,
    number,
    servers,
)

CLAIM: Final = NAMES.index("claim")
GOES_ON: Final = "run the same command again to go on"

_UTC: Final = timezone.utc
#: What a database or a driver might change.
_AWKWARD: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("bob", {}),
    ("bob ", {}),
    ("Bob", {}),
    ("b\N{LATIN SMALL LETTER O WITH DIAERESIS}b", {}),
    ("bo\N{COMBINING DIAERESIS}b", {}),
    ("\N{PARTY POPPER}" * 255, {"session_id": "\N{PARTY POPPER}" * 255}),
    ("n", {"session_id": "a"}),
    ("n", {"session_id": "A"}),
    ("n", {"session_id": "a "}),
    ("n", {"session_id": " a"}),
    ("n", {"path": "\N{PARTY POPPER}" * 4096}),
    ("n", {"name": "n" * 1024, "type": "t" * 255}),
    ("n", {"kernel_model": '{"x": "' + "\N{PARTY POPPER}\\" * 8000 + '"}'}),
    ("n", {"name": "tab\tline\nreturn\rback\\slash\\N\\.quote'\"%s%%?:x{}$1"}),
    ("n", {"name": "\\N", "type": "\\."}),
    ("n", {"name": "", "path": "", "type": "", "kernel_name": ""}),
    ("n", {"name": "\N{REPLACEMENT CHARACTER}\x7f\x01\u2028"}),
    (
        "n",
        {
            **dict.fromkeys(("path", "name", "type", "kernel_id", "kernel_name")),
            **dict.fromkeys(("kernel_model", "server_id", "claim")),
        },
    ),
    ("n", {"version": 2**31 - 1}),
    ("n", {"state": STARTING, "kernel_id": None}),
    ("n", {"state": CLOSING, "authority": "gateway:http://gw:80"}),
    ("n", {"created_at": datetime(1, 1, 3, tzinfo=_UTC)}),
    ("n", {"created_at": datetime(1970, 1, 1, tzinfo=_UTC)}),
    ("n", {"created_at": datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=_UTC)}),
    ("n", {"updated_at": datetime(9999, 12, 29, tzinfo=_UTC)}),
)
AWKWARD: Final[tuple[SessionRecord, ...]] = tuple(
    session(namespace, index, **changes) for index, (namespace, changes) in enumerate(_AWKWARD)
)


def copied(run: Run, source: Database, target: Database, *words: str, code: int = 0) -> Any:
    """Copy, and return what was counted."""
    arguments = ("copy", "--from", "env:SOURCE", "--to", "env:TARGET", "--json", *words)
    return counts(run(*arguments, SOURCE=source.url, TARGET=target.url), code)


def test_there_and_back_exactly(run: Run, database: Database, tmp_path: Path) -> None:
    source, back = (file_database(tmp_path / name) for name in ("source.db", "back.db"))
    fill(source.url, AWKWARD, [server("n"), server("N", "s ", hostname="\N{PARTY POPPER}")])
    found = copied(run, source, database)
    assert found["read"] == found["copied"] == len(AWKWARD)
    assert found["servers_read"] == found["servers_copied"] == 2
    assert found["verified"] == len(AWKWARD) + 2
    assert found["missing"] == found["left_out"] == found["without_claim"] == 0
    assert contents(database) == contents(source)
    assert servers(database) == servers(source)
    copied(run, database, back)
    assert contents(back) == contents(source)
    assert servers(back) == servers(source)
    # As the servers write it: the text itself, too.
    dates = "SELECT session_id, created_at, updated_at FROM jupyter_sessions ORDER BY 1, 2"
    assert back.rows(dates) == source.rows(dates)


def test_again_and_again(run: Run, database: Database, tmp_path: Path) -> None:
    source = file_database(tmp_path / "source.db")
    fill(source.url, many(1500), [server("n")])
    copied(run, source, database)
    before = contents(database)
    again = copied(run, source, database)
    assert (again["read"], again["copied"], again["there_already"]) == (1500, 0, 1500)
    assert (again["different"], again["servers_there_already"]) == (0, 1)
    assert contents(database) == before

    # The servers go on, here and there.
    database.execute("UPDATE jupyter_sessions SET name = 'moved' WHERE session_id LIKE '0%'")
    database.execute("UPDATE jupyter_servers SET renewals = renewals + 1")
    moved = int(database.rows("SELECT count(*) FROM jupyter_sessions WHERE name = 'moved'")[0][0])
    before = contents(database)
    fill(source.url, [session("hub:new/", 1)], [server("n", "new")])
    planned = copied(run, source, database, "--dry-run")
    assert contents(database) == before
    found = copied(run, source, database)
    assert planned == {
        **{name: value for name, value in found.items() if name not in ("verified", "missing")},
        "dry_run": True,
    }
    assert (found["copied"], found["there_already"], found["different"]) == (1, 1500, moved)
    assert (found["servers_copied"], found["servers_different"]) == (1, 1)
    assert [row for row in contents(database) if row[0] != "hub:new/"] == before


def test_what_servers_have_written_stays(run: Run, database: Database, tmp_path: Path) -> None:
    """One by one, in the middle of batches that otherwise are as they were read."""
    source = file_database(tmp_path / "source.db")
    sessions = sorted(many(5000), key=lambda one: (one.namespace, one.session_id))
    known = [sessions[place] for place in (1001, 1999, 2000, 2500, 4999)]
    held = [sessions[place] for place in (1500, 2501, 2502, 4000)]
    fill(source.url, sessions)
    mine = [one.replace(name="mine") for one in known]
    mine += [one.replace(session_id=f"mine-{one.session_id}") for one in held]
    fill(database.url, mine)
    before = contents(database)
    found = copied(run, source, database)
    assert found["copied"] == len(sessions) - len(known)
    assert (found["there_already"], found["different"]) == (len(known), len(known))
    assert found["without_claim"] == len(held)
    after = contents(database)
    assert set(before) <= set(after)
    unclaimed = {one.session_id for one in held}
    claims = {
        (row[0], row[1]): None if row[1] in unclaimed else row[CLAIM] for row in contents(source)
    }
    copies = [row for row in after if row not in set(before)]
    assert {(row[0], row[1]): row[CLAIM] for row in copies}.items() <= claims.items()
    assert len(after) == len(sessions) + len(held)


def cut_off(
    cut: Callable[[Process], None],
    source: Database,
    target: Database,
    home: Path,
    *,
    batch: int = 3,
    resumes: bool = False,
) -> tuple[int, str]:
    """Copy, and cut it off before a batch; return its code and its errors."""
    words = ("copy", "--from", "env:SOURCE", "--to", "env:TARGET")
    pause = Pause(home, batch, *ADDING)
    with running(*words, home=home, SOURCE=source.url, TARGET=target.url) as process:
        pause.reached_by(process)
        cut(process)
        if resumes:
            pause.resume()
        _, errors = process.communicate(timeout=PATIENCE)
    configure(home)
    return process.wait(), errors


@pytest.mark.torture
def test_cut_off_half_way_it_goes_on(
    run: Run, database: Database, home: Path, tmp_path: Path, rounds: Callable[[int], int]
) -> None:
    total = max(rounds(100_000), 10_000)
    source = file_database(tmp_path / "source.db")
    fill(source.url, many(total), [server("n")])
    upgraded(database.url)
    code, errors = cut_off(lambda copy: copy.send_signal(signal.SIGINT), source, database, home)
    assert code == 130, errors
    assert "Interrupted." in errors
    assert GOES_ON in errors
    assert "Traceback" not in errors
    interrupted = number(database)
    # The batches that are there are not added again.
    code, _ = cut_off(lambda copy: copy.kill(), source, database, home, batch=4)
    assert code == -signal.SIGKILL
    killed = number(database)
    assert 0 < interrupted < killed < total
    found = copied(run, source, database)
    assert found["there_already"] == killed
    assert found["copied"] == total - killed
    assert found["verified"] == total + 1
    assert number(database) == total
    assert checksum(database) == checksum(source)
    print(
        f"{total} sessions: interrupted at {interrupted}, killed at {killed}; then every row once, "
        "checksums equal."
    )


@pytest.mark.torture
@pytest.mark.only("postgresql", "mysql", reason="SQLite has no server that could go away")
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_server_goes_away(
    run: Run,
    own_server: Instance,
    home: Path,
    tmp_path: Path,
    which: str,
    rounds: Callable[[int], int],
) -> None:
    total = max(rounds(50_000), 10_000)
    file, database = file_database(tmp_path / "file.db"), own_server.create_database()
    source, target = (database, file) if which == "source" else (file, database)
    fill(source.url, many(total))
    upgraded(target.url)

    def cut(_process: object) -> None:
        own_server.kill()

    code, errors = cut_off(cut, source, target, home, resumes=True)
    own_server.start()
    assert code == 3, errors
    assert f"The session store is unavailable: {own_server.kind} " in errors
    assert GOES_ON in errors
    assert "Traceback" not in errors
    assert not shows_password(database, errors)
    there = number(target)
    assert 0 < there < total
    found = copied(run, source, target)
    assert (found["there_already"], found["copied"]) == (there, total - there)
    assert checksum(target) == checksum(source)
