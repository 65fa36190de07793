"""How the event loop does while the database is away and a browser polls, beside a stock server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.databases import Database
from tests.system.faults import Outage

from .databases import Databases
from .http_suites import grow, running
from .peers import OURS, STOCK, Peer
from .results import Results
from .servers import Client, JupyterServer

#: What JupyterLab asks for each 10 s, and how often it is asked for here, in seconds.
POLLS: Final = ("/api/sessions", "/api/kernels")
PAUSE: Final = 0.5
SESSIONS: Final = 10
#: For how long the databases are away, if nobody wants it shorter.
MINUTES: Final = 5.0
MEASURES: Final = {"p99.9": "99.9 of 100 gaps are at most", "longest": "the longest gap"}


def run_outage(
    peers: list[Peer],
    databases: Databases,
    directory: Path,
    results: Results,
    *,
    quick: bool,
    minutes: float,
) -> None:
    """Poll all servers at once, for as long as the databases of ours are away."""
    seconds = 3.0 if quick else minutes * 60
    results.say(f"outage: {seconds:g} s")
    with ExitStack() as stack:
        outages: list[Outage] = []
        servers = []
        for peer in peers:
            if peer.kind not in (STOCK, OURS):
                continue
            place = databases.place(peer.database)
            if peer.kind == OURS:
                sqlite = "sqlite:///" if peer.database == "sqlite" else ""
                database = Database(peer.database, f"{sqlite}{place.text}")
                outage = stack.enter_context(Outage(database))
                outages.append(outage)
                place = replace(place, text=outage.url)
            folder = directory / "outage" / f"{peer.kind}-{peer.database}"
            servers.append(JupyterServer(peer, place, folder, dummy_kernels=True, sampler=True))
        stack.enter_context(running(servers))
        clients = [server.client() for server in servers]
        for client in clients:
            stack.callback(client.close)
            grow(client, [], SESSIONS)
            # The first of each takes longer.
            for path in POLLS:
                client("GET", path)
        for outage in outages:
            stack.enter_context(outage.running())
        for client in clients:
            client("GET", "/benchmark/stall")
        _poll(servers, seconds, lambda *found: results.add("outage", *found))
        for server, client in zip(servers, clients, strict=True):
            gaps = client("GET", "/benchmark/stall")[1]
            for measure in MEASURES:
                where = (server.peer.kind, server.peer.database, measure)
                results.add("outage", *where, [gaps[measure] * 1e6])
        results.add("outage", STOCK, "sqlite", "seconds", [seconds])


def _poll(
    servers: list[JupyterServer],
    seconds: float,
    add: Callable[[str, str, str, list[float]], None],
) -> None:
    """Poll each server as a browser does, and note with which status it answers."""
    end = time.monotonic() + seconds

    def poll(client: Client, answers: Counter[int]) -> None:
        while time.monotonic() < end:
            for path in POLLS:
                status, _ = client("GET", path)
                answers[status] += 1
            time.sleep(PAUSE)
        client.close()

    counted: list[Counter[int]] = [Counter() for _ in servers]
    with ThreadPoolExecutor(len(servers)) as pool:
        polls = [
            pool.submit(poll, server.client(), answers)
            for server, answers in zip(servers, counted, strict=True)
        ]
    for server, answers, polled in zip(servers, counted, polls, strict=True):
        polled.result()
        for status, count in sorted(answers.items()):
            add(server.peer.kind, server.peer.database, f"answers {status}", [float(count)])
