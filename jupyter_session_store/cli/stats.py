"""Count what the database holds."""

from __future__ import annotations

from typing import Final

from .command import JSON_FLAG, ExitCode, StoreCommand

#: Whose the kernels are, in words.
_KINDS: Final = {
    "server": "on servers' own kernels",
    "gateway": "on gateways' kernels",
    "unknown": "on kernels of unknown kind",
}


class Stats(StoreCommand):
    name = "jupyter-session-store stats"
    description = """
    Count all namespaces, servers and sessions: these also by their states, and
    by whose their kernels are, a server's own or a gateway's. The kind of one
    is unknown where the row says neither, which no server writes.

    A server is counted while it is registered, whether it is alive or not.
    """
    examples = """
    jupyter session-store stats
    jupyter session-store stats --json
    """
    flags = {**StoreCommand.flags, "json": (JSON_FLAG["json"][0], "Print the counts as JSON.")}
    only_reads = True

    def run(self) -> ExitCode:
        from ..sql.admin import summaries

        with self.connection() as connection:
            found = {"database": self.database_name, **summaries.totals(connection)}
        if not self.as_json:
            by_state, by_kernel = found.pop("by_state"), found.pop("by_kernel")
            found |= {f"  {state}": count for state, count in by_state.items()}
            found |= {f"  {_KINDS[kind]}": count for kind, count in by_kernel.items()}
        self.output.one(found)
        return ExitCode.DONE
