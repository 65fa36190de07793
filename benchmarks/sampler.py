"""A server extension that watches the event loop from inside."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from typing import Any

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web


class Sampler:
    """Records the gaps between two looks, a millisecond apart if nothing keeps the event loop."""

    def __init__(self) -> None:
        #: In seconds.
        self.gaps = array("d")

    async def run(self) -> None:
        """Sample until the event loop ends."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            self.gaps.append(time.perf_counter() - start)


class SamplerHandler(APIHandler):
    """Tells of the gaps since it was last asked: their number, and two of them in seconds."""

    def initialize(self, sampler: Sampler) -> None:
        """Take the sampler."""
        self.sampler = sampler

    @web.authenticated
    def get(self) -> None:
        """Answer, and begin anew."""
        gaps = sorted(self.sampler.gaps) or [0.0]
        answer = {
            "samples": len(gaps),
            "p99.9": gaps[int(len(gaps) * 0.999)],
            "longest": gaps[-1],
        }
        self.sampler.gaps = array("d")
        self.finish(json.dumps(answer))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "benchmarks.sampler"}]


def _load_jupyter_server_extension(app: Any) -> None:
    sampler = Sampler()
    url = url_path_join(app.web_app.settings["base_url"], "benchmark/stall")
    app.web_app.add_handlers(".*$", [(url, SamplerHandler, {"sampler": sampler})])
    app.io_loop.add_callback(sampler.run)
