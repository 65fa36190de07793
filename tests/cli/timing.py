"""Time for a command, from the test: no test waits for a lease, or is quick enough by luck."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..forking import Process
from ..system.waiting import until
from .support import configure

#: As the command's configuration: whatever it sleeps passes at once, on the clocks too.
_HURRY: Final = """
import time

slept = 0.0
monotonic, clock_gettime = time.monotonic, time.clock_gettime

def sleep(seconds):
    global slept
    slept += seconds

time.sleep = sleep
time.monotonic = lambda: monotonic() + slept
time.clock_gettime = lambda clock: clock_gettime(clock) + slept
"""
#: It waits before a statement that begins so, for the so manieth time.
_PAUSE: Final = """
import os
import select
from sqlalchemy import event
from sqlalchemy.engine import Engine

left = {number}

@event.listens_for(Engine, "before_cursor_execute")
def pause(connection, cursor, statement, *more):
    global left
    if statement.startswith({beginnings!r}):
        left -= 1
        if left == 0:
            open({reached!r}, "w").close()
            while not os.path.exists({resumed!r}):
                # Shortly, each time: a signal that comes right before a wait does not end it.
                select.select([], [], [], 0.01)
"""


def hurry(home: Path) -> None:
    """Let leases run out at once for commands in `home`: where nobody renews one meanwhile."""
    configure(home, _HURRY)


class Pause:
    """A command in `home` that waits half way, for as long as the test needs.

    Parameters
    ----------
    home : Path
    number : int
        Before which of the statements.
    *beginnings : str
        With what these begin.
    """

    def __init__(self, home: Path, number: int, *beginnings: str) -> None:
        self._reached = home / "reached"
        self._resumed = home / "resumed"
        self._reached.unlink(missing_ok=True)
        self._resumed.unlink(missing_ok=True)
        text = _PAUSE.format(
            number=number,
            beginnings=beginnings,
            reached=str(self._reached),
            resumed=str(self._resumed),
        )
        configure(home, text)

    def reached_by(self, process: Process) -> None:
        """Wait until a process waits."""
        until(lambda: self._reached.exists() or process.poll() is not None, why="it is half way")
        assert process.poll() is None, "it ended before it was half way"

    def resume(self) -> None:
        """Let it go on."""
        self._resumed.touch()
