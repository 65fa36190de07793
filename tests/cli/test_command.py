"""What all subcommands share, and the ones that only look: list, show, servers, current."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.cli.app import SessionStoreApp
from jupyter_session_store.records import CLOSING, SessionRecord

from ..databases import Database
from ..migrations.support import without_privileges
from .cleaning_support import DEAD, living, without_delays
from .conftest import Run
from .support import (
    COMMAND,
    configure,
    environment,
    fill,
    on_terminal,
    running,
    server,
    session,
    session_store,
    shows_password,
    upgraded,
)
from .timing import hurry

SECRET: Final = "s3cr3t"
#: The subcommands that look into a database and change nothing.
LOOKING: Final = {
    "current": 6,
    "check": 6,
    "doctor": 6,
    "list": 6,
    "show": 6,
    "servers": 6,
}
#: More of them than a pipe holds.
MANY: Final = 5000


@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_help(run: Run, name: str) -> None:
    """It imports nothing that takes long, whatever the clock of a busy machine says."""
    done = run(name, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    knows_a_database = re.search(r"^  --(url|to)=", done.stdout, re.M) is not None
    assert knows_a_database == (name != "kernels")
    assert re.search(rf"^Examples:\n  jupyter session-store {name}\b", done.stdout, re.M)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "traitlets" in imported
    assert not imported & {"sqlalchemy", "jupyter_server", "alembic", "rich"}


def test_help_of_the_command_as_jupyter_finds_it(home: Path) -> None:
    jupyter = Path(COMMAND).with_name("jupyter")
    done = subprocess.run(
        [jupyter, "session-store", "--help"],
        env=environment(home, PYTHONPROFILEIMPORTTIME="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Exit codes: 0 done" in done.stdout
    for name, (_, text) in SessionStoreApp.subcommands.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.M)
    assert not re.search(r"\| +(sqlalchemy|jupyter_server|alembic)$", done.stderr, re.M)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one of"),
        (["no-such"], "There is no subcommand 'no-such'; expected one of upgrade, downgrade"),
        (["list", "--no-such"], "--no-such"),
        (["list", "--no-such=1"], "--no-such"),
        (["list", "--state=no-such"], "state"),
        (["list", "--older-than=3x"], "--older-than is '3x'; expected a number and a unit"),
        (["list", "extra"], "Found the argument 'extra'; expected none."),
        (["purge"], "Found no argument; expected NAMESPACE."),
        (["show", "one", "two"], "expected SESSION."),
        (["list", "--url=env:NOT_SET"], "The environment variable 'NOT_SET' is not set"),
        (["list", "--url=file:not-there"], "The file 'not-there' cannot be read"),
        (["list", "--url=nosuch://host/x"], "nosuch"),
        (["list", "--url=:memory:"], "in the memory of a process"),
        (["list", "--url=/no/such/folder/x.db"], "'/no/such/folder', which is not a folder"),
        (["doctor", "--url=:memory:"], "in the memory of a process"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(run: Run, words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    if words:
        assert said in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("list", f"postgresql://jupyter:{SECRET}@127.0.0.1:1/x"),
        ("doctor", f"mysql://jupyter@127.0.0.1:1/x?password={SECRET}"),
        ("upgrade", f"mysql+pymysql://jupyter:{SECRET}@127.0.0.1:1/x"),
    ],
    ids=lambda value: value.partition(":")[0],
)
def test_a_password_in_an_argument_is_refused(run: Run, name: str, url: str) -> None:
    done = run(name, "--url", url)
    assert done.returncode == 2
    assert "expected env:NAME" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "postgresql") for name in LOOKING), ("list", "mysql")]
)
def test_an_unreachable_database(run: Run, name: str, backend: str) -> None:
    url = f"{backend}://jupyter:{SECRET}@127.0.0.1:1/x"
    done = run(name, *(["x"] if name == "show" else []), url=url)
    assert done.returncode == 3
    assert f"{backend} jupyter@127.0.0.1:1/x" in done.stdout + done.stderr
    assert "refused" in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_where_the_database_comes_from(run: Run, home: Path) -> None:
    """The option beats the configuration, which beats the environment."""
    names = ("argument", "variable", "file", "configured", "environment")
    paths = {name: str(home / f"{name}.db") for name in names}
    for name, path in paths.items():
        fill(path, [session(name, 1)])
    (home / "a url").write_text(f"sqlite:///{paths['file']}\n")

    def namespace(*words: str) -> str:
        done = run("list", "--json", *words, url=paths["environment"], DB_URL=paths["variable"])
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        return str(row["namespace"])

    assert namespace() == "environment"
    configure(home, f"c.SessionManager.database_filepath = {paths['configured']!r}")
    assert namespace() == "configured"
    assert namespace("--url", paths["argument"]) == "argument"
    assert namespace("--url=env:DB_URL") == "variable"
    assert namespace("--url", "file:a url") == "file"
    other = home / "other.py"
    other.write_text(f"c.PersistentSessionManager.database_filepath = {paths['argument']!r}")
    assert namespace("--config", str(other)) == "argument"


def test_a_configuration_that_fails(run: Run, home: Path) -> None:
    configure(home, f"secret = {SECRET!r}", "raise LookupError('it is not there')")
    done = run("list")
    assert done.returncode == 2
    assert "cannot be read: LookupError: it is not there" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    configure(home, "c.SessionManager.database_filepath = 'x.db", "def")
    done = run("list")
    assert done.returncode == 2
    assert "cannot be read: SyntaxError: " in done.stderr
    assert "Traceback" not in done.stderr


def test_another_repository(run: Run, home: Path) -> None:
    configure(home, "c.PersistentSessionManager.repository = 'memory'")
    done = run("list")
    assert done.returncode == 2
    assert "which the repository 'memory' (memory of this process) does not tell" in done.stderr
    upgraded(str(home / "x.db"))
    assert run("list", "--url", "x.db").returncode == 0


@pytest.mark.parametrize("name", LOOKING)
def test_a_file_is_not_made_by_looking(run: Run, home: Path, name: str) -> None:
    file = home / "sessions.db"
    done = run(name, *(["x"] if name == "show" else []), url=str(file))
    assert done.returncode == LOOKING[name]
    assert "jupyter session-store upgrade" in done.stdout + done.stderr
    assert not file.exists()


@pytest.mark.parametrize("name", LOOKING)
def test_the_advice_names_the_database_that_is_meant(run: Run, home: Path, name: str) -> None:
    file = str(home / "not there.db")
    done = run(name, *(["x"] if name == "show" else []), "--url", file)
    assert done.returncode == LOOKING[name]
    assert f"jupyter session-store upgrade --url '{file}'" in done.stdout + done.stderr


@pytest.mark.parametrize("name", LOOKING)
def test_tables_of_another(run: Run, home: Path, name: str) -> None:
    file = home / "sessions.db"
    Database("sqlite", f"sqlite:///{file}").execute("CREATE TABLE jupyter_sessions (id INTEGER)")
    done = run(name, *(["x"] if name == "show" else []), url=str(file))
    assert done.returncode == {"current": 0, "doctor": 1}.get(name, 4)
    if name == "current":
        assert "foreign" in done.stdout
    else:
        assert "did not make" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["list", "doctor", "upgrade"])
def test_a_file_that_may_not_be_written(home: Path, name: str) -> None:
    file = home / "sessions.db"
    upgraded(str(file))
    file.chmod(0o400)
    done = session_store(name, home=home, url=str(file), prefix=without_privileges())
    assert done.returncode == 2
    assert f"'{file}', which this user may not read and write. Change its mode" in done.stderr
    file.chmod(0o600)
    home.chmod(0o500)
    done = session_store(name, home=home, url=str(file), prefix=without_privileges())
    home.chmod(0o700)
    assert done.returncode == 2
    assert f"'{home}', where this user may not write" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with many sessions."""
    file = tmp_path_factory.mktemp("many") / "sessions.db"
    fill(str(file), (session(f"namespace-{n % 10}", n) for n in range(MANY)))
    return str(file)


