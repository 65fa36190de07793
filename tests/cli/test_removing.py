"""remove: one session goes, and what a living server would write back stays."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from jupyter_session_store.cli.removal import describe_api
from jupyter_session_store.records import ServerRecord

from ..databases import Database
from .cleaning_support import (
    dead,
    everything,
    living,
    local,
    name_of,
    numbers,
    remote,
    removed,
    without_delays,
)
from .conftest import Run
from .support import fill, server


@pytest.fixture
def file(home: Path) -> Database:
    """A database of one file: what it says is the same on each."""
    return Database("sqlite", f"sqlite:///{home / 'sessions.db'}")


@pytest.mark.usefixtures("hurried")
def test_exactly_the_named_ones(run: Run, database: Database) -> None:
    fill(
        database.url,
        [
            local("a", 1, "dead"),
            remote("a", 2, "dead"),
            remote("a", 3, "nobody"),
            local("b", 4, "nobody"),
            local("b", 5, "nobody"),
            remote("c", 5, "nobody"),
        ],
        [dead("a", "dead"), dead("b", "dead")],
    )
    before = everything(database)
    ids = ("session-000001", "session-000004", "session-000004", "no-such", "SESSION-000002")
    planned = run("remove", *ids, "--dry-run", url=database.url)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == (
        "Would remove 2 session(s) of 2 namespace(s) and 1 server(s) from "
        f"{name_of(database.url)}. Nothing was changed.\n"
    )
    # The one that no registered server answers for is not waited for.
    assert without_delays(planned.stderr) == (
        "There is no session 'no-such', 'SESSION-000002'.\nWatching 1 server(s) for up to 3 s.\n"
    )
    assert everything(database) == before
    done = run("remove", *ids, "--yes", "--json", url=database.url)
    assert done.returncode == 0, done.stderr
    assert removed(done.stdout) == {"removed": 2, "namespaces": 2, "evicted": 1}
    assert numbers(database) == [2, 3, 5, 5]

    doubled = run("remove", "session-000005", "session-000002", "--yes", url=database.url)
    assert doubled.returncode == 2, doubled.stdout
    assert "'session-000005' is in 2 namespaces ('b', 'c'); expected --namespace" in doubled.stderr
    assert numbers(database) == [2, 3, 5, 5]
    chosen = run("remove", "session-000005", "--namespace=c", "--yes", url=database.url)
    assert chosen.returncode == 0, chosen.stderr
    assert database.rows("SELECT namespace FROM jupyter_sessions ORDER BY namespace")[-1] == ("b",)
    nothing = run("remove", "session-000002", "--namespace=A", "--yes", url=database.url)
    assert nothing.returncode == 0
    assert "There is no session 'session-000002' in the namespace 'A'." in nothing.stderr
    assert nothing.stdout.startswith("Removed 0 session(s) ")


def test_what_a_server_would_write_back_stays(run: Run, file: Database) -> None:
    fill(
        file.url,
        [
            local("hub:ada/my%20gpu", 1, "lives"),
            remote("hub:ada/my%20gpu", 2, "lives"),
            remote("hub:bob/", 3, "nobody"),
        ],
    )
    ids = [f"session-00000{number}" for number in (1, 2, 3)]
    with living(file.url, "hub:ada/my%20gpu", "lives") as process:
        done = run("remove", *ids, "--yes", "--json", url=file.url)
        assert done.returncode == 5, done.stderr
        assert removed(done.stdout) == {"removed": 1, "namespaces": 1, "evicted": 0}
        assert json.loads(done.stdout)["refused"] == ids[:2]
        for session_id in ids[:2]:
            assert f"The session {session_id!r} stays: The server lives (process {process.pid}" in (
                done.stderr
            )
            path = f"DELETE /user/ada/my%20gpu/api/sessions/{session_id} at the address of the hub"
            assert path in done.stderr
        forced = run("remove", *ids, "--yes", "--force", "--json", url=file.url)
        assert forced.returncode == 5, forced.stderr
        assert json.loads(forced.stdout)["refused"] == ids[:1]
        assert "--force" not in forced.stderr
        assert numbers(file) == [1]


def test_more_ids_than_a_statement_takes(run: Run, file: Database) -> None:
    count = 1000
    fill(file.url, (local("user", number, "nobody") for number in range(count)))
    ids = [f"session-{number:06}" for number in range(count)]
    done = run("remove", *ids, "--yes", "--json", url=file.url)
    assert done.returncode == 0, done.stderr
    assert removed(done.stdout)["removed"] == count


def test_the_address_of_a_server_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    here = ServerRecord(**server("dir:/home/ada", hostname=socket.gethostname(), pid=4711))
    file = tmp_path / "jpserver-4711.json"
    unknown = "DELETE api/sessions/a%2Fb at its address, which `jupyter server list` shows on "
    assert unknown in describe_api(here, "a/b")
    said = {"pid": 4711, "url": "http://u:s3cr3t@127.0.0.1:8888/base/?token=s3cr3t"}
    file.write_text(json.dumps({**said, "token": "s3cr3t"}))
    file.chmod(0o600)
    shown = "its API: DELETE http://127.0.0.1:8888/base/api/sessions/a%2Fb."
    assert describe_api(here, "a/b") == shown
    for text in ("no JSON", "[]", json.dumps({**said, "pid": 1}), json.dumps({"pid": 4711})):
        file.write_text(text)
        assert unknown in describe_api(here, "a/b")
    elsewhere = ServerRecord(**server("dir:/home/ada", hostname="elsewhere", pid=4711))
    assert unknown + "elsewhere" in describe_api(elsewhere, "a/b")
