"""A server extension that watches the event loop from inside."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web


class Sampler:
    """Records the longest gap between two sleeps of a millisecond."""

    longest = 0.0
    samples = 0

    async def run(self) -> None:
        """Sample until the event loop ends."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - start)
            self.samples += 1


class SamplerHandler(APIHandler):
    """Tells the longest gap in seconds since it was last asked."""

    def initialize(self, sampler: Sampler) -> None:
        """Take the sampler."""
        self.sampler = sampler

    @web.authenticated
    def get(self) -> None:
        """Answer, and begin anew."""
        answer = {"longest": self.sampler.longest, "samples": self.sampler.samples}
        self.sampler.longest, self.sampler.samples = 0.0, 0
        self.finish(json.dumps(answer))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "benchmarks.sampler"}]


def _load_jupyter_server_extension(app: Any) -> None:
    sampler = Sampler()
    url = url_path_join(app.web_app.settings["base_url"], "benchmark/stall")
    app.web_app.add_handlers(".*$", [(url, SamplerHandler, {"sampler": sampler})])
    app.io_loop.add_callback(sampler.run)