def test_who_reads_has_read_enough(home: Path, many: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{COMMAND}" list | head -n 2; echo "${{PIPESTATUS[0]}}"'],
        env=environment(home, many),
        capture_output=True,
        text=True,
        check=True,
    )
    heading, first, code = done.stdout.splitlines()
    assert heading.startswith("NAMESPACE\tPATH\t")
    assert first.startswith("namespace-0\t")
    assert code == "141"
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["list"], ["list", "--json"]], ids=" ".join)
def test_ctrl_c(home: Path, many: str, words: list[str]) -> None:
    with running(*words, home=home, url=many) as process:
        assert process.stdout is not None
        # The rest does not fit into the pipe: it is in the middle of it.
        assert process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=100)
    assert process.returncode == 130
    assert told == "\nInterrupted. Nothing was changed.\n"


def test_every_row_comes_once(run: Run, many: str) -> None:
    """More than are read at once."""
    done = run("list", url=many)
    ids = [line.split("\t")[5] for line in done.stdout.splitlines()[1:]]
    assert len(ids) == len(set(ids)) == MANY
    assert json.loads(run("list", "--json", url=many).stdout)[-1]["session_id"] == ids[-1]


def test_what_a_path_can_hold_is_shown_harmlessly(run: Run, home: Path) -> None:
    file = str(home / "sessions.db")
    path = "[bold red]x[/] \x1b[31m\x07\r\t\u202eb\u0085.ipynb"
    fill(file, [session("[link=http://x]ns", 1, path=path)])
    code, shown = on_terminal("list", home=home, url=file, columns=250, NO_COLOR="1")
    assert code == 0
    for harmful in ("\x1b[31m", "\x07", "\u202e", "\u0085", "\r"):
        assert harmful not in shown
    harmless = r"[bold red]x[/] \x1b[31m\x07\r\t\u202eb\x85.ipynb"
    assert harmless in shown
    assert "[link=http://x]ns" in shown
    done = run("list", url=file)
    assert done.stdout.splitlines()[1].split("\t")[:2] == ["[link=http://x]ns", harmless]
    assert harmless in run("show", "session-000001", url=file).stdout
    # A program gets it as it is.
    assert json.loads(run("list", "--json", url=file).stdout)[0]["path"] == path


