"""List sessions."""

from __future__ import annotations

import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from traitlets import Bool, Int

from .attendance import Attendance
from .command import JSON_FLAG, ExitCode, StoreCommand
from .selection import SelectingCommand
from .session_columns import SESSION_COLUMNS, session_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from ..sql.admin.listing import Criteria

#: Those of a terminal, which has 80 columns; a pipe has all.
_NARROW: Final = ("namespace", "path", "state", "liveness", "session_id")
_COLUMNS: Final = {**SESSION_COLUMNS, "liveness": "SERVER", "server_seen_at": "SEEN (UTC)"}


class List(SelectingCommand):
    name = "jupyter-session-store list"
    only_reads = True
    description = """
    List sessions, whoever's they are, in the order of their namespaces and ids.

    A table on a terminal, lines with tabs in a pipe. Any number of sessions is
    streamed.

    SERVER says whether a server that answers for the session is alive: the one
    that runs its kernel or, where its kernel is a gateway's, any of its
    namespace. It is gone if none is registered, and else unknown, unless
    --observe watches them. SEEN is when such a server last started or changed a
    session, by its own clock; it may have lived on.
    """
    examples = """
    jupyter session-store list
    jupyter session-store list --user alice --observe
    jupyter session-store list --namespace hub:alice/ --json
    jupyter session-store list --prefix dir:/home/ --limit 20
    jupyter session-store list --older-than 30d | wc -l
    """
    aliases = {**SelectingCommand.aliases, "limit": "List.limit"}
    flags = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "wide": ({"List": {"wide": True}}, "On a terminal all columns, as in a pipe."),
        "observe": ({"List": {"observing": True}}, "Watch which servers renew their leases."),
    }

    wide = Bool(False, help="On a terminal all columns, as in a pipe.").tag(config=True)
    limit = Int(0, min=0, help="At most so many sessions; 0 is all.").tag(config=True)
    observing = Bool(False, help="Watch which servers renew their leases.").tag(config=True)

    def run(self) -> ExitCode:
        criteria = self.criteria()
        with self.connection() as connection:
            rows = self._rows(connection, criteria)
            first = list(islice(rows, 1))
            columns = _COLUMNS
            if sys.stdout.isatty() and not self.wide:
                columns = {name: _COLUMNS[name] for name in _NARROW}
            self.output.rows(chain(first, rows), columns, empty="No sessions.")
            if not first:
                self.note_if_missing(connection, criteria)
        return ExitCode.DONE

    def _rows(self, connection: Connection, criteria: Criteria) -> Iterator[dict[str, Any]]:
        from ..sql.admin import listing, summaries
        from .observation import observe

        servers = listing.servers(connection, criteria.namespace, prefix=criteria.prefix)
        liveness = observe(connection, servers, self.note) if self.observing else {}
        attendance = Attendance(servers, liveness, summaries.last_changes(connection, criteria))
        found = listing.sessions(connection, criteria)
        for record in islice(found, self.limit or None):
            # A table does not show the kernel's model, which takes long to decode.
            row = session_row(record) if self.as_json else record._asdict()
            row["liveness"], row["server_seen_at"] = attendance.of(record)
            yield row
