"""What a real server takes: memory, threads and the processor time of its start."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from .databases import Databases
from .peers import OURS, STOCK, Peer
from .results import Results
from .servers import JupyterServer

FIRST: Final = "first start"
LATER: Final = "later start"
#: As :class:`.servers.Usage` has them: private and resident memory in MiB, processor seconds.
MEASURES: Final = ("private", "resident", "threads", "processor")


def run_memory(
    peers: list[Peer], databases: Databases, directory: Path, results: Results, *, quick: bool
) -> None:
    """Look at each server after its first ``GET /api/sessions``, one server at a time.

    A first start is on an empty database, in which ours makes its tables. An untimed start
    comes before all: it compiles the bytecode.
    """
    order = random.Random(23)
    peers = [peer for peer in peers if peer.kind in (STOCK, OURS)]
    rounds = 1 if quick else 7
    for number in range(rounds + 1):
        results.say(f"memory: round {number} of {rounds}")
        order.shuffle(peers)
        for peer in peers:
            place = databases.place(peer.database)
            folder = directory / "memory" / f"{number}-{peer.kind}-{peer.database}"
            server = JupyterServer(peer, place, folder)
            for start in (FIRST, LATER):
                try:
                    server.start()
                    client = server.client()
                    status, _ = client("GET", "/api/sessions")
                    client.close()
                    if status != 200:
                        raise RuntimeError(f"GET /api/sessions was answered {status}")
                    usage = server.usage()
                finally:
                    server.stop()
                for measure in MEASURES if number else ():
                    value = float(getattr(usage, measure))
                    results.add("memory", peer.kind, peer.database, f"{start}: {measure}", [value])
