"""The servers of other hosts that take the same directory for the same tenant."""

from __future__ import annotations

from collections.abc import Collection
from logging import Logger

from ..records import ServerRecord, printable


class NeighbourWatch:
    """Warns, once, of a server on another host in a namespace that nobody has chosen.

    Where nobody sets it, a namespace is the path of a directory, and two hosts may
    have different directories at one path. For one thread.
    """

    def __init__(self, own: ServerRecord, log: Logger) -> None:
        self._own = own
        self._log = log
        self._seen: dict[str, int] = {}
        self._warned = False

    def look(self, servers: Collection[ServerRecord]) -> None:
        """Look at the registered servers, after a renewal."""
        if self._warned:
            return
        seen, self._seen = self._seen, {one.server_id: one.renewals for one in servers}
        for one in servers:
            if one.hostname in (None, self._own.hostname):
                continue
            # One that does not renew may be this server before its last start: a container's
            # host name is another at each.
            if seen.get(one.server_id, one.renewals) != one.renewals:
                self._warned = True
                self._log.warning(
                    "A server on the host %s uses this server's namespace, %r, which comes from "
                    "the root directory: with one gateway they list and delete each other's "
                    "sessions. If they are not replicas with the same files, give each its own "
                    "c.PersistentSessionManager.namespace; if they are, set it to one name.",
                    printable(str(one.hostname)),
                    one.namespace,
                )
                return
