"""What others chose does not move the terminal of who looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_session_store.cli.output import Output, escape_controls

from .cleaning_support import LIVING, living
from .conftest import Run
from .support import fill, server, session

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
    assert done.returncode == 1
    assert HARMLESS in done.stderr
    assert not set(done.stderr) & set(HARMFUL[1:2] + "\x07\r\u202e\x9b")


def test_what_cannot_be_found(run: Run, home: Path) -> None:
    file = str(home / "sessions.db")
    fill(file, [], [server("a", HARMFUL)])
    for words in (["show", HARMFUL], ["servers"], ["list", f"--state={HARMFUL}"]):
        done = run(*words, url=file)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr
