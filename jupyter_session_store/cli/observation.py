"""Observes which servers renew their leases: no clock is compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from itertools import count
from typing import TYPE_CHECKING, Final

from ..errors import StoreUnavailable
from ..records import Liveness
from .terminal import StatusLine

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import SQLAlchemyError

    from ..records import ServerRecord

_POLL_SECONDS: Final = 0.5
#: At least so much longer than the longest lease the database may refuse writes.
_EXTRA_SECONDS: Final = 30.0
_TOO_LATE: Final = "it answered late, or this machine was suspended"


def observe(
    connection: Connection,
    servers: Collection[ServerRecord],
    note: Callable[[str], None],
    *,
    must_know: bool = False,
) -> dict[tuple[str, str], str]:
    """Observe servers until the lease of each is renewed or has run out.

    A server cannot renew its lease while the database takes no writes: under a
    lock, or with a full disk. So this writes, too, at each look. If the write
    fails or takes long, the observation of all servers starts again.

    Returns the value of a :class:`.Liveness` by :attr:`.ServerRecord.key`: ``alive``
    if the lease was renewed, ``gone`` if the server departed or its lease ran out,
    ``unknown`` if it ran out and this role may not write: with `must_know` that is
    a StoreUnavailable, as it is if the database took no writes for too long.
    """
    waiting = {server.key: server for server in servers}
    if not waiting:
        return {}
    with StatusLine() as line:
        if not line.is_shown:
            longest = max(server.lease_seconds for server in servers)
            note(f"Watching {len(waiting)} server(s) for up to {longest} s.")

        def note_above(text: str) -> None:
            line.clear()
            note(text)

        return _observe(connection, waiting, note_above, must_know, line)


def _observe(
    connection: Connection,
    waiting: dict[tuple[str, str], ServerRecord],
    note: Callable[[str], None],
    must_know: bool,
    line: StatusLine,
) -> dict[tuple[str, str], str]:
    """Do as :func:`observe`; `line` counts down. Takes out of `waiting` what is found."""
    from ..servers.heartbeat import now
    from ..sql.admin import listing
    from ..sql.engine.timeouts import BUSY_TIMEOUT

    found: dict[tuple[str, str], str] = {}
    leases = [server.lease_seconds for server in waiting.values()]
    # A longer gap between two looks may hide a lock that kept the servers from renewing. In a
    # shorter one they wait for the lock, which is within what remains of their leases.
    longest_gap = min(BUSY_TIMEOUT, min(leases) / 2)
    start = last_look = now()
    deadline = start + max(leases) + max(_EXTRA_SECONDS, *leases)
    probe = _WriteProbe(connection, note, must_know)
    writable_since: float | None = None
    for turn in count():
        # A different row at each look: a single row may be locked.
        fault = probe.try_write([*waiting.values()][turn % len(waiting)])
        registered = {server.key: server for server in listing.servers(connection)}
        look = now()
        if look - last_look > longest_gap:
            fault = fault or _TOO_LATE
        last_look = look
        if fault is None:
            writable_since = look if writable_since is None else writable_since
        else:
            if look > deadline:
                raise _cannot_observe(connection, fault, look - start)
            if writable_since is not None or not turn:
                note(f"Watching anew: no lease could be renewed just now ({fault}).")
            writable_since = None
        for key, server in list(waiting.items()):
            current = registered.get(key)
            if current is None:
                found[key] = Liveness.GONE.value
            elif current.renewals != server.renewals:
                found[key] = Liveness.ALIVE.value
            elif writable_since is not None and look - writable_since > server.lease_seconds:
                found[key] = (Liveness.UNKNOWN if probe.denied else Liveness.GONE).value
            else:
                continue
            del waiting[key]
        if not waiting:
            break
        left = max(server.lease_seconds for server in waiting.values())
        left -= 0 if writable_since is None else int(look - writable_since)
        line.show(f"Watching {len(waiting)} server(s) ... {max(left, 0)} s left")
        time.sleep(_POLL_SECONDS)
    return found


class _WriteProbe:
    """Tests whether the database takes writes, unless this role may not write."""

    def __init__(
        self, connection: Connection, note: Callable[[str], None], must_know: bool
    ) -> None:
        self._connection = connection
        self._note = note
        self._must_know = must_know
        self.denied = False

    def try_write(self, server: ServerRecord) -> str | None:
        """Write the row of a server, and return the fault; ``None`` also if denied."""
        from sqlalchemy.exc import DBAPIError

        from ..sql.engine.backend import backend_of
        from ..sql.engine.url import reason_of
        from ..sql.queries import leases

        if self.denied:
            return None
        try:
            leases.try_write(self._connection, server)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if not backend_of(self._connection).is_write_denied(error):
                return reason_of(error, self._connection.engine.url)
            self.denied = True
            self._report_denied(error)
        return None

    def _report_denied(self, error: SQLAlchemyError) -> None:
        from ..sql.engine.url import describe, reason_of

        url = self._connection.engine.url
        reason = (
            f"{describe(url)}: {reason_of(error, url)}. Who does not renew a lease "
            "is known to be dead only to who could have renewed one"
        )
        cure = "Use a role with SELECT and UPDATE on jupyter_servers: --url env:NAME"
        if self._must_know:
            raise StoreUnavailable(f"{reason}. Nothing was changed. {cure}") from error
        self._note(f"{reason}: others are unknown here. {cure}")


def _cannot_observe(connection: Connection, fault: str, seconds: float) -> StoreUnavailable:
    from ..sql.engine.url import describe

    return StoreUnavailable(
        f"{describe(connection.engine.url)}: it has not been written to without a fault "
        f"for long enough in {seconds:.0f} s, the last one being: {fault}. Who is alive cannot be "
        "seen while leases cannot be renewed. Nothing was changed. Look who locks jupyter_servers, "
        "or whether the disk is full, then run this again"
    )
