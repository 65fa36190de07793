"""Which servers renew their leases, seen by looking again and again: no clock is compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

#: Seconds from one look to the next.
INTERVAL: Final = 10.0


class Seen(NamedTuple):
    """What is known of a server.

    Parameters
    ----------
    liveness : str
        ``alive`` if it has renewed its lease while it was watched and did so in time, ``silent``
        if its lease has run out meanwhile, ``unknown`` if it was not watched for long enough.
    silent_seconds : float or None
        For how long it has not renewed its lease, as far as it was watched.
    """

    liveness: str
    silent_seconds: float | None


UNKNOWN: Final = Seen("unknown", None)


class _Watched(NamedTuple):
    renewals: int
    lease_seconds: int
    #: When this number of renewals was seen first.
    since: float
    #: Whether a renewal was seen.
    has_renewed: bool


class ServerWatch:
    """Remembers how often each server had renewed its lease, and since when. For one thread."""

    def __init__(self) -> None:
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._last_look: float | None = None

    def look(self, leases: Iterable[tuple[str, str, int, int]], now: float) -> None:
        """Take in what the store has at `now`, on a monotonic clock.

        After a gap, in which the store could perhaps take no renewals, every server is watched
        anew: nobody is silent who could not be heard.
        """
        gap = self._last_look is not None and now - self._last_look > 3 * INTERVAL
        self._last_look = now
        before = {} if gap else self._watched
        watched = {}
        for namespace, server_id, renewals, lease_seconds in leases:
            key = (namespace, server_id)
            known = before.get(key)
            if known is None or known.renewals != renewals:
                known = _Watched(renewals, lease_seconds, now, known is not None)
            watched[key] = known
        self._watched = watched

    def forget(self) -> None:
        """Forget all: the store was away."""
        self._watched = {}
        self._last_look = None

    def of(self, key: tuple[str, str], now: float) -> Seen:
        """Return what is known of a server, by its namespace and id."""
        known = self._watched.get(key)
        if known is None:
            return UNKNOWN
        silent = now - known.since
        # A renewal is seen at the first look after it.
        if silent > known.lease_seconds + INTERVAL:
            return Seen("silent", silent)
        return Seen("alive" if known.has_renewed else "unknown", silent)

    def silent(self, now: float, visible: str | None) -> list[tuple[str, str]]:
        """Return the keys of the silent servers of namespaces that begin with `visible`."""
        return [
            key
            for key in self._watched
            if key[0].startswith(visible or "") and self.of(key, now).liveness == "silent"
        ]

    def count(self, now: float, visible: str | None) -> dict[str, int]:
        """Return how many of the servers in such namespaces are alive, silent and unknown."""
        counts = {"alive": 0, "silent": 0, "unknown": 0}
        for key in self._watched:
            if key[0].startswith(visible or ""):
                counts[self.of(key, now).liveness] += 1
        return counts
