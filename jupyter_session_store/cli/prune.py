"""Remove sessions that are no longer needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitlets import Bool, Unicode

from ..errors import ConfigurationError
from ..records import check_text
from .command import ExitCode, StoreCommand
from .removal import RemovingCommand, describe_counted
from .selection import parse_age

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord


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
    asked: with no server alive, its old sessions are taken for unneeded.

    Asks before it removes anything, then removes in small batches that nobody
    has to wait for. Ctrl-C ends it after a batch; to go on, run it again.
    """
    examples = """
    jupyter session-store prune --older-than 30d --dry-run
    jupyter session-store prune --older-than 30d --yes
    jupyter session-store prune --dead-servers
    jupyter session-store prune --dead-servers --namespace hub:alice/ --json --yes
    """
    aliases = {
        **StoreCommand.aliases,
        "namespace": "Prune.namespace",
        "older-than": "Prune.older_than",
    }
    flags = {
        **RemovingCommand.flags,
        "dead-servers": (
            {"Prune": {"dead_servers": True}},
            "What dead servers left: sessions whose kernels they ran, or had not begun to start.",
        ),
        "force": (
            {"CleaningCommand": {"force": True}},
            "Whoever is alive: nobody is watched. With --dead-servers every server is taken for "
            "dead; one that lives comes back with the sessions of its running kernels.",
        ),
    }

    namespace = Unicode(help="Only sessions of this namespace.").tag(config=True)
    older_than = Unicode(
        help="""
        Sessions that were not changed for so long: a number and a unit, for
        example 90s, 15m, 12h, 30d or 2w. By the clocks of this machine and of the
        server that changed them.
        """
    ).tag(config=True)
    dead_servers = Bool(False, help="What dead servers left.").tag(config=True)

    def run(self) -> ExitCode:
        from ..sql.admin import listing, pruning

        if not (self.older_than or self.dead_servers):
            raise ConfigurationError(
                "Found neither --older-than DURATION nor --dead-servers; expected at least one of "
                "them, for example --older-than 30d. Nothing was changed."
            )
        since = parse_age(self.older_than, "--older-than") if self.older_than else None
        check_text("namespace", self.namespace)
        if not self.dry_run:
            self.require_answer()
        with self.connection() as connection:
            alive, dead = self._find_servers(connection)
            selection = pruning.Selection(
                listing.Criteria(namespace=self.namespace or None, unchanged_since=since),
                dead_servers=self.dead_servers,
                living=alive,
            )
            counted = pruning.count(connection, selection)
            if not counted.sessions and not self.dead_servers:
                dead = []
            if self.dry_run:
                return self.preview(connection, selection, counted, len(dead))
            if (counted.sessions or dead) and not self.confirm(
                f"Remove {describe_counted(counted)}, and evict {len(dead)} dead server(s)?"
            ):
                return ExitCode.NO
            return self.remove(connection, selection, pruning.evict(connection, dead))

    def _find_servers(
        self, connection: Connection
    ) -> tuple[list[ServerRecord] | None, list[ServerRecord]]:
        """Return the live servers, ``None`` if they do not matter, and those to evict."""
        from ..sql.admin import listing

        if not self.force:
            # A dry run needs no role that may write.
            return self.observe_servers(
                connection, self.namespace or None, must_know=not self.dry_run
            )
        if self.dead_servers:
            return [], listing.servers(connection, self.namespace or None)
        return None, []
