"""What others chose does not move the terminal of who looks."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from jupyter_session_store.cli.output import Output, escape_controls
from jupyter_session_store.cli.terminal import StatusLine

from .cleaning_support import LIVING, living
from .conftest import Run
from .support import fill, on_terminal, server, session
from .timing import hurry

HARMFUL = "h\x1b]0;pwn\x07\r\u202e\x9b"
HARMLESS = r"h\x1b]0;pwn\x07\r\u202e\x9b"


def test_a_text_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert escape_controls(f"one {HARMFUL}\n\ttwo é😀") == f"one {HARMLESS}\n\ttwo é😀"
    assert escape_controls("\udce9") == r"\udce9"
    Output(False).text(HARMFUL)
    assert capsys.readouterr().out == f"{HARMLESS}\n"


def test_a_server_that_is_in_the_way(run: Run, home: Path) -> None:
    """Its id is its own choice, and a note names it."""
    file = str(home / "sessions.db")
    fill(file, [session("a", 1)])
    with living(file, "a", HARMFUL, lease=LIVING):
        done = run("purge", "a", "--yes", url=file)
    assert done.returncode == 5
    assert HARMLESS in done.stderr
    assert not set(done.stderr) & set(HARMFUL[1:2] + "\x07\r\u202e\x9b")


def test_what_cannot_be_found(run: Run, home: Path) -> None:
    file = str(home / "sessions.db")
    fill(file, [], [server("a", HARMFUL)])
    for words in (["show", HARMFUL], ["servers"], ["list", f"--state={HARMFUL}"]):
        done = run(*words, url=file)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns that has colours."""
    found = Terminal()
    # Of these modules alone: pytest has its own for each phase of a test.
    for module in ("output", "terminal"):
        streams = SimpleNamespace(stdout=found, stderr=found)
        monkeypatch.setattr(f"jupyter_session_store.cli.{module}.sys", streams)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


ID: Final = "0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55"
ROWS: Final = [
    {"namespace": "hub:ada/" * 9, "server_id": ID, "pid": 4711, "liveness": "alive"},
    {"namespace": "hub:é😀/", "server_id": ID[::-1], "pid": 1, "liveness": "gone"},
]
COLUMNS: Final = {name: name.upper() for name in ROWS[0]}


def test_a_table_breaks_no_id(terminal: Terminal) -> None:
    Output(False).rows(ROWS, COLUMNS, empty="")
    shown = re.sub(r"\x1b\[\d*m", "", terminal.getvalue())
    assert max(map(len, shown.splitlines())) <= 80
    heading, first, *_ = shown.splitlines()
    assert heading.split() == [*COLUMNS.values()]
    assert re.fullmatch(rf"hub:ada/\S+ +{ID} +4711 +alive", first)
    assert ID[::-1] in shown


def test_a_narrow_terminal_gets_blocks(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    Output(False).rows(ROWS[1:] * 2, COLUMNS, empty="")
    block = f"NAMESPACE  hub:é😀/\nSERVER_ID  {ID[::-1]}\nPID        1\nLIVENESS   gone\n"
    assert terminal.getvalue() == f"{block}\n{block}"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("", "")])
def test_where_there_are_colours(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, value)
    Output(False).rows(ROWS, COLUMNS, empty="")
    Output(False).one(ROWS[0])
    with StatusLine() as line:
        line.show("x" * 100)
    shown = terminal.getvalue()
    assert shown.count("\x1b[32malive\x1b[0m") == (0 if variable else 2)
    assert shown.count("\x1b[31mgone\x1b[0m") == (0 if variable else 1)
    if variable == "TERM":
        assert "\x1b" not in shown
    else:
        assert shown.endswith(f"\r{'x' * 79}\x1b[K\r\x1b[K")


def test_no_colours_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False).rows(ROWS, COLUMNS, empty="")
    assert "\x1b" not in capsys.readouterr().out


def test_an_encoding_without_these_characters(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "encoding", "ascii", raising=False)
    for columns in ("80", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        Output(False).rows(ROWS, COLUMNS, empty="")
    shown = terminal.getvalue()
    assert shown.isascii()
    assert r"hub:\xe9\U0001f600/" in shown


def test_servers_on_a_terminal(home: Path) -> None:
    file = str(home / "sessions.db")
    fill(file, [], [server("hub:ada/", ID)])
    hurry(home)
    code, shown = on_terminal("servers", "--observe", home=home, url=file, NO_COLOR="1")
    assert code == 0, shown
    watched, _, table = shown.rpartition("\r\x1b[K")
    assert watched.startswith("\rWatching 1 server(s) ... 90 s left\x1b[K")
    heading, row = table.splitlines()
    assert heading.split() == ["NAMESPACE", "SERVER", "PROCESS", "SESSIONS", "LIVENESS"]
    assert row.split() == ["hub:ada/", ID, "1", "0", "gone"]
    code, shown = on_terminal("servers", "--wide", home=home, url=file, columns=160, NO_COLOR="1")
    assert code == 0
    assert "HOST  PROCESS  VERSION  STARTED (UTC)        LEASE (S)" in shown


def test_check_counts_down(home: Path) -> None:
    hurry(home)
    file = str(home / "sessions.db")
    code, shown = on_terminal("check", "--wait", "9", home=home, url=file)
    assert code == 6
    first, _, rest = shown.partition("\n")
    assert first.startswith("\r\x1b[KWaiting: The database (sqlite ")
    assert re.match(r"\rWaiting ... \d s left\x1b\[K\rWaiting ... \d s left\x1b\[K", rest)
    assert shown.count("Waiting: ") == 1
    assert "\r\x1b[KThe database (sqlite " in rest