def test_a_terminal_is_told_that_there_is_nothing(home: Path) -> None:
    file = str(home / "sessions.db")
    upgraded(file)
    assert on_terminal("list", home=home, url=file) == (0, "No sessions.\n")
    assert on_terminal("servers", home=home, url=file) == (0, "No servers.\n")


def old(days: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(days=days)


#: Three sessions, each of which differs from the others in everything that one can ask for.
SESSIONS: Final = [
    session("hub:alice/", 1, updated_at=old(0)),
    session("hub:alice/ ", 2, updated_at=old(2), server_id="server-2", state=CLOSING, claim=None),
    session(
        "Hub:Alice/", 3, updated_at=old(40), path="Ünïcode 😀.ipynb", server_id=None, kernel_id=None
    ),
]


def row(record: SessionRecord) -> dict[str, Any]:
    """Return what JSON shows of a session."""
    return {
        **record._asdict(),
        "kernel_model": json.loads(record.kernel_model or "null"),
        "created_at": record.created_at.isoformat(),
        "updated_at": record.updated_at.isoformat(),
    }


def test_list_and_show(database: Database, run: Run) -> None:
    fill(database.url, SESSIONS)
    by_namespace = sorted(SESSIONS, key=lambda record: record.namespace)
    # No server is registered; of one it is known when it changed a session last.
    seen = {"session-000001": row(SESSIONS[0])["updated_at"]}
    done = run("list", "--json", url=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    listed = [
        {**row(one), "liveness": "gone", "server_seen_at": seen.get(one.session_id)}
        for one in by_namespace
    ]
    assert json.loads(done.stdout) == listed

    # The first and the second namespace differ in a space, the third in letters' case.
    done = run("list", "--json", "--namespace", "hub:alice/", url=database.url)
    assert json.loads(done.stdout) == [listed[1]]
    done = run("list", "--older-than=30d", url=database.url)
    heading, line = done.stdout.splitlines()
    assert heading == ("NAMESPACE\tPATH\tSTATE\tKERNEL\tCHANGED (UTC)\tSESSION\tSERVER\tSEEN (UTC)")
    changed = f"{SESSIONS[2].updated_at:%Y-%m-%d %H:%M:%S}"
    assert line == f"Hub:Alice/\tÜnïcode 😀.ipynb\tready\t-\t{changed}\tsession-000003\tgone\t-"

    done = run("show", "session-000003", "--json", url=database.url)
    assert (done.returncode, json.loads(done.stdout)) == (0, [row(SESSIONS[2])])
    done = run("show", "session-000003", "--namespace=hub:alice/", url=database.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no such session.\n"
    done = run("show", "no-such", url=database.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no session of the id 'no-such'.\n"


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--namespace=hub:alice/ "], [2]),
        (["--path", "Ünïcode 😀.ipynb"], [3]),
        (["--path", "ünïcode 😀.ipynb"], []),
        (["--kernel=kernel-2"], [2]),
        (["--server=server-1"], [1]),
        (["--state=ready"], [3, 1]),
        (["--state=ready", "--older-than=1h"], [3]),
        (["--older-than=2w"], [3]),
        (["--older-than=86400s"], [3, 2]),
        (["--older-than=99999w"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_which_sessions(run: Run, home: Path, words: list[str], numbers: list[int]) -> None:
    file = str(home / "sessions.db")
    fill(file, SESSIONS)
    done = run("list", "--json", *words, url=file)
    found = [int(row["session_id"][-6:]) for row in json.loads(done.stdout)]
    assert (done.returncode, found) == (0, numbers)


def test_one_id_in_two_namespaces(run: Run, home: Path) -> None:
    """Both are shown, and a program reads each."""
    file = str(home / "sessions.db")
    fill(file, [session("a", 1), session("b", 1)])
    done = run("show", "session-000001", url=file)
    assert re.findall(r"^namespace +(\w)$", done.stdout, re.M) == ["a", "b"]
    done = run("show", "session-000001", "--json", url=file)
    assert [one["namespace"] for one in json.loads(done.stdout)] == ["a", "b"]


def test_servers_and_current(database: Database, run: Run) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
    servers = [server("a", started_at=started), server("b", "server-2", hostname=None)]
    fill(database.url, [session("a", n) for n in range(3)], servers)
    done = run("servers", "--json", "--namespace=a", url=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"sessions": 3, "liveness": "unknown", "started_at": started.isoformat()}
    assert json.loads(done.stdout) == [{**servers[0], **expected}]
    done = run("servers", url=database.url)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["NAMESPACE", "SERVER", "HOST"]
    assert [line[:3] for line in lines[1:]] == [["a", "server-1", "host"], ["b", "server-2", "-"]]
    assert [line[-2:] for line in lines[1:]] == [["3", "unknown"], ["0", "unknown"]]

    done = run("current", "--json", url=database.url)
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"], found["usable"]) == (0, "current", True)
    assert not shows_password(database, done.stdout)


def test_who_is_alive_is_seen(database: Database, run: Run, home: Path) -> None:
    fill(database.url, [], [server("a", "dead", lease_seconds=DEAD)])

    def liveness() -> dict[str, str]:
        done = run("servers", "--observe", "--json", url=database.url)
        assert done.returncode == 0, done.stderr
        told = without_delays(done.stderr)
        assert re.fullmatch(r"Watching \d server\(s\) for up to \d+ s\.\n", told)
        return {one["server_id"]: one["liveness"] for one in json.loads(done.stdout)}

    with living(database.url, "b", "living") as process:
        assert liveness() == {"dead": "gone", "living": "alive"}
        process.kill()
        process.wait()
        hurry(home)
        assert liveness() == {"dead": "gone", "living": "gone"}
    # It only looks.
    assert len(database.rows("SELECT * FROM jupyter_servers")) == 2
