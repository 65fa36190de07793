"""A server extension that watches the event loop from inside, where no other wait hides a stall.

A thread beside it goes on while the event loop waits, and stands still only if the whole process
does: what a busy machine takes from both is no stall of the loop.

A server of a test gets its text as a module of its own: see :func:`.faults.ticking`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any, Final

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

#: Where it tells, below the base URL.
PATH: Final = "/test/ticks"
_SECONDS: Final = 0.005


class Ticks:
    """Sleeps again and again, and records the longest time between two wakings."""

    def __init__(self) -> None:
        self._last = self._last_beside = time.monotonic()
        self._longest = self._longest_beside = 0.0
        self._number = 0
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Tick until the event loop ends."""
        self._last = self._last_beside = time.monotonic()
        threading.Thread(target=self._run_beside, daemon=True).start()
        while True:
            await asyncio.sleep(_SECONDS)
            self._look()
            self._number += 1

    def _run_beside(self) -> None:
        while True:
            time.sleep(_SECONDS)
            now = time.monotonic()
            self._longest_beside = max(self._longest_beside, now - self._last_beside)
            self._last_beside = now

    def _look(self) -> None:
        now = time.monotonic()
        stood_still = max(self._longest_beside, now - self._last_beside)
        self._longest = max(self._longest, now - self._last - stood_still)
        self._longest_beside = 0.0
        self._last = now

    def take(self) -> dict[str, float]:
        """Return the longest gap in seconds and the number of ticks, and begin anew."""
        # A handler may be the first to run after a stall.
        self._look()
        taken = {"longest": self._longest, "ticks": self._number}
        self._longest, self._number = 0.0, 0
        return taken


class TicksHandler(APIHandler):
    """Tells what :meth:`Ticks.take` returns."""

    def initialize(self, ticks: Ticks) -> None:
        """Take the counter."""
        self.ticks = ticks

    @web.authenticated
    def get(self) -> None:
        """Answer, and begin anew."""
        self.finish(json.dumps(self.ticks.take()))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(app: Any) -> None:
    ticks = Ticks()
    url = url_path_join(app.web_app.settings["base_url"], PATH)
    app.web_app.add_handlers(".*$", [(url, TicksHandler, {"ticks": ticks})])

    def begin() -> None:
        ticks.task = asyncio.ensure_future(ticks.run())

    app.io_loop.add_callback(begin)
