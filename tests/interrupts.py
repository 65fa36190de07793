"""What the tests start heeds Ctrl-C, however the tests were started."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and whoever is started
    # by such a process ignores it too. Where there is a handler, it gets the default: Ctrl-C
    # ends the commands of the tests, and goes on to be nothing to the tests themselves.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
