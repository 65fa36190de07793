"""What was typed wrong changes nothing, and what cannot go on says so: no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from jupyter_session_store.cli.app import SessionStoreApp

from ..databases import Database
from ..migrations.support import without_privileges
from .cleaning_support import aged, everything
from .conftest import Run
from .support import (
    COMMAND,
    PATIENCE,
    configure,
    environment,
    fill,
    running,
    server,
    session,
    session_store,
)

SECRET: Final = "s3cr3t"
URL: Final = f"postgresql://u:{SECRET}@127.0.0.1:1/d"
#: What each subcommand needs, so that without the mistake it would go on.
WORDS: Final[dict[str, list[str]]] = {
    "downgrade": ["base", "--yes"],
    "show": ["session-000001"],
    "prune": ["--older-than=30d", "--yes", "--force"],
    "purge": ["a", "--yes", "--force"],
    "remove": ["session-000001", "--namespace=a", "--yes", "--force"],
    "rename": ["a", "c", "--yes", "--force"],
    "copy": ["--to=other.db"],
    "import": ["stock.db", "--namespace=a", "--gateway=http://gateway"],
}
#: The mistakes that each subcommand refuses.
MISTAKES: Final = [
    ["--namesapce", "a"],
    ["--namesapce=a"],
    ["--dryrun=1"],
    ["-n", "a"],
    ["-dry-run"],
    ["--Prune.namespce=a"],
    ["--prune.namespace=a"],
    ["--Namespace=a"],
    ["--PersistentSessionManager.namespace=a"],
    ["--show-config"],
    ["--show-config-json"],
    ["--Application.show_config=True"],
    ["--JupyterApp.generate_config=True"],
    ["--config=no-such.py"],
    [""],
    ["--log-level"],
    ["--log-level="],
    ["--config", ""],
    ["--debug=1"],
]


@pytest.fixture
def filled(home: Path) -> Database:
    """A file that holds something of two namespaces."""
    file = home / "sessions.db"
    fill(
        str(file),
        [session("a", 1, **aged()), session("b", 1, **aged())],
        [server("a"), server("b")],
    )
    return Database("sqlite", f"sqlite:///{file}")


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Return what was said by a run that ended with `code`."""
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_a_mistyped_option_changes_nothing(run: Run, filled: Database, name: str) -> None:
    before = everything(filled)
    for mistake in MISTAKES if name == "prune" else MISTAKES[:1]:
        said = refused(run(name, *WORDS.get(name, []), *mistake, url=filled.url))
        assert said.startswith("Error: "), said
        assert "Nothing was changed." in said
        assert everything(filled) == before
    assert "'--namesapce'" in refused(run(name, "--namesapce", "a", url=filled.url))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune", "--namesapce=a"], "no option '--namesapce' here; did you mean --namespace?"),
        (["prune", "--from=x"], "no option '--from' here; expected one that the help lists."),
        (["prune", "--dead-server"], "did you mean --dead-servers?"),
        (["copy", "--url", "x", "--to", "y"], "no option '--url' here"),
        (["copy", "--StoreCommand.url=x", "--to", "y"], "no option '--StoreCommand.url' here"),
        (["downgrade", "base", "--yes", "--dryrun=1"], "did you mean --dry-run?"),
        (["rename", "--json=1"], "Found a value for --json; expected none."),
        (["upgrade", "--sql", "--json"], "Found --sql with --json; expected one of them."),
        (["list", "--older-than", "--json"], "Found no value for --older-than"),
        (["list", "--namespace=a", "--List.namespace=b"], "Found --List.namespace twice"),
        (["list", "--url", f"mysql://u:{SECRET}@h/x", "--url", "y"], "Found --url twice"),
        (["list", f"--pasword={SECRET}"], "no option '--pasword' here"),
        (["list", "--json=no"], "Found a value for --json; expected none."),
        (["--namespace=a", "list"], "See: jupyter session-store --help"),
        (["import", "f", "--namespace=a", "--GatewayClient.ulr=http://x"], "GatewayClient.ulr"),
        (["show"], "Found neither SESSION nor an option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_said_of_it(run: Run, words: list[str], said: str) -> None:
    found = refused(run(*words))
    assert said in found
    assert SECRET not in found


def test_what_is_no_mistake(run: Run, filled: Database) -> None:
    """Settings that the command reads, in the places where traitlets takes them."""
    for words in (
        [f"--SessionManager.database_filepath={filled.url}"],
        ["--PersistentSessionManager.engine_options={}", f"--url={filled.url}"],
        [
            f"--StoreCommand.url={filled.url}",
            "--Application.log_format=%(message)s",
            "--log-level",
            "40",
        ],
    ):
        done = run("list", "--SelectingCommand.namespace", "b", "--json", *words)
        assert done.returncode == 0, done
        assert [row["namespace"] for row in json.loads(done.stdout)] == ["b"]
    done = run("import", "no-such", "--namespace=a", "--GatewayClient.url=http://x")
    assert "There is no file 'no-such'" in refused(done)


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--url="],
        ["list", "--namespace", ""],
        ["list", "--state="],
        ["list", "--List.path="],
        ["list", "--older-than="],
        ["servers", "--namespace="],
        ["show", ""],
        ["show", "--", ""],
        ["prune", "--older-than=", "--yes"],
        ["prune", "--older-than=1d", "--yes", "--namespace="],
        ["copy", "--from=", "--to=other.db"],
        ["copy", "--to="],
        ["import", "f", "--namespace=a", "--gateway="],
        ["purge", "", "--yes", "--force"],
    ],
    ids=" ".join,
)
def test_an_empty_value(run: Run, filled: Database, words: list[str]) -> None:
    before = everything(filled)
    assert " is empty; expected a value" in refused(run(*words, url=filled.url))
    assert everything(filled) == before


