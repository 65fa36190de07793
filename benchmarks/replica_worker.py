"""Many servers in one process, each as a session manager uses its repository.

Reads a :class:`Task` from its input as JSON (the URL holds a password, which argv
would show), opens the servers, says "ready", reads when to begin, and prints what it
measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import sys
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from jupyter_session_store.records import Scope, ServerRecord, SessionRecord
from jupyter_session_store.servers.heartbeat import RENEWALS_A_LEASE, Heartbeat, this_server
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository

#: Seconds of each server's lease, which is the package's default.
LEASE: Final = 90
#: Seconds from one list of a server to its next.
EVERY: Final = 10.0

_OPEN_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class Task:
    """Which servers to be: of each its namespace, its authority and its id."""

    url: str
    servers: list[tuple[str, str, str]]
    #: Rows that each list returns.
    rows: int
    seed: int


@dataclass(frozen=True)
class Times:
    """When to begin, on the monotonic clock, and for how many seconds."""

    start: float
    warm_up: float
    measured: float


@dataclass
class Measured:
    """What was seen, each with the moment at which it began: seconds, and texts of errors."""

    lists: list[tuple[float, float]] = field(default_factory=list)
    #: How long after its time each list was asked for.
    late: list[tuple[float, float]] = field(default_factory=list)
    renewals: list[tuple[float, float]] = field(default_factory=list)
    errors: list[tuple[float, str]] = field(default_factory=list)


class _Log(logging.Handler):
    """Takes warnings for errors, and evictions too: nobody is dead."""

    def __init__(self, measured: Measured) -> None:
        super().__init__(logging.INFO)
        self._measured = measured

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING or text.startswith("Evicted"):
            self._measured.errors.append((time.monotonic(), text))


class _Repository(SQLAlchemySessionRepository):
    """The real one, which notes how long each renewal took."""

    def __init__(self, url: str, log: logging.Logger, measured: Measured) -> None:
        super().__init__(url, options={}, auto_upgrade="never", log=log)
        self._measured = measured

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        began = time.monotonic()
        try:
            return super().renew(server, held, timeout=timeout)
        except Exception as error:
            self._measured.errors.append((began, f"renew: {error}"))
            raise
        finally:
            self._measured.renewals.append((began, time.monotonic() - began))


class _Server:
    """One server: its repository and its heartbeat, as a session manager opens them."""

    def __init__(
        self, url: str, scope: Scope, server_id: str, log: logging.Logger, measured: Measured
    ) -> None:
        self.scope = scope
        self.asking = False
        self.last = False
        self.repository = _Repository(url, log, measured)
        server = this_server(scope.namespace, server_id, LEASE)
        self.heartbeat = Heartbeat(
            self.repository, scope, server, local_sessions=self.held, on_renewed=self.after, log=log
        )
        self.repository.open(scope, server, timeout=_OPEN_TIMEOUT)
        self.heartbeat.start()

    def held(self) -> list[SessionRecord]:
        """Return nothing: the kernels are a gateway's."""
        return []

    def after(self, unfinished: list[SessionRecord]) -> None:
        """Do nothing: nothing is unfinished."""

    async def list_for_ever(self, due: float, rows: int, into: Measured) -> None:
        """List as a front end that polls does, until a list is to be the last."""
        while not self.last:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked, self.asking = time.monotonic(), True
            try:
                found = await self.repository.find(self.scope)
            except Exception as error:
                into.errors.append((asked, f"list: {error}"))
            else:
                if len(found) != rows:
                    into.errors.append((asked, f"list: {len(found)} rows"))
            into.lists.append((asked, time.monotonic() - asked))
            into.late.append((asked, asked - due))
            self.asking = False
            due += EVERY

    def close(self) -> None:
        """End the threads and the connection."""
        self.heartbeat.stop()
        self.repository.close()


async def _run(task: Task, into: Measured) -> None:
    log = logging.getLogger("benchmarks.replicas")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(_Log(into))
    chance = random.Random(task.seed)
    servers: list[_Server] = []
    lists: list[asyncio.Task[None]] = []
    for namespace, authority, server_id in task.servers:
        scope = Scope(namespace, authority)
        server = await asyncio.to_thread(_Server, task.url, scope, server_id, log, into)
        due = time.monotonic() + chance.uniform(0, EVERY)
        servers.append(server)
        lists.append(asyncio.create_task(server.list_for_ever(due, task.rows, into)))
    # A server looks for its garbage among its own objects, not among those of hundreds.
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    times = Times(**json.loads(await asyncio.to_thread(sys.stdin.readline)))
    hurried: list[Future[None]] = []
    for server in servers:
        # From then on at its own pace: servers that have run for long renew at any time.
        renew_at = times.start + chance.uniform(0, LEASE / RENEWALS_A_LEASE)
        asyncio.get_running_loop().call_at(
            renew_at, lambda of: hurried.append(of.heartbeat.renew_now()), server
        )
    end = times.start + times.warm_up + times.measured
    await asyncio.sleep(end - time.monotonic())
    for server, one in zip(servers, lists, strict=True):
        server.last = True
        # What was asked for in time counts, however long it takes.
        if not server.asking:
            one.cancel()
    await asyncio.gather(*lists, return_exceptions=True)
    print(json.dumps(vars(into)), flush=True)
    for server in servers:
        server.close()


def main() -> None:
    """Be the servers."""
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    asyncio.run(_run(Task(**given), Measured()))


if __name__ == "__main__":
    main()
