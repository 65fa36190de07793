"""What is measured on real servers: latency, start-up, and stalls of the event loop."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .databases import Databases
from .lock import lock
from .peers import OURS, STOCK, Peer
from .results import Results
from .servers import Client, JupyterServer

SESSIONS: Final = (10, 100, 1000)
#: Seconds that the lock is held.
LOCKED: Final = 5.0


def _body(number: int) -> dict[str, Any]:
    name = f"notebook-{number}.ipynb"
    return {
        "path": f"work/{name}",
        "name": name,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }


def _servers(
    peers: list[Peer], databases: Databases, directory: Path, **settings: bool
) -> list[JupyterServer]:
    return [
        JupyterServer(
            peer,
            databases.place(peer.database),
            directory / f"{peer.kind}-{peer.database}",
            **settings,
        )
        for peer in peers
        if peer.kind in (STOCK, OURS)
    ]


@contextmanager
def running(servers: list[JupyterServer]) -> Iterator[None]:
    """Have servers run."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.stop()


def grow(client: Client, sessions: list[dict[str, Any]], count: int) -> None:
    """Create sessions until there are so many."""
    while len(sessions) < count:
        status, model = client("POST", "/api/sessions", _body(len(sessions)))
        if status != 201:
            raise RuntimeError(f"POST /api/sessions was answered {status}: {model}")
        sessions.append(model)


def run_rest(
    peers: list[Peer], databases: Databases, directory: Path, results: Results, *, quick: bool
) -> None:
    """Measure the latency of requests, over one kept-alive connection to each server."""
    rounds, count = (2, 5) if quick else (20, 10)
    order = random.Random(13)
    servers = _servers(peers, databases, directory / "rest", dummy_kernels=True)
    with running(servers):
        clients = [(server.peer, server.client(), []) for server in servers]  # type: ignore[var-annotated]
        for total in SESSIONS:
            results.say(f"rest: {total:,} sessions")
            for _, client, sessions in clients:
                grow(client, sessions, total)
                client("GET", "/api/sessions")
            for _ in range(rounds):
                order.shuffle(clients)
                for peer, client, sessions in clients:
                    session = order.choice(sessions)
                    requests: list[tuple[str, str, str, Any]] = [
                        (f"GET list of {total:,}", "GET", "/api/sessions", None)
                    ]
                    if total == SESSIONS[0]:
                        one = f"/api/sessions/{session['id']}"
                        again = _body(sessions.index(session))
                        requests += [
                            ("GET one", "GET", one, None),
                            ("POST on an existing path", "POST", "/api/sessions", again),
                        ]
                    for measure, method, url, body in requests:
                        samples = []
                        for _ in range(count):
                            status, taken = client.time(method, url, body)
                            if status >= 400:
                                raise RuntimeError(f"{method} {url} was answered {status}")
                            samples.append(taken)
                        results.add("rest", peer.kind, peer.database, measure, samples)
        for _, client, _ in clients:
            client.close()


def run_startup(
    peers: list[Peer], databases: Databases, directory: Path, results: Results, *, quick: bool
) -> None:
    """Measure the time from the start of the process to the first answer, one server at a time.

    An untimed start comes first: it makes the tables and compiles the bytecode.
    """
    servers = _servers(peers, databases, directory / "startup")
    with running(servers):
        pass
    order = random.Random(17)
    rounds = 3 if quick else 15
    for number in range(rounds):
        results.say(f"startup: round {number + 1} of {rounds}")
        order.shuffle(servers)
        for server in servers:
            try:
                elapsed, processor = server.start()
            finally:
                server.stop()
            kind, database = server.peer.kind, server.peer.database
            results.add("startup", kind, database, "to the first answer", [elapsed * 1e6])
            results.add("startup", kind, database, "processor time", [processor * 1e6])


def run_stall(
    peers: list[Peer], databases: Databases, directory: Path, results: Results, *, quick: bool
) -> None:
    """Measure the longest stall of the event loop while another process holds the lock."""
    servers = _servers(peers, databases, directory / "stall", dummy_kernels=True, sampler=True)
    for number in range(1 if quick else 3):
        results.say(f"stall: round {number + 1}")
        for server in servers:
            with running([server]):
                _stall(server, results, seconds=1.0 if quick else LOCKED)


def _stall(server: JupyterServer, results: Results, *, seconds: float) -> None:
    client = server.client()
    kind, database = server.peer.kind, server.peer.database
    sessions: list[dict[str, Any]] = []
    grow(client, sessions, 3)
    one = f"/api/sessions/{sessions[0]['id']}"
    table = "session" if kind == STOCK else "jupyter_sessions"
    polls: dict[str, tuple[str, str, Any]] = {
        "GET, not locked": ("GET", "/api/sessions", None),
        "GET, locked": ("GET", "/api/sessions", None),
        "PATCH, locked": ("PATCH", one, {"path": "work/notebook-0.ipynb"}),
    }
    for measure, request in polls.items():
        for _ in range(20):
            client(*request)
        answers: Counter[int] = Counter()
        done = threading.Event()
        thread = threading.Thread(target=_poll, args=(server.client(), request, answers, done))
        locking = None
        if not measure.endswith("not locked"):
            locking = lock(server.place, table, seconds)
        client("GET", "/benchmark/stall")
        thread.start()
        try:
            if locking is None:
                time.sleep(seconds)
            else:
                locking.wait()
        finally:
            done.set()
            thread.join()
        longest = client("GET", "/benchmark/stall")[1]["longest"]
        results.add("stall", kind, database, measure, [longest * 1e6])
        for status, count in sorted(answers.items()):
            results.add("stall", kind, database, f"{measure}: answers {status}", [float(count)])
    client.close()


def _poll(
    client: Client, request: tuple[str, str, Any], answers: Counter[int], done: threading.Event
) -> None:
    while not done.is_set():
        status, _ = client(*request)
        answers[status] += 1
        done.wait(0.05)
    client.close()
