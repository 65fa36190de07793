"""A server without the server: it keeps its lease, and the sessions of its kernels, until it ends.

It reads a JSON object, the arguments of :class:`Living`, from its input, which ends it
when it is closed, and says "registered" when it is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import datetime, timezone

from jupyter_session_store.authorities import authority_of
from jupyter_session_store.records import Scope, SessionRecord
from jupyter_session_store.servers import heartbeat
from jupyter_session_store.servers.heartbeat import Heartbeat, this_server
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository

from .support import session


class Living:
    """The heartbeat of a server with kernels of its own.

    Parameters
    ----------
    url, namespace, server_id : str
    lease : int
        Seconds.
    held : list of int
        The numbers of its sessions, which were last changed long ago.
    """

    def __init__(
        self, url: str, namespace: str, server_id: str, lease: int, held: list[int]
    ) -> None:
        scope = Scope(namespace, authority_of(server_id))
        log = logging.getLogger("living")
        long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc)
        self._held = [
            session(
                namespace,
                number,
                authority=scope.authority,
                server_id=server_id,
                claim=None,
                created_at=long_ago,
                updated_at=long_ago,
            )
            for number in held
        ]
        server = this_server(namespace, server_id, lease)
        repository = SQLAlchemySessionRepository(url, options={}, auto_upgrade="safe", log=log)
        repository.open(scope, server, timeout=60)
        for record in self._held:
            asyncio.run(repository.add(record))
        self._heartbeat = Heartbeat(
            repository, scope, server, local_sessions=self.held, on_renewed=self.after, log=log
        )
        self._heartbeat.start()

    def held(self) -> list[SessionRecord]:
        """Return the sessions of the kernels that it runs."""
        return self._held

    def after(self, unfinished: list[SessionRecord]) -> None:
        """Finish nothing: it has no gateway."""
        assert unfinished == []


def main() -> None:
    """Live, and show it often."""
    # Who watches waits for the next renewal.
    heartbeat.RENEWALS_A_LEASE = 12  # type: ignore[misc]
    living = Living(**json.loads(sys.stdin.readline()))
    print("registered", flush=True)
    sys.stdin.read()
    del living


if __name__ == "__main__":
    main()
