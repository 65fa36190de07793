"""Which servers answer for a session, whether they are alive, and when they were last seen."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..authorities import authority_kind, server_of
from ..records import Liveness

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from ..records import ServerRecord, SessionRecord

    Key = tuple[str, str | None]
    Answer = tuple[str, datetime | None]


class Attendance:
    """Of the servers that answer for a session: whether one is alive, and when it was seen.

    The server that runs a session's kernel answers for it, or for a gateway's any server of
    its namespace. One is seen when it starts and when it changes a session, by its own clock.

    Parameters
    ----------
    servers : iterable of ServerRecord
        Those that are registered.
    liveness : mapping
        What was observed, by their keys; a server that is missing is unknown.
    changes : mapping
        When a session was last changed by a server, registered or not, by their keys.
    """

    def __init__(
        self,
        servers: Iterable[ServerRecord],
        liveness: Mapping[tuple[str, str], str],
        changes: Mapping[Key, datetime],
    ) -> None:
        self._liveness = {
            server.key: liveness.get(server.key, Liveness.UNKNOWN.value) for server in servers
        }
        self._seen: dict[Key, datetime] = dict(changes)
        for server in servers:
            seen = self._seen.get(server.key, server.started_at)
            self._seen[server.key] = max(seen, server.started_at)
        self._of_namespace: dict[str, set[str]] = defaultdict(set)
        for (namespace, _), value in self._liveness.items():
            self._of_namespace[namespace].add(value)
        self._seen_in: dict[str, datetime] = {}
        for (namespace, _), seen in self._seen.items():
            self._seen_in[namespace] = max(self._seen_in.get(namespace, seen), seen)
        self._known: dict[tuple[str, str], Answer] = {}

    def of(self, record: SessionRecord) -> Answer:
        """Return the value of a :class:`.Liveness`, and when such a server was last seen.

        Where none is registered it is gone.
        """
        key = (record.namespace, record.authority)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._of(*key)
        return found

    def _of(self, namespace: str, authority: str) -> Answer:
        server_id = server_of(authority)
        if server_id is not None:
            key = (namespace, server_id)
            return self._liveness.get(key, Liveness.GONE.value), self._seen.get(key)
        if authority_kind(authority) is None:
            return Liveness.UNKNOWN.value, None
        values = self._of_namespace.get(namespace, set())
        for value in (Liveness.ALIVE.value, Liveness.UNKNOWN.value):
            if value in values:
                return value, self._seen_in.get(namespace)
        return Liveness.GONE.value, self._seen_in.get(namespace)
