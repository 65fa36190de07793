"""Ends a server and removes its directory when whoever started it is gone.

Run as a program of its own, in a session of its own. Each line on its standard
input names the processes to end, and the signal that ends each: ``PID SIGNAL``,
one after another; an empty line says that there is none now. The end of the input,
which the system brings about however the other side ends, is the order to clean up.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _end(pid: int, sign: int) -> None:
    for attempt in (sign, signal.SIGKILL):
        if not _alive(pid):
            return
        os.kill(pid, attempt)
        for _ in range(50):
            if not _alive(pid):
                return
            time.sleep(0.1)


def main(directory: str) -> None:
    """Wait for the end of the input, then clean up."""
    order: list[int] = []
    for line in sys.stdin:
        order = [int(word) for word in line.split()]
    try:
        for pid, sign in zip(order[::2], order[1::2], strict=False):
            _end(pid, sign)
    finally:
        for _ in range(50):  # a process of the server that is still ending may add files
            shutil.rmtree(directory, ignore_errors=True)
            if not os.path.exists(directory):
                break
            time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
