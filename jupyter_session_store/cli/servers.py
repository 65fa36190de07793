"""List the registered servers."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Final

from traitlets import Bool, Unicode

from ..records import check_text
from .command import JSON_FLAG, ExitCode, StoreCommand

#: Those of a terminal, which has 80 columns; a pipe has all.
_NARROW: Final = ("namespace", "server_id", "pid", "sessions", "liveness")
_COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "server_id": "SERVER",
    "hostname": "HOST",
    "pid": "PROCESS",
    "version": "VERSION",
    "started_at": "STARTED (UTC)",
    "lease_seconds": "LEASE (S)",
    "sessions": "SESSIONS",
    "liveness": "LIVENESS",
}


class Servers(StoreCommand):
    name = "jupyter-session-store servers"
    only_reads = True
    description = """
    List the servers that are registered, and how many sessions each wrote last.

    Whether one is alive cannot be read off a database, only seen: with
    --observe this watches for as long as the longest lease, or until every
    server has renewed its own. Without, it is unknown.
    """
    examples = """
    jupyter session-store servers
    jupyter session-store servers --observe
    jupyter session-store servers --wide
    """
    aliases = {**StoreCommand.aliases, "namespace": "Servers.namespace"}
    flags = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "wide": ({"Servers": {"wide": True}}, "On a terminal all columns, as in a pipe."),
        "observe": ({"Servers": {"observing": True}}, "Watch which renew their leases."),
    }

    namespace = Unicode(help="Only servers of this namespace.").tag(config=True)
    wide = Bool(False, help="On a terminal all columns, as in a pipe.").tag(config=True)
    observing = Bool(False, help="Watch which servers renew their leases.").tag(config=True)

    def run(self) -> ExitCode:
        from ..sql.admin import listing
        from .observation import observe

        check_text("namespace", self.namespace)
        with self.connection() as connection:
            found = listing.servers(connection, self.namespace or None)
            liveness = observe(connection, found, self.note) if self.observing else {}
            sessions = Counter(listing.counts(connection))
        rows = (
            {
                **vars(server),
                "sessions": sessions[server.key],
                "liveness": liveness.get(server.key, "unknown"),
            }
            for server in found
        )
        columns = _COLUMNS
        if sys.stdout.isatty() and not self.wide:
            columns = {name: _COLUMNS[name] for name in _NARROW}
        self.output.rows(rows, columns, empty="No servers.")
        return ExitCode.DONE
