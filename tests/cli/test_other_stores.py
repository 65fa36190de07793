"""What the command does where a repository is configured that is none for databases."""

from __future__ import annotations

import fcntl
import json
from functools import partial
from pathlib import Path

import pytest

from jupyter_session_store.cli.command import ExitCode
from jupyter_session_store.records import ServerRecord, SessionRecord

from .conftest import Run
from .support import configure, fill, server, session

PLUGIN = Path(__file__).parents[1] / "distribution" / "plugin"
SESSIONS = [session("hub:ada/", 1), session("hub:ada/", 2), session("hub:bob/", 3)]


@pytest.fixture
def file(home: Path) -> Path:
    """The file of the JSON plugin, which is configured."""
    file = home / "sessions.json"
    configure(
        home,
        "c.PersistentSessionManager.repository = 'jsonfile'",
        f"c.SessionManager.database_filepath = 'jsonfile://{file}'",
    )
    servers = [ServerRecord(**server("hub:ada/")), ServerRecord(**server("hub:bob/"))]
    contents = {
        "sessions": [one.to_dict() for one in SESSIONS],
        "servers": [one.to_dict() for one in servers],
    }
    file.write_text(json.dumps(contents))
    return file


@pytest.fixture
def ask(run: Run, home: Path) -> Run:
    """A function that runs the command where the plugin is installed."""
    installed = home / "installed"
    names = installed / "jss_jsonfile-1.0.dist-info" / "entry_points.txt"
    names.parent.mkdir(parents=True)
    names.with_name("METADATA").write_text(
        "Metadata-Version: 2.1\nName: jss-jsonfile\nVersion: 1\n"
    )
    names.write_text(
        "[jupyter_session_store.repositories]\njsonfile = jss_jsonfile:JSONFileSessionRepository\n"
    )
    (installed / "jss_jsonfile.py").write_bytes((PLUGIN / "jss_jsonfile.py").read_bytes())

    return partial(run, PYTHONPATH=str(installed))


def test_what_only_reads_reads_a_plugins_store(ask: Run, file: Path) -> None:
    before = file.read_text()
    listed = json.loads(ask("list", "--json").stdout)
    assert [one["session_id"] for one in listed] == [one.session_id for one in SESSIONS]
    one = ask("list", "--namespace", "hub:bob/")
    assert (one.returncode, one.stdout.count("hub:")) == (0, 1)
    assert SESSIONS[2].session_id in one.stdout
    [shown] = json.loads(ask("show", SESSIONS[1].session_id, "--json").stdout)
    assert SessionRecord.from_dict({**shown, "kernel_model": None}) == SESSIONS[1].replace(
        kernel_model=None
    )
    assert ask("show", "nobody").returncode == ExitCode.NO
    servers = json.loads(ask("servers", "--json").stdout)
    assert [(one["namespace"], one["sessions"]) for one in servers] == [
        ("hub:ada/", 2),
        ("hub:bob/", 1),
    ]
    namespaces = json.loads(ask("namespaces", "--json").stdout)
    assert [(one["namespace"], one["sessions"]) for one in namespaces] == [
        ("hub:ada/", 2),
        ("hub:bob/", 1),
    ]
    stats = json.loads(ask("stats", "--json").stdout)
    assert (stats["sessions"], stats["database"]) == (3, f"JSON file {str(file)!r}")
    # Nobody was registered, and nothing changed.
    assert file.read_text() == before


@pytest.mark.parametrize(
    "words",
    [("prune", "--older-than", "30d", "--dry-run"), ("upgrade",), ("doctor",), ("current",)],
    ids=" ".join,
)
def test_what_is_for_databases_says_what_the_store_is(
    ask: Run, file: Path, words: tuple[str, ...]
) -> None:
    done = ask(*words)
    assert (done.returncode, done.stdout) == (ExitCode.WRONG_USAGE, "")
    told = " ".join(done.stderr.split())
    assert f"jupyter session-store {words[0]} is for databases" in told
    assert f"the repository 'jsonfile' (JSON file {str(file)!r})" in told
    assert "list, show, servers" in told
    assert "--url" in told


def test_leases_are_not_watched_in_it(ask: Run, file: Path) -> None:
    done = ask("servers", "--observe")
    assert done.returncode == ExitCode.WRONG_USAGE
    assert "--observe" in done.stderr
    assert "'jsonfile'" in done.stderr


def test_a_store_that_is_away_is_unavailable(ask: Run, file: Path) -> None:
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = ask("list")
    assert (done.returncode, done.stdout) == (ExitCode.UNAVAILABLE, "")
    assert "The session store is unavailable" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_tells_nothing_is_named(run: Run, home: Path) -> None:
    configure(home, "c.PersistentSessionManager.repository = 'memory'")
    done = run("list")
    assert (done.returncode, done.stdout) == (ExitCode.WRONG_USAGE, "")
    assert "the repository 'memory' (memory of this process)" in " ".join(done.stderr.split())


def test_a_database_may_be_named_instead(ask: Run, home: Path, file: Path) -> None:
    url = f"sqlite:///{home}/beside.db"
    fill(url, [session("beside", 9)])
    done = ask("list", "--url", url)
    assert done.returncode == 0
    assert "beside" in done.stdout
    assert "hub:" not in done.stdout
