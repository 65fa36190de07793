"""What each operation of the manager costs, and how that grows with the table."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from .databases import Databases
from .peers import NAMESPACE_ROWS, Bench, Peer
from .results import Results
from .worker import Worker

OPERATIONS: Final = ("exists", "get", "create", "update", "delete", "list")
LISTS: Final = (10, 100, 1000)
GROWTH: Final = (10, 100, 1000, 10_000, 100_000)

#: Seconds that a peer may spend on one operation in one round, once it was sampled.
_BUDGET: Final = 0.25


async def _sample(
    count: int, operation: Callable[[], Awaitable[object]], into: list[float]
) -> None:
    began = time.perf_counter()
    for _ in range(count):
        start = time.perf_counter_ns()
        await operation()
        end = time.perf_counter_ns()
        into.append((end - start) / 1000)
        if time.perf_counter() - began > _BUDGET:
            break


async def _measure(bench: Bench, count: int, only_list: bool = False) -> dict[str, list[float]]:
    """Return microseconds by operation. The table is left as large as it was."""
    samples: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    manager = bench.manager
    made: list[str] = []
    serial = 0

    async def create() -> None:
        nonlocal serial
        serial += 1
        model = await manager.create_session(
            path=f"work/new-{serial}.ipynb",
            name=f"new-{serial}.ipynb",
            type="notebook",
            kernel_name="python3",
        )
        made.append(model["id"])

    async def update() -> None:
        nonlocal serial
        serial += 1
        await manager.update_session(
            made[serial % len(made)],
            path=f"work/renamed-{serial}.ipynb",
            name=f"renamed-{serial}.ipynb",
        )

    await _sample(count, manager.list_sessions, samples["list"])
    if only_list:
        return samples
    await _sample(count, lambda: manager.session_exists(path=bench.pick()[1]), samples["exists"])
    await _sample(count, lambda: manager.get_session(session_id=bench.pick()[0]), samples["get"])
    await _sample(count, create, samples["create"])
    await _sample(count, update, samples["update"])
    await _sample(len(made), lambda: manager.delete_session(made.pop()), samples["delete"])
    for session_id in made:
        await manager.delete_session(session_id)
    return samples


async def _rounds(
    benches: list[Bench],
    rounds: int,
    count: int,
    record: Callable[[Bench, str, list[float]], None],
    *,
    only_list: bool = False,
) -> None:
    """Measure the peers in turn, each round in another order, so that drift cancels."""
    order = random.Random(11)
    gc.collect()
    gc.freeze()
    for bench in benches:
        await _measure(bench, 2, only_list)
    for _ in range(rounds):
        order.shuffle(benches)
        for bench in benches:
            for name, samples in (await _measure(bench, count, only_list)).items():
                if samples:
                    record(bench, name, samples)
    gc.unfreeze()


async def run_operations(
    peers: list[Peer], databases: Databases, results: Results, *, quick: bool
) -> None:
    """Measure each operation at ten rows, and lists of 10, 100 and 1,000."""
    rounds, count = (3, 5) if quick else (25, 10)
    for rows in LISTS:
        results.say(f"operations: {rows:,} sessions")
        benches = [peer.open(databases.place(peer.database)) for peer in peers]
        try:
            for bench in benches:
                await bench.fill(rows, own=rows)

            def record(bench: Bench, name: str, samples: list[float]) -> None:
                name = f"list of {bench.rows:,}" if name == "list" else name
                peer = bench.peer
                results.add("operations", peer.kind, peer.database, name, samples)

            await _rounds(benches, rounds, count, record, only_list=rows != LISTS[0])
        finally:
            for bench in benches:
                bench.close()
    worker = Worker()
    hops: list[float] = []
    for _ in range(rounds):
        await _sample(count * 5, lambda: worker.run(lambda: None), hops)
    worker.close()
    results.add("operations", "hop", "none", "thread hop", hops)


async def run_growth(
    peers: list[Peer], databases: Databases, results: Results, *, quick: bool
) -> None:
    """Measure each operation on tables of 10 to 100,000 rows, all sizes in each round."""
    rounds, count = (2, 3) if quick else (15, 6)
    benches: list[Bench] = []
    try:
        for rows in GROWTH[: 3 if quick else None]:
            results.say(f"growth: filling tables with {rows:,} rows")
            for peer in peers:
                bench = peer.open(databases.place(peer.database))
                benches.append(bench)
                await bench.fill(rows, own=min(rows, NAMESPACE_ROWS))
        results.say("growth: measuring")

        def record(bench: Bench, name: str, samples: list[float]) -> None:
            peer = bench.peer
            results.add("growth", peer.kind, peer.database, name, samples, rows=bench.rows)

        await _rounds(benches, rounds, count, record)
    finally:
        for bench in benches:
            bench.close()
