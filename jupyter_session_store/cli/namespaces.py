"""List the namespaces."""

from __future__ import annotations

from typing import Final

from .command import JSON_FLAG, ExitCode, StoreCommand
from .selection import NamespaceCommand

_COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "sessions": "SESSIONS",
    "servers": "SERVERS",
    "changed_at": "CHANGED (UTC)",
}


class Namespaces(NamespaceCommand):
    name = "jupyter-session-store namespaces"
    description = """
    List the namespaces that have sessions or registered servers, how many of
    each, and when a session was last changed, by the clock of the server that
    did.
    """
    examples = """
    jupyter session-store namespaces
    jupyter session-store namespaces --user alice
    jupyter session-store namespaces --prefix hub: --json
    """
    flags = {**StoreCommand.flags, **JSON_FLAG}
    only_reads = True

    def run(self) -> ExitCode:
        from ..sql.admin import summaries

        criteria = self.criteria()
        with self.connection() as connection:
            found = summaries.namespaces(connection, criteria)
            self.output.rows(map(vars, found), _COLUMNS, empty="No namespaces.")
            if not found:
                self.note_if_missing(connection, criteria)
        return ExitCode.DONE
