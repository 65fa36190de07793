"""What the command says of itself, and of what was mistyped, in this process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from jupyter_session_store.cli.app import SessionStoreApp

from .in_process import run
from .support import COMMAND, PATIENCE, configure, environment

SUBCOMMANDS: Final = [*SessionStoreApp.subcommands]


@pytest.mark.parametrize("columns", ["80", "40", ""])
@pytest.mark.parametrize("name", ["", *SUBCOMMANDS])
def test_the_help(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    words = [name] if name else []
    assert run(*words, "--help") == 0
    shown = capsys.readouterr().out
    first, _, rest = shown.partition("\n\n")
    assert " ".join(first.split()).startswith(
        f"usage: {' '.join(['jupyter session-store', *words])} ["
    )
    assert "Equivalent to" not in shown
    assert "class-options" not in shown
    text, examples = rest.split("Examples:\n")
    width = int(columns or shutil.get_terminal_size().columns)
    assert [line for line in text.splitlines() if len(line) > width] == []
    # They are there to be copied.
    assert [line for line in examples.splitlines() if len(line) > 80] == []
    assert examples.strip()
    for argument in re.findall(r"\[?([A-Z]{3,}(?:\.\.\.)?)\]?", first):
        if argument not in ("OPTIONS", "SUBCOMMAND"):
            assert re.search(rf"^  {re.escape(argument)}\s+\w", text, re.M), argument
    assert run(*words, "--help-all") == 0
    more = capsys.readouterr().out
    assert {*shown.splitlines()} <= {*more.splitlines()}
    assert ("--StoreCommand.as_json=VALUE" in more) == ("--json" in shown and bool(name))


SECRET: Final = "s3cr3t"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ls", "no subcommand 'ls'; did you mean list? See: jupyter session-store --help"),
        ("upgrad", "no subcommand 'upgrad'; did you mean upgrade?"),
        ("--debgu list", "Options stand after the subcommand: jupyter session-store list [OPT"),
        ("stamp", "no subcommand 'stamp'; expected one of upgrade, downgrade, "),
        (f"mysql://u:{SECRET}@h/x", "no subcommand a URL; expected one of "),
        (
            "list --state=redy",
            "--state has a wrong value; expected one of closing, ready, starting",
        ),
        ("list --state=redy", "; did you mean ready? Nothing was changed. See: jupyter session"),
        (f"list --state {SECRET}", "one of closing, ready, starting. Nothing was changed."),
        ("list --SelectingCommand.state=x", "Error: --state has a wrong value; "),
        ("check --wait=soon", "--wait has a wrong value; expected a number. "),
        ("list --limit=-3", "--limit has a wrong value; expected a whole number of at least 0. "),
        ("check --url=env", "Found 'env'; expected env: and the name of an environment variable, "),
        ("check --url=file:", "Found 'file:'; expected env: and the name of an environment "),
        ("list --log-level=deubg", "expected one of DEBUG, INFO, WARN, ERROR, CRITICAL; did you"),
        ("list a", "Found the argument 'a'; expected none."),
        ("list a b", "Found the arguments 'a', 'b'; expected none."),
        ("purge", "Found no argument; expected NAMESPACE."),
        (f"check mysql://u:{SECRET}@h/x", "Found the argument a URL; expected none."),
    ],
)
def test_a_mistake(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words.split()) == 2
    output, told = capsys.readouterr()
    assert output == ""
    assert told.startswith("Error: ")
    assert said in told
    assert told.count("\n") == 1
    assert "CRITICAL |" not in told
    assert SECRET not in told


def test_a_wrong_value_in_a_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
    configure(home, f"c.List.state = {SECRET!r}")
    assert run("list") == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: c.List.state has a wrong value; expected one of closing, ready")
    assert SECRET not in told


def test_nobody_reads_the_help(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            [COMMAND, "list", "--help"],
            env=environment(home),
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")
