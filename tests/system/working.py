"""Users of servers, who ask again and again while a database comes and goes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from ..databases import Database
from .gateway import Gateway
from .rows import rows_of
from .server import JupyterServer
from .test_outages import Client, are_stored, sessions_are_kernels
from .waiting import until


@dataclass
class Worker(Client):
    """A user of one server, who asks again and again, and notes when there was an answer.

    Parameters
    ----------
    by : str
        How the server reaches the database.
    """

    by: str = ""
    successes: list[float] = field(default_factory=list)

    def ask(self, verb: str, send: Callable[[], httpx.Response], *expected: int) -> httpx.Response:
        answer = super().ask(verb, send, *expected)
        if answer.status_code in expected:
            self.successes.append(time.monotonic())
        return answer

    def work(self, ended: threading.Event) -> None:
        chance = random.Random(f"{self.seed}-{self.turn}")
        self.successes = [time.monotonic()]
        while not ended.is_set():
            self.step(chance)
            time.sleep(chance.uniform(0, 0.2))
        self.successes.append(time.monotonic())

    def gap(self) -> float:
        """Return the longest time in seconds between two answers."""
        return max(b - a for a, b in zip(self.successes, self.successes[1:], strict=False))

    def seconds_since(self, when: float) -> float:
        """Return how long after a time there was an answer."""
        return next(one for one in self.successes if one > when) - when

    @property
    def refused(self) -> int:
        """How many answers said that the store is away."""
        return sum(n for outcome, n in self.answers.items() if outcome.endswith(" refused"))

    @property
    def acknowledged(self) -> int:
        """How many changes were made."""
        changes = ("post 201", "rename 200", "delete 204")
        return sum(n for outcome, n in self.answers.items() if outcome in changes)


@contextmanager
def working(workers: Sequence[Worker]) -> Iterator[None]:
    """Let all of them work meanwhile."""
    ended = threading.Event()
    with ThreadPoolExecutor(len(workers)) as threads:
        done = [threads.submit(worker.work, ended) for worker in workers]
        try:
            yield
        finally:
            ended.set()
        for one in done:
            one.result()


def is_back(server: JupyterServer) -> bool:
    """Return whether a server reads and writes sessions."""
    answer = server.api.get("/api/sessions")
    if not answer.is_success or not answer.json():
        return False
    return server.patch(answer.json()[0]["id"], name="touched").is_success


def settle(workers: Mapping[str, Sequence[Worker]], gateway: Gateway, database: Database) -> None:
    """Check that nothing is missing, and wait until nothing is left over or doubled.

    The workers are those of servers with kernels of their own (``server``), and of replicas that
    use the gateway (``gateway``).
    """
    for worker in (one for some in workers.values() for one in some):
        until(lambda worker=worker: is_back(worker.server), why="it is back")  # type: ignore[misc]
        worker.check(worker.server.api.get("/api/sessions"))
    local, shared = ([one.server for one in workers[kind]] for kind in ("server", "gateway"))
    for server in local:
        until(lambda server=server: sessions_are_kernels(server), why="a kernel each")  # type: ignore[misc]
    until(lambda: _is_settled(gateway, shared), why="a session each for the gateway's kernels")
    until(lambda: are_stored([*local, *shared], database), why="each session is stored")
    rows = [(row.namespace, row.path, row.kernel_id) for row in rows_of(database)]
    assert len(set(rows)) == len(rows)


def _is_settled(gateway: Gateway, servers: Sequence[JupyterServer]) -> bool:
    """Return whether all of them list the same sessions, one for each kernel and for each path."""
    lists = [
        sorted((one["id"], one["path"], one["kernel"]["id"]) for one in server.sessions())
        for server in servers
    ]
    kernels = sorted(kernel for _, _, kernel in lists[0])
    paths = {path for _, path, _ in lists[0]}
    return (
        all(one == lists[0] for one in lists)
        and sorted(gateway.kernels()) == kernels
        and len(paths) == len(kernels)
    )
