"""namespaces, stats and list: what there is, who answers for it, and what may have been meant."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.cli import stats
from jupyter_session_store.cli.attendance import Attendance
from jupyter_session_store.records import CLOSING, ServerRecord
from jupyter_session_store.sql.admin import summaries

from ..databases import Database
from .cleaning_support import aged, living, local, name_of, remote
from .conftest import Run
from .support import fill, server, session

_START: Final = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def file(home: Path) -> Database:
    """A database of one file: what it says is the same on each."""
    return Database("sqlite", f"sqlite:///{home / 'sessions.db'}")


def test_stats_has_words_for_each_kind_of_kernel() -> None:
    assert tuple(stats._KINDS) == summaries.KINDS


def test_namespaces_and_stats(run: Run, database: Database) -> None:
    fill(
        database.url,
        [
            local("hub:ada/", 1, "server-1"),
            remote("hub:ada/", 2, "server-1", state=CLOSING, **aged()),
            remote("hub:ada/gpu", 3, "server-1"),
            session("Hub:ada/", 4, authority="a stranger", state="odd"),
        ],
        [server("hub:ada/"), server("hub:ada/", "server-2"), server("hub:bob/")],
    )
    done = run("namespaces", "--json", url=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    found = {one.pop("namespace"): one for one in json.loads(done.stdout)}
    assert list(found) == ["Hub:ada/", "hub:ada/", "hub:ada/gpu", "hub:bob/"]
    numbers = [(one["sessions"], one["servers"]) for one in found.values()]
    assert numbers == [(1, 0), (2, 2), (1, 0), (0, 1)]
    [(newest,)] = database.rows(
        "SELECT updated_at FROM jupyter_sessions WHERE session_id = 'session-000001'"
    )
    assert found["hub:ada/"]["changed_at"][:16] == str(newest)[:16].replace(" ", "T")
    assert found["hub:bob/"]["changed_at"] is None
    done = run("namespaces", "--user", "ada", url=database.url)
    lines = [line.split("\t")[:3] for line in done.stdout.splitlines()]
    assert lines == [
        ["NAMESPACE", "SESSIONS", "SERVERS"],
        ["hub:ada/", "2", "2"],
        ["hub:ada/gpu", "1", "0"],
    ]

    done = run("stats", "--json", url=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "database": name_of(database.url),
        "namespaces": 4,
        "servers": 3,
        "sessions": 4,
        "by_state": {"closing": 1, "odd": 1, "ready": 2, "starting": 0},
        "by_kernel": {"server": 1, "gateway": 2, "unknown": 1},
    }
    shown = run("stats", url=database.url).stdout.splitlines()
    assert [line.split()[-1] for line in shown[1:4]] == ["4", "3", "4"]


def test_who_answers_for_a_session() -> None:
    def registered(namespace: str, server_id: str, days: int) -> ServerRecord:
        started = _START + timedelta(days=days)
        return ServerRecord(**server(namespace, server_id, started_at=started))

    servers = [registered("a", "1", 0), registered("a", "2", 9), registered("b", "3", 1)]
    changes: dict[tuple[str, str | None], datetime] = {
        (namespace, server_id): _START + timedelta(days=days)
        for namespace, server_id, days in (("a", "1", 5), ("a", "2", 5), ("c", "4", 3))
    }
    attendance = Attendance(servers, {("a", "1"): "gone", ("a", "2"): "alive"}, changes)

    def of(record: Any) -> tuple[str, int | None]:
        value, seen = attendance.of(record)
        return value, None if seen is None else (seen - _START).days

    assert of(local("a", 1, "1")) == ("gone", 5)
    assert of(local("a", 2, "2")) == ("alive", 9)
    # Another server's kernel is no business of those that are registered.
    assert of(local("a", 3, "nobody")) == ("gone", None)
    assert of(remote("a", 4, "1")) == ("alive", 9)
    assert of(local("b", 5, "3")) == ("unknown", 1)
    assert of(remote("b", 6, "nobody")) == ("unknown", 1)
    assert of(remote("c", 7, "4")) == ("gone", 3)
    assert of(local("c", 8, "4")) == ("gone", 3)
    assert of(remote("d", 9, "4")) == ("gone", None)
    assert of(session("a", 10, authority="a stranger")) == ("unknown", None)


def test_a_list_shows_whose_server_is_alive(run: Run, file: Database) -> None:
    fill(file.url, [local("a", 1, "lives"), remote("a", 2, "gone"), local("b", 3, "lives")])

    def listed(*words: str) -> dict[int, str]:
        done = run("list", "--json", *words, url=file.url)
        assert done.returncode == 0, done.stderr
        return {int(one["session_id"][-6:]): one["liveness"] for one in json.loads(done.stdout)}

    with living(file.url, "a", "lives"):
        assert listed() == {1: "unknown", 2: "unknown", 3: "gone"}
        assert listed("--observe") == {1: "alive", 2: "alive", 3: "gone"}
        assert listed("--limit=1", "--prefix=a") == {1: "unknown"}


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["list", "--namespace", "ada"], "'hub:ada/' or 'hub:ada/gpu' or 'dir:/ada'"),
        (["list", "--namespace", "HUB:ADA/"], "'hub:ada/' or 'hub:ada/gpu'"),
        (["list", "--namespace", " hub:bob/ "], "'hub:bob/'"),
        (["list", "--user", "bbo"], "'hub:bob/'"),
        (["list", "--prefix", "hub:bob//"], "'hub:bob/'"),
        (["namespaces", "--namespace", "dir:/elsewhere"], None),
        (["purge", "hub:boob/", "--yes"], "'hub:bob/'"),
        (["rename", "hub:boob/", "new", "--yes"], "'hub:bob/'"),
        (["prune", "--older-than=1d", "--namespace", "bob", "--yes"], "'hub:bob/'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_may_have_been_meant(
    run: Run, file: Database, words: list[str], near: str | None
) -> None:
    names = ("hub:ada/", "hub:ada/gpu", "dir:/ada", "hub:bob/")
    fill(file.url, (local(name, place, "gone") for place, name in enumerate(names)))
    done = run(*words, url=file.url)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()[0]
    assert told.startswith("There is nothing of ")
    assert told.partition("Did you mean ")[2] == (f"{near}?" if near else "")
    # What is there, though none of it is chosen, is no mistake.
    assert run("list", "--user=ada", "--state=closing", url=file.url).stderr == ""


@pytest.mark.parametrize("limit", ["-1", "many"])
def test_a_limit_that_is_none(run: Run, file: Database, limit: str) -> None:
    fill(file.url)
    done = run("list", f"--limit={limit}", url=file.url)
    assert done.returncode == 2
    assert "--limit has a wrong value; expected " in done.stderr