def test_an_empty_setting(run: Run, home: Path, filled: Database) -> None:
    configure(home, "c.Prune.namespace = ''")
    done = run("prune", "--older-than=30d", "--yes", "--force", url=filled.url)
    assert "c.Prune.namespace is empty; expected a value" in refused(done)
    assert len(everything(filled)) == 4
    # Another command's is nothing to this one.
    assert run("list", url=filled.url).returncode == 0


def test_an_empty_url(run: Run, home: Path, filled: Database) -> None:
    (home / "url").write_text("\n")
    assert "The file 'url' is empty" in refused(run("list", "--url=file:url", url=filled.url))
    for empty in ("", " "):
        done = run("list", "--url=env:DB_URL", url=filled.url, DB_URL=empty)
        assert "The environment variable 'DB_URL' is empty" in refused(done)
    done = run("copy", "--from=file:url", "--to=other.db", url=filled.url)
    assert "The file 'url' is empty" in refused(done)
    assert not (home / "other.db").exists()
    done = run("upgrade", url="")
    assert "The environment variable JUPYTER_SESSION_STORE_URL is empty" in refused(done)


def test_passwords_are_not_shown(run: Run, home: Path, filled: Database) -> None:
    configure(
        home,
        f"c.SessionManager.database_filepath = 'mysql://u:{SECRET}@127.0.0.1:1/x'",
        f"c.PersistentSessionManager.engine_options = {{'connect_args': {{'passwd': {SECRET!r}}}}}",
    )
    for words in (["--show-config"], ["--show-config-json"], ["--debug", "--url=none.db"]):
        done = run("list", *words)
        assert done.returncode != 0
        assert SECRET not in done.stdout + done.stderr
    for name in ("show_config", "show_config_json"):
        configure(
            home,
            f"c.Application.{name} = True",
            f"c.SessionManager.database_filepath = 'mysql://u:{SECRET}@127.0.0.1:1/x'",
        )
        found = refused(run("list"))
        assert "show_config is set" in found
        assert SECRET not in found


@pytest.mark.parametrize(
    "words",
    [
        ["check", URL],
        ["check", f"host=h user=u password={SECRET}"],
        ["check", "-p" + SECRET],
        ["check", "--url", f"env:{URL}"],
        ["upgrade", URL],
        ["prune", "--older-than", URL],
        ["prune", f"--older-than={URL}"],
        ["downgrade", URL, "--sql"],
        ["kernels", URL],
        [URL],
    ],
)
def test_credentials_in_a_wrong_place_are_not_repeated(run: Run, words: list[str]) -> None:
    done = run(*words, url="x.db")
    assert done.returncode != 0
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"c.SessionManager = {URL!r}", "cannot be read: ValueError (line 2). Run"),
        (f"x = int({SECRET!r})", "cannot be read: ValueError (line 2). Run"),
        (f"c.PersistentSessionManager.repository = {URL!r}", "(not shown)@127.0.0.1:1/d"),
        (
            f"c.StoreCommand.url = ({URL!r},)",
            "c.StoreCommand.url has a wrong value; expected a unicode string",
        ),
    ],
)
def test_what_a_configuration_holds_is_not_repeated(
    run: Run, home: Path, line: str, told: str
) -> None:
    configure(home, line)
    done = run("check")
    assert told in refused(done)
    assert SECRET not in done.stdout + done.stderr


def test_options_that_are_put_together_are_not_logged(run: Run, home: Path) -> None:
    """Traitlets keeps what is added to a setting as an object of its own."""
    how = f"{{'connect_args': {{'passwd': {SECRET!r}}}}}"
    configure(home, f"c.PersistentSessionManager.engine_options.update({how})")
    done = run("check", "--debug", url="x.db")
    assert "Config changed" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--namespace", "caf\udce9"],
        ["list", "--path=caf\udce9"],
        ["show", "caf\udce9"],
        ["show", "--", "caf\udce9"],
        ["purge", "caf\udce9", "--yes"],
        ["list", "--url", "caf\udce9.db"],
    ],
    ids=ascii,
)
def test_what_is_not_utf_8(run: Run, filled: Database, words: list[str]) -> None:
    assert "is not UTF-8" in refused(run(*words, url=filled.url))


