"""Processes that race on one store, each with a repository of its own: the tests' side."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from ..databases import Database
from ..forking import start

ROOT: Final = Path(__file__).resolve().parents[2]
#: Seconds until a round begins, in which each process hears of it.
LEAD: Final = 0.02


class Process:
    """A racer.

    Parameters
    ----------
    url, name : str
    gateway : Path
        See :class:`.Racer`.
    """

    def __init__(self, url: str, name: str, gateway: Path) -> None:
        self._process = start(
            ["-m", "tests.system.racer", name, str(gateway)],
            cwd=ROOT,
            env=os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # Not an argument: it may hold a password.
        self._say(url)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, at: float, verb: str, **arguments: Any) -> None:
        """Have it do something at a moment."""
        self._say(json.dumps([at, verb, arguments]))

    def answer(self) -> Any:
        """Return what came of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "a racer ended"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@contextmanager
def racing(databases: Sequence[Database], gateway: Path) -> Iterator[list[Process]]:
    """Start a process on each of some ways to one database; the first makes the tables."""
    with ExitStack() as stack:
        racers = []
        for place, database in enumerate(databases):
            racers.append(Process(database.url, f"server-{place}", gateway))
            stack.callback(racers[-1].close)
        for racer in racers:
            assert racer.answer() == "ready"
        yield racers


def fill(racer: Process, *session_ids: str, kernel_id: str) -> None:
    for session_id in session_ids:
        racer.ask(0, "attach", session_id=session_id, kernel_id=kernel_id)
        assert racer.answer() == {"attached": True}


def race_close_and_move(
    one: Process, two: Process, turn: int, chance: random.Random, *, apart: float, seed: int
) -> str:
    """Have a session closed and moved at once; return which came first.

    Whichever comes second counts on the kernel that the first has left the session on. The two
    begin at most `apart` seconds from each other.
    """
    # Somebody stays on the kernel that it comes from, and nobody is where it goes.
    fill(one, f"a{turn}", f"b{turn}", kernel_id=f"k{turn}")
    begin = time.monotonic() + LEAD
    one.ask(begin + chance.uniform(0, apart), "close", session_id=f"a{turn}")
    two.ask(begin + chance.uniform(0, apart), "move", session_id=f"a{turn}", kernel_id=f"k{turn}")
    closed, moved = one.answer(), two.answer()
    assert moved == {"last": False}, f"seed {seed}"
    on_new: bool = closed["kernel_id"] != f"k{turn}"
    assert closed["last"] is on_new, f"{closed}, seed {seed}"
    return "move" if on_new else "delete"
