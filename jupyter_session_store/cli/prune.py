"""Remove sessions that are no longer needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitlets import Bool, Unicode

from ..errors import ConfigurationError
from .command import ExitCode
from .removal import RemovingCommand
from .selection import NamespaceCommand, parse_age

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.listing import Criteria


class Prune(RemovingCommand):
    name = "jupyter-session-store prune"
    description = """
    Remove sessions that nobody needs: those that were not changed for a time
    (--older-than), or that dead servers left (--dead-servers), or both.

    A session stays whose authority is alive: the server that runs its kernel,
    or, where its kernel is a gateway's, any server of its namespace. Whether a
    server is alive is seen, not read: this watches for as long as the longest
    lease, or until every server has renewed its own. Those that do not are
    evicted, as another server of theirs would do it. A gateway itself is not
    asked: with no server alive, its old sessions are taken for unneeded. With
    --force, the old sessions on a gateway go whoever is alive.

    Asks before it removes anything, then removes in small batches that nobody
    has to wait for. Ctrl-C ends it after a batch; to go on, run it again.
    """
    examples = """
    jupyter session-store prune --older-than 30d --dry-run
    jupyter session-store prune --older-than 30d --yes
    jupyter session-store prune --dead-servers
    jupyter session-store prune --older-than 30d --user alice
    jupyter session-store prune --dead-servers --namespace hub:alice/ --json --yes
    """
    aliases = {**NamespaceCommand.aliases, "older-than": "Prune.older_than"}
    flags = {
        **RemovingCommand.flags,
        "dead-servers": (
            {"Prune": {"dead_servers": True}},
            "What dead servers left: sessions whose kernels they ran, or had not begun to start.",
        ),
    }

    older_than = Unicode(
        help="""
        Sessions that were not changed for so long: a number and a unit, for
        example 90s, 15m, 12h, 30d or 2w. By the clocks of this machine and of the
        server that changed them.
        """
    ).tag(config=True)
    dead_servers = Bool(False, help="What dead servers left.").tag(config=True)

    def run(self) -> ExitCode:
        from ..sql.admin import pruning

        if not (self.older_than or self.dead_servers):
            raise ConfigurationError(
                "Found neither --older-than DURATION nor --dead-servers; expected at least one of "
                "them, for example --older-than 30d. Nothing was changed."
            )
        since = parse_age(self.older_than, "--older-than") if self.older_than else None
        criteria = self.criteria(unchanged_since=since)
        if not self.dry_run:
            self.require_answer()
        with self.connection() as connection:
            self.note_if_missing(connection, criteria)
            # A dry run needs no role that may write.
            alive, dead = self.observe_servers(
                connection, self._concerned(connection, criteria), must_know=not self.dry_run
            )
            selection = pruning.Selection(
                criteria, living=alive, dead_servers=self.dead_servers, force=self.force
            )
            counted = pruning.count(connection, selection)
            if not counted.sessions and not self.dead_servers:
                dead = []
            if self.dry_run:
                self.preview(connection, [selection], counted, len(dead))
                return ExitCode.DONE
            if (counted.sessions or dead) and not self.confirm_removal(counted, len(dead)):
                return ExitCode.NO
            evicting = pruning.evict(connection, dead)
            self.report_removed(*self.remove(connection, [selection], evicting))
        return ExitCode.DONE

    def _concerned(
        self, connection: Connection, criteria: Criteria
    ) -> Callable[[ServerRecord], bool]:
        """Return which servers are to be observed."""
        from ..sql.admin import summaries

        if self.force and not self.dead_servers:
            own_kernels = summaries.own_kernels(connection, criteria)
            return lambda server: server.key in own_kernels
        return lambda server: criteria.covers(server.namespace)
