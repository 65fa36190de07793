"""Runs a command, and at its end ends all that it has started, and what that has started.

    python reaper.py COMMAND ARGUMENT...

JupyterHub starts its proxy and its servers in sessions of their own, so that they outlive a
hub that is killed. SIGTERM is passed on to the command; SIGINT, and the end of whoever started
this, end everything at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36


def _keep_orphans() -> None:
    """Become the parent of each descendant whose own parent ends, where the system can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_all() -> None:
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main(command: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parent = os.getppid()
    orders: list[int] = []
    _keep_orphans()
    for order in (signal.SIGTERM, signal.SIGINT):
        # Before the command starts, which would inherit it if a shell has SIGINT ignored.
        signal.signal(order, lambda number, _: orders.append(number))
    process = subprocess.Popen(command)
    while process.poll() is None and signal.SIGINT not in orders and os.getppid() == parent:
        if orders:
            process.send_signal(orders.pop())
        time.sleep(0.05)
    # Whoever starts new ones goes first.
    process.kill()
    code = process.wait()
    _end_all()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
