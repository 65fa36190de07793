"""Which servers are alive: seen, never read off a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from itertools import count
from typing import TYPE_CHECKING, Final

from ..errors import StoreUnavailable
from ..records import Liveness

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import SQLAlchemyError

    from ..records import ServerRecord

_POLL_SECONDS: Final = 0.5
#: Added to the longest lease, at least: until then the database may take no writes.
_PATIENCE: Final = 30.0
_TOO_LATE: Final = "it answered late, or this machine was suspended"

#: A server's namespace and id.
Key = tuple[str, str]


def observe(
    connection: Connection,
    servers: Collection[ServerRecord],
    note: Callable[[str], None],
    *,
    must_know: bool = False,
) -> dict[Key, str]:
    """Watch servers until each has renewed its lease, or let it run out.

    Nobody can renew while the database takes no writes, though it may be read:
    under a lock, or with a full disk. So at each look something is written, and
    where that fails or takes long, all are watched anew.

    Parameters
    ----------
    connection : Connection
        It must answer all the while: an observer that was cut off has seen nothing.
    servers : collection of ServerRecord
        As they were seen a moment ago.
    note : callable
        Is told that there is a wait, and why it is a longer one.
    must_know : bool
        Whether to fail where this role may not write, and so not see who is dead.

    Returns
    -------
    dict
        The value of a :class:`.Liveness` by namespace and server id: ``alive``
        for those that renewed, ``gone`` for those that departed or did not renew
        for longer than their own leases, ``unknown`` for the latter where this
        role may not write.

    Raises
    ------
    StoreUnavailable
        If the database took no writes for too long; or see `must_know`.
    """
    from ..servers.clock import now
    from ..sql.admin import listing
    from ..sql.engine.factory import BUSY_TIMEOUT

    found: dict[Key, str] = {}
    waiting = {_key(server): server for server in servers}
    if not waiting:
        return found
    leases = [server.lease_seconds for server in waiting.values()]
    note(f"Watching {len(waiting)} server(s) for up to {max(leases)} s.")
    # Who is kept out for no longer than this between two looks is only late: a server's statement
    # waits as long for a lock, and after a third of its lease it does not then run out.
    late = min(BUSY_TIMEOUT, min(leases) / 2)
    began = looked = now()
    last = began + max(leases) + max(_PATIENCE, *leases)
    probe = _Probe(connection, note, must_know)
    since: float | None = None
    for turn in count():
        # Each in its turn: a row may be locked by itself.
        fault = probe.fault([*waiting.values()][turn % len(waiting)])
        registered = {_key(server): server for server in listing.servers(connection)}
        seen = now()
        if seen - looked > late:
            fault = fault or _TOO_LATE
        looked = seen
        if fault is None:
            since = seen if since is None else since
        else:
            if seen > last:
                raise _unseen(connection, fault, seen - began)
            if since is not None or not turn:
                note(f"Watching anew: no lease could be renewed just now ({fault}).")
            since = None
        for key, server in list(waiting.items()):
            current = registered.get(key)
            if current is None:
                found[key] = Liveness.GONE.value
            elif current.renewals != server.renewals:
                found[key] = Liveness.ALIVE.value
            elif since is not None and seen - since > server.lease_seconds:
                found[key] = (Liveness.UNKNOWN if probe.denied else Liveness.GONE).value
            else:
                continue
            del waiting[key]
        if not waiting:
            break
        time.sleep(_POLL_SECONDS)
    return found


class _Probe:
    """Writes, as long as this role may."""

    def __init__(
        self, connection: Connection, note: Callable[[str], None], must_know: bool
    ) -> None:
        self._connection = connection
        self._note = note
        self._must_know = must_know
        self.denied = False

    def fault(self, server: ServerRecord) -> str | None:
        """Write, and return what is wrong, or ``None``: also if this role may not."""
        from sqlalchemy.exc import DBAPIError

        from ..sql.admin import write_probe
        from ..sql.database import is_write_denied
        from ..sql.engine import factory

        if self.denied:
            return None
        try:
            write_probe.write(self._connection, server)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if not is_write_denied(error):
                return factory.reason_of(error, self._connection.engine.url)
            self.denied = True
            self._deny(error)
        return None

    def _deny(self, error: SQLAlchemyError) -> None:
        from ..sql.engine import factory

        url = self._connection.engine.url
        reason = (
            f"{factory.describe(url)}: {factory.reason_of(error, url)}. Who does not renew a lease "
            "is known to be dead only to who could have renewed one"
        )
        cure = "Use a role with SELECT and UPDATE on jupyter_servers: --url env:NAME"
        if self._must_know:
            raise StoreUnavailable(f"{reason}. Nothing was changed. {cure}") from error
        self._note(f"{reason}: others are unknown here. {cure}")


def _unseen(connection: Connection, fault: str, seconds: float) -> StoreUnavailable:
    from ..sql.engine import factory

    return StoreUnavailable(
        f"{factory.describe(connection.engine.url)}: it has not been written to without a fault "
        f"for long enough in {seconds:.0f} s, the last one being: {fault}. Who is alive cannot be "
        "seen while leases cannot be renewed. Nothing was changed. Look who locks jupyter_servers, "
        "or whether the disk is full, then run this again"
    )


def _key(server: ServerRecord) -> Key:
    return (server.namespace, server.server_id)
