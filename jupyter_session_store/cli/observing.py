"""Which servers are alive: seen, never read off a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from ..records import Liveness

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord

_POLL_SECONDS: Final = 0.5
#: Between two looks: less than the shortest lease.
_SUSPENDED_SECONDS: Final = 2.5

#: A server's namespace and id.
Key = tuple[str, str]


def observe(
    connection: Connection, servers: Collection[ServerRecord], note: Callable[[str], None]
) -> dict[Key, str]:
    """Watch servers until each has renewed its lease, or let it run out.

    Parameters
    ----------
    connection : Connection
        It must answer all the while: an observer that was cut off has seen nothing.
    servers : collection of ServerRecord
        As they were seen a moment ago.
    note : callable
        Is told that there is a wait.

    Returns
    -------
    dict
        The value of a :class:`.Liveness` by namespace and server id: ``alive``
        for those that renewed, ``gone`` for those that departed or did not renew
        for longer than their own leases.
    """
    from ..registration import now
    from ..sql import listing

    found: dict[Key, str] = {}
    waiting = {_key(server): server for server in servers}
    if waiting:
        longest = max(server.lease_seconds for server in waiting.values())
        note(f"Watching {len(waiting)} server(s) for up to {longest} s.")
    since = looked = now()
    while waiting:
        time.sleep(_POLL_SECONDS)
        registered = {_key(server): server for server in listing.servers(connection)}
        seen = now()
        if seen - looked > _SUSPENDED_SECONDS:
            # This host was suspended, or cut off: so may they have been.
            since = seen
        looked = seen
        for key, server in list(waiting.items()):
            current = registered.get(key)
            if current is not None and current.renewals != server.renewals:
                found[key] = Liveness.ALIVE.value
            elif current is None or seen - since > server.lease_seconds:
                found[key] = Liveness.GONE.value
            else:
                continue
            del waiting[key]
    return found


def _key(server: ServerRecord) -> Key:
    return (server.namespace, server.server_id)