@pytest.mark.parametrize("option", ["namespace", "path", "kernel", "server"])
def test_what_no_session_can_have(run: Run, filled: Database, option: str) -> None:
    assert f"Invalid {option}" in refused(run("list", f"--{option}={'x' * 5000}", url=filled.url))


def test_a_file_that_cannot_be(home: Path, run: Run) -> None:
    for words in (["list", "--url"], ["upgrade", "--url"], ["copy", "--to=x.db", "--from"]):
        found = refused(run(*words, "a" * 300))
        assert "cannot be used: OSError: File name too long" in found
    folder = home / "locked"
    folder.mkdir(mode=0)
    for name in ("check", "list"):
        words = [name, "--url", "locked/x.db"]
        done = session_store(*words, home=home, prefix=without_privileges())
        assert "'locked/x.db' cannot be used: PermissionError: " in refused(done)


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "session-000001"]])
def test_output_that_cannot_be_written(home: Path, filled: Database, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, *words],
            env=environment(home, filled.url),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr == (
        "Error: The output cannot be written: No space left on device. It is not whole.\n"
    )


@pytest.mark.parametrize(
    ("backend", "argument"), [("sqlite", "sslmode"), ("mysql", "prepare_threshold")]
)
def test_the_arguments_of_another_driver(
    run: Run, home: Path, filled: Database, backend: str, argument: str
) -> None:
    url = {"sqlite": filled.url, "mysql": "mysql://root@127.0.0.1:1/x"}[backend]
    configure(
        home, f"c.PersistentSessionManager.engine_options = {{'connect_args': {{{argument!r}: 1}}}}"
    )
    for name in ("list", "check", "current", "upgrade"):
        found = refused(run(name, "--url", url))
        assert f"engine_options cannot be used for {backend}: " in found
        assert argument in found


def closed(*words: str, stream: str, home: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run the command with one of its standard streams closed."""
    return subprocess.run(
        ["bash", "-c", f'"$0" "$@" {stream}', COMMAND, *words],
        env=environment(home, url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_streams_that_are_closed(home: Path, filled: Database) -> None:
    prune = ("prune", "--older-than=30d", "--force")
    done = closed(*prune, stream="<&-", home=home, url=filled.url)
    assert "there is no terminal to ask at; expected --yes" in refused(done)
    for stream, code in ((">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)):
        done = closed("list", stream=stream, home=home, url=filled.url)
        assert done.returncode == code
        assert done.stderr == ""
    done = closed(*prune, stream="2>&-", home=home, url=filled.url)
    assert (done.returncode, done.stdout) == (2, "")
    # None of its numbers went to the file.
    assert len(everything(filled)) == 4


def test_an_encoding_that_lacks_characters(run: Run, home: Path) -> None:
    file = str(home / "sessions.db")
    fill(file, [session("a", 1, path="😀é.ipynb")])
    for words in (["list"], ["show", "session-000001"], ["list", "--json"]):
        done = subprocess.run(
            [COMMAND, *words],
            env=environment(home, file, PYTHONIOENCODING="latin-1"),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert (rb"\ud83d\ude00" if "--json" in words else b"\\U0001f600\xe9") in done.stdout


def test_ctrl_c_while_the_configuration_is_read(home: Path, filled: Database) -> None:
    reached = home / "reached"
    os.mkfifo(reached)
    # By short waits: a signal that comes right before one does not end it.
    wait = "for _ in range(6000): time.sleep(0.01)"
    configure(home, "import time", f"open({str(reached)!r}, 'w').close()", wait)
    with running("upgrade", home=home, url=filled.url) as process:
        reached.read_text()
        process.send_signal(signal.SIGINT)
        output, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, "")
    assert told == "\nInterrupted. Nothing was changed.\n"


def test_show_by_what_is_asked_for(run: Run, filled: Database) -> None:
    def shown(*words: str) -> list[tuple[Any, Any]]:
        done = run("show", *words, "--json", url=filled.url)
        found = json.loads(done.stdout)
        assert done.returncode == (0 if found else 1)
        return [(one["namespace"], one["session_id"]) for one in found]

    both = [("a", "session-000001"), ("b", "session-000001")]
    assert shown("session-000001") == both
    assert shown("--older-than=30d") == both
    assert shown("--namespace=b") == both[1:]
    assert shown("--path=folder/1.ipynb", "--namespace=a") == both[:1]
    assert shown("--path=folder/2.ipynb") == []
    assert shown("session-000001", "--kernel=kernel-2") == []
