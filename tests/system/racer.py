"""One of several processes that use one store at once, each with a repository of its own.

It reads a JSON object a line, ``[at, verb, arguments]``, waits until ``at`` on
the monotonic clock, which all processes of a machine share, does it, and prints
the outcome as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from jupyter_session_store.errors import PathClaimed
from jupyter_session_store.records import CLOSING, READY, STARTING, Scope
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import record, server

SCOPE = Scope("tenant", "gateway:g")


class Racer:
    """The verbs of the race.

    Parameters
    ----------
    url, name : str
        The store, and this server's id.
    gateway : Path
        A folder with a file for each kernel that was shut down.
    """

    def __init__(self, url: str, name: str, gateway: Path) -> None:
        self.name = name
        self.gateway = gateway
        self.repository = SQLAlchemySessionRepository(
            url, options={}, auto_upgrade="safe", log=logging.getLogger("racer")
        )
        self.repository.open(SCOPE, server(name, SCOPE.namespace), timeout=60)

    async def create(self, path: str, start: float) -> Any:
        """Claim a path, pretend to start a kernel, make the session ready; or return the holder's.

        As the session manager does it on a gateway.
        """
        while True:
            holders = await self.repository.find(SCOPE, path=path)
            ready = [holder.session_id for holder in holders if holder.state == READY]
            if ready:
                return {"holder": ready}
            session_id = f"{path}-{self.name}"
            try:
                await self.repository.add(
                    record(
                        session_id,
                        SCOPE,
                        path=path,
                        state=STARTING,
                        kernel_id=None,
                        server_id=self.name,
                    )
                )
            except PathClaimed:
                await asyncio.sleep(0.002)
                continue
            await asyncio.sleep(start)
            changes = {"kernel_id": f"kernel-{session_id}", "state": READY}
            saved = await self.repository.update(SCOPE, session_id, changes)
            return {"created": [session_id], "saved": saved is not None}

    async def delete(self, session_id: str) -> Any:
        """Mark a session, say whether it is the last, remove it."""
        closing = await self.repository.begin_close(SCOPE, session_id, self.name)
        assert closing is not None
        last = closing.last
        if last:
            # Once more, for who attached since.
            others = await self.repository.find(SCOPE, kernel_id=closing.record.kernel_id)
            last = all(other.state == CLOSING for other in others)
        if last:
            # Fails if it was shut down before.
            (self.gateway / str(closing.record.kernel_id)).touch(exist_ok=False)
        await self.repository.remove(SCOPE, [closing.record])
        return {"last": last}

    async def close(self, session_id: str) -> Any:
        """Mark a session; say on which kernel, and whether it was the last there."""
        closing = await self.repository.begin_close(SCOPE, session_id, self.name)
        assert closing is not None
        return {"last": closing.last, "kernel_id": closing.record.kernel_id}

    async def move(self, session_id: str, kernel_id: str) -> Any:
        """Move a session from a kernel to one of its own; say whether it was the last there."""
        to = {"kernel_id": f"kernel-of-{session_id}"}
        move = await self.repository.move(SCOPE, session_id, kernel_id, to)
        assert move is not None
        return {"last": move.last}

    async def attach(self, session_id: str, kernel_id: str) -> Any:
        """Add a session on a kernel; give way if somebody is closing there, or has closed it."""
        mine = record(session_id, SCOPE, kernel_id=kernel_id, server_id=self.name)
        await self.repository.add(mine)
        others = await self.repository.find(SCOPE, kernel_id=kernel_id)
        closing = any(other.state == CLOSING for other in others)
        if closing or (self.gateway / kernel_id).exists():
            await self.repository.remove(SCOPE, [mine])
            return {"attached": False}
        return {"attached": True}


async def main() -> None:
    """Race until the input ends."""
    racer = Racer(sys.stdin.readline().strip(), sys.argv[1], Path(sys.argv[2]))
    print(json.dumps("ready"), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        at, verb, arguments = json.loads(line)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        print(json.dumps(await getattr(racer, verb)(**arguments)), flush=True)
    racer.repository.close()


if __name__ == "__main__":
    asyncio.run(main())
