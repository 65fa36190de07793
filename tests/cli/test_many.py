"""Many namespaces at once: chosen by a user or a prefix, watched once, and said of each."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from jupyter_session_store.cli import removal
from jupyter_session_store.cli.purge import Purge
from jupyter_session_store.config.namespaces import hub_namespace
from jupyter_session_store.sql.admin import listing, summaries

from ..databases import Database
from ..migrations.support import engine_of
from . import in_process
from .cleaning_support import (
    asked,
    dead,
    everything,
    living,
    local,
    name_of,
    remote,
    removed,
    without_delays,
)
from .conftest import Run
from .support import fill, running
from .timing import Pause

#: Longer than a namespace can be, so that its own is a digest.
LONG: str = "x" * 300


@pytest.fixture
def file(home: Path) -> Database:
    """A database of one file: what it says is the same on each."""
    return Database("sqlite", f"sqlite:///{home / 'sessions.db'}")


def names_of(database: Database) -> list[str]:
    """Return the namespaces of the sessions that are there."""
    return [name for (name,) in database.rows("SELECT DISTINCT namespace FROM jupyter_sessions")]


def test_a_prefix_is_compared_exactly(database: Database) -> None:
    """Whatever its last character: the range that it is has an end."""
    names = ["a", "a/", "a/b", "a0", "A/", "a%", "\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff", "é/x"]
    names += ["a\U0010ffff", "a\U0010ffffz", "b"]
    fill(
        database.url,
        (local(name, number, "gone") for number, name in enumerate(names)),
        (dead(name, "gone") for name in names),
    )
    with engine_of(database.url) as engine, engine.connect() as connection:
        for prefix in (*names, "é", "a\U0010ffff\U0010ffff", "_"):
            expected = sorted(name for name in names if name.startswith(prefix))
            criteria = listing.Criteria(prefix=prefix)
            assert [one.namespace for one in listing.sessions(connection, criteria)] == expected
            servers = listing.servers(connection, prefix=prefix)
            assert [one.namespace for one in servers] == expected
            found = summaries.namespaces(connection, criteria)
            assert [(one.namespace, one.sessions, one.servers) for one in found] == [
                (name, 1, 1) for name in expected
            ]
            assert [name for name in sorted(names) if criteria.covers(name)] == expected


@pytest.mark.usefixtures("hurried")
def test_a_hundred_are_watched_at_once(run: Run, file: Database) -> None:
    count = 100
    names = [hub_namespace(f"student {number}") for number in range(count)]
    fill(
        file.url,
        [
            *(local(name, number, "dead") for number, name in enumerate(names)),
            local(hub_namespace("student 1", "gpu"), 1000, "dead"),
            local("hub:student/", 1001, "dead"),
        ],
        (dead(name, "dead") for name in names),
    )
    users = "\n".join(f"student {number} " for number in range(count))
    done = run("purge", "--users", "-", "--yes", "--json", answer=f"{users}\n\n", url=file.url)
    assert done.returncode == 0, done.stderr
    assert removed(done.stdout) == {"removed": 101, "namespaces": 101, "evicted": 100}
    assert without_delays(done.stderr) == f"Watching {count} server(s) for up to 3 s.\n"
    assert names_of(file) == ["hub:student/"]


def test_nobody_is_named(run: Run, file: Database) -> None:
    done = run("purge", "--users", "-", "--yes", answer="\n", url=file.url)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Standard input names nobody; expected a user on each ")


def test_those_that_are_used_stay_and_the_others_go(run: Run, home: Path, file: Database) -> None:
    (home / "leavers.txt").write_text(f"ada\n{LONG}\nnobody\nno one\nbob\n")
    fill(
        file.url,
        [
            local("hub:ada/", 1, "gone"),
            remote("hub:ada/gpu", 2, "gone"),
            local("hub:adam/", 3, "gone"),
            local("Hub:ada/", 4, "gone"),
            local(hub_namespace(LONG), 5, "gone"),
            local("hub:bob/", 6, "lives"),
        ],
    )
    with living(file.url, "hub:bob/", "lives"):
        purge = ("purge", "--users", "leavers.txt")
        planned = run(*purge, "--dry-run", url=file.url)
        assert planned.returncode == 5, planned.stderr
        assert planned.stdout == (
            "Would remove 3 session(s) of 3 namespace(s) and 0 server(s) from "
            f"{name_of(file.url)}. Nothing was changed.\n"
        )
        assert (
            "There is nothing of the namespaces 'hub:nobody/', 'hub:no%20one/'." in planned.stderr
        )
        assert "of the namespace 'hub:bob/' is alive: stop it first." in planned.stderr
        assert "DELETE /user/bob/api/sessions/ID at the address of the hub." in planned.stderr
        listed = run(*purge, "--dry-run", "--json", url=file.url)
        assert len(json.loads(listed.stdout)) == 3
        done = run(*purge, "--yes", "--json", url=file.url)
        assert done.returncode == 5, done.stderr
        assert removed(done.stdout) == {"removed": 3, "namespaces": 3, "evicted": 0}
        assert json.loads(done.stdout)["refused"] == ["hub:bob/"]
        assert names_of(file) == ["Hub:ada/", "hub:adam/", "hub:bob/"]


def test_what_force_is_for(run: Run, file: Database) -> None:
    """What a server that lives uses on a gateway, whichever command it is; nobody is watched."""
    fill(file.url, (remote("hub:ada/", number, "lives") for number in range(4)))
    with living(file.url, "hub:ada/", "lives"):
        for words in (["remove", "session-000000"], ["purge", "--user", "ada"]):
            refused = run(*words, "--yes", url=file.url)
            assert refused.returncode == 5, refused.stderr
            assert "--force" in refused.stderr
            forced = run(*words, "--yes", "--force", "--json", url=file.url)
            assert forced.returncode == 0, forced.stderr
            assert "Watching" not in forced.stderr
        assert names_of(file) == []


def test_users_are_renamed_with_all_their_servers(run: Run, home: Path, file: Database) -> None:
    fill(
        file.url,
        [
            remote("hub:ada/", 1, "gone"),
            remote("hub:ada/my%20gpu", 2, "gone"),
            remote("hub:adam/", 3, "gone"),
        ],
    )
    before = everything(file)
    rename = ("rename", "--user", "ada", "--new-user", "ada lovelace")
    code, output = asked(*rename, answer="n", home=home, url=file.url)
    assert code == 1, output
    assert (
        "Rename 2 namespace(s) ('hub:ada/ -> hub:ada%20lovelace/', "
        "'hub:ada/my%20gpu -> hub:ada%20lovelace/my%20gpu') with 2 session(s) and 0 server(s) in "
        f"{name_of(file.url)}? [y/N] Nothing was changed.\n"
    ) in output
    assert everything(file) == before
    done = run(*rename, "--yes", url=file.url)
    assert done.returncode == 0, done.stderr
    assert names_of(file) == ["hub:ada%20lovelace/", "hub:ada%20lovelace/my%20gpu", "hub:adam/"]
    done = run("rename", "--prefix=hub:", "--new-prefix=lab:", "--yes", "--json", url=file.url)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["sessions"], found["renamed"]["hub:adam/"]["to"]) == (3, "lab:adam/")
    assert names_of(file) == ["lab:ada%20lovelace/", "lab:ada%20lovelace/my%20gpu", "lab:adam/"]
    # A namespace that has been renamed would be renamed again.
    chained = run("rename", "--prefix=lab:adam", "--new-prefix=lab:adam/", "--yes", url=file.url)
    assert chained.returncode == 0, chained.stderr
    assert names_of(file)[-1] == "lab:adam//"
    too_long = run("rename", "--prefix=lab:", f"--new-prefix={LONG}", "--yes", url=file.url)
    assert too_long.returncode == 2
    assert "Invalid namespace" in too_long.stderr
    assert names_of(file)[-1] == "lab:adam//"


@pytest.mark.parametrize("number", [2, 4])
def test_ctrl_c_says_which_are_renamed(home: Path, file: Database, number: int) -> None:
    """Of each namespace, two statements change sessions."""
    names = ("a", "b", "c")
    fill(file.url, [remote(name, place, "gone") for place, name in enumerate(names)])
    pause = Pause(home, number, "UPDATE jupyter_sessions")
    pairs = [word for name in names for word in (name, f"new {name}")]
    with running("rename", *pairs, "--yes", home=home, url=file.url) as process:
        pause.reached_by(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    whole = number // 2 - 1
    assert errors.endswith(
        f"Interrupted. {whole} namespace(s) are renamed, and {names[whole]!r} is whole, or not at "
        "all: look with `jupyter session-store namespaces`.\n"
    )
    assert "Traceback" not in errors
    assert names_of(file) == [*names[whole:], *(f"new {name}" for name in names[:whole])]


def test_ctrl_c_amid_a_purge_of_many(home: Path, run: Run, file: Database) -> None:
    names = [f"user {number}" for number in range(5)]
    fill(file.url, [remote(name, number, "gone") for number, name in enumerate(names)])
    pause = Pause(home, 3, "DELETE FROM jupyter_sessions")
    with running("purge", *names, "--yes", home=home, url=file.url) as process:
        pause.reached_by(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline().startswith("Stopping after this batch.")
        pause.resume()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert "3 session(s) of 3 namespace(s) and 0 server(s) are removed." in errors
    assert "Interrupted. To go on, run it again." in errors
    assert names_of(file) == names[3:]


def test_ctrl_c_after_a_purge(
    home: Path, file: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it looks for what came back, which comes before it says what it has removed."""
    fill(file.url, [remote("user", 1, "gone")])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Purge, "_returned", interrupt)
    assert in_process.run("purge", "user", "--yes", "--url", file.url) == 130
    told = "1 session(s) of 1 namespace(s) and 0 server(s) are removed."
    assert capsys.readouterr().err.endswith(f"\nInterrupted. {told}\n")
    assert names_of(file) == []


def test_ctrl_c_where_nobody_reads_stops_after_the_batch() -> None:
    """It has ended the `tee` behind the command."""

    def note(_: str) -> None:
        raise BrokenPipeError

    with removal._stop_after_batch(note) as stopped:
        signal.raise_signal(signal.SIGINT)
        assert stopped.is_set()
