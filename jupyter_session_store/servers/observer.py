"""Observing the leases of the other servers, without a clock that they share."""

from __future__ import annotations

from collections.abc import Collection

from ..records import ServerRecord


class LeaseObserver:
    """Tells which servers stopped renewing their leases. For one thread.

    Parameters
    ----------
    own : str
        The id of the observing server, which is not observed.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}
        self._known: set[str] = set()
        #: Whether a server that was seen is not registered any more.
        self.missed = False

    def forget(self) -> None:
        """Begin to wait anew for every server: this observer was cut off or suspended."""
        self._seen.clear()

    def expired(self, servers: Collection[ServerRecord], now: float) -> list[ServerRecord]:
        """Return the servers whose renewals stood still for as long as their own leases.

        Parameters
        ----------
        servers : collection of ServerRecord
            All that are registered now.
        now : float
            On the clock of :func:`.clock.now`.
        """
        before, self._seen = self._seen, {}
        known, self._known = self._known, {server.server_id for server in servers}
        self.missed = bool(known - self._known)
        expired = []
        for server in servers:
            if server.server_id == self._own:
                continue
            renewals, since = before.get(server.server_id, (None, now))
            if renewals != server.renewals:
                since = now
            if now - since > server.lease_seconds:
                # A server that comes back after an eviction begins anew.
                expired.append(server)
            else:
                self._seen[server.server_id] = (server.renewals, since)
        return expired
