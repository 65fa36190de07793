"""What the tests start heeds Ctrl-C and a hang-up, however the tests were started."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and nohup with SIGHUP,
    # and whoever is started by such a process ignores them too. Where there is a handler, it gets
    # the default: they end what the tests start, and go on to be nothing to the tests themselves.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
