"""List sessions."""

from __future__ import annotations

from .command import JSON_FLAG, ExitCode, StoreCommand
from .selection import SESSION_COLUMNS, SelectingCommand, session_row


class List(SelectingCommand):
    name = "jupyter-session-store list"
    only_reads = True
    description = """
    List sessions, whoever's they are, in the order of their namespaces and ids.

    A table on a terminal, lines with tabs in a pipe. Any number of sessions is
    streamed.
    """
    examples = """
    jupyter session-store list
    jupyter session-store list --namespace hub:alice/ --json
    jupyter session-store list --older-than 30d | wc -l
    """
    flags = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        from ..sql.admin import listing

        criteria = self.criteria()
        with self.connection() as connection:
            rows = map(session_row, listing.sessions(connection, criteria))
            self.output.rows(rows, SESSION_COLUMNS, empty="No sessions.")
        return ExitCode.DONE
