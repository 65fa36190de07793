"""Remove all of a namespace."""

from __future__ import annotations

from ..records import check_text
from .command import ExitCode
from .removal import RemovingCommand


class Purge(RemovingCommand):
    name = "jupyter-session-store purge"
    description = """
    Remove all sessions and server registrations of a namespace: a user has left.

    Refused, with exit code 5, while a server of it is alive, which is seen by
    watching for as long as the longest lease. Kernels are not shut down. Asks
    before it removes anything.
    """
    examples = """
    jupyter session-store purge hub:alice/ --dry-run
    jupyter session-store purge hub:alice/ --yes
    """
    arguments = {"NAMESPACE": "The namespace that is removed."}
    flags = {
        **RemovingCommand.flags,
        "force": (
            {"CleaningCommand": {"force": True}},
            "Though its servers may be alive: one that is comes back with the sessions of its "
            "running kernels.",
        ),
    }

    def run(self) -> ExitCode:
        from ..sql.admin import listing, pruning

        namespace = self.extra_args[0]
        check_text("namespace", namespace)
        if not self.dry_run:
            self.require_answer()
        selection = pruning.Selection(listing.Criteria(namespace=namespace), vacated=not self.force)
        with self.connection() as connection:
            servers = listing.servers(connection, namespace)
            counted = pruning.count(connection, selection)
            if not servers and not counted.sessions:
                self.note(f"There is nothing of the namespace {namespace!r}.")
                return ExitCode.DONE
            if not self.force:
                alive, servers = self.observe_servers(connection, namespace)
                if alive:
                    self.report_alive(alive)
                    return ExitCode.ALIVE
            if self.dry_run:
                return self.preview(connection, selection, counted, len(servers))
            if not self.confirm(
                f"Remove {counted.sessions} session(s) and {len(servers)} server(s) of the "
                f"namespace {namespace!r}?"
            ):
                return ExitCode.NO
            evict = pruning.unregister if self.force else pruning.evict
            self.remove(connection, selection, evict(connection, servers))
            returned = listing.servers(connection, namespace)
        if returned and not self.force:
            self.note(
                f"The server {returned[0].server_id} came back or was started meanwhile, and "
                "what it has stays. Stop it and run this again."
            )
            return ExitCode.ALIVE
        return ExitCode.DONE
