"""The subcommands that remove and rename: prune, purge, rename."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Bool, Unicode

from ..errors import ConfigurationError, SessionConflict
from ..records import check_namespace, check_text
from .command import JSON_FLAG, ExitCode, StoreCommand
from .inspecting import moment_before
from .removing import CleaningCommand, RemovingCommand, sessions_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord

__all__ = ["Prune", "Purge", "Rename"]


class Prune(RemovingCommand):
    """Remove sessions that nobody needs."""

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
    aliases: Any = {
        **StoreCommand.aliases,
        "namespace": "Prune.namespace",
        "older-than": "Prune.older_than",
    }
    flags: Any = {
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
        """Count, ask, remove."""
        from ..sql.admin import listing, pruning

        if not (self.older_than or self.dead_servers):
            raise ConfigurationError(
                "Found neither --older-than DURATION nor --dead-servers; expected at least one of "
                "them, for example --older-than 30d. Nothing was changed."
            )
        since = moment_before(self.older_than, "--older-than") if self.older_than else None
        check_text("namespace", self.namespace)
        if not self.dry_run:
            self.refuse_unanswerable()
        with self.connection() as connection:
            alive, dead = self._judge(connection)
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
                f"Remove {sessions_of(counted)}, and evict {len(dead)} dead server(s)?"
            ):
                return ExitCode.NO
            return self.remove(connection, selection, pruning.evict(connection, dead))

    def _judge(
        self, connection: Connection
    ) -> tuple[list[ServerRecord] | None, list[ServerRecord]]:
        """Return who is alive, ``None`` if that does not matter, and who is to be evicted."""
        from ..sql.admin import listing

        if not self.force:
            # What only says what it would do has no need of a role that could.
            return self.judge(connection, self.namespace or None, must_know=not self.dry_run)
        if self.dead_servers:
            return [], listing.servers(connection, self.namespace or None)
        return None, []


class Purge(RemovingCommand):
    """Remove all of a namespace."""

    name = "jupyter-session-store purge"
    description = """
    Remove all sessions and server registrations of a namespace: a user has left.

    Refused, with exit code 1, while a server of it is alive, which is seen by
    watching for as long as the longest lease; and if there is nothing of it.
    Kernels are not shut down. Asks before it removes anything.
    """
    examples = """
    jupyter session-store purge hub:alice/ --dry-run
    jupyter session-store purge hub:alice/ --yes
    """
    arguments = ("NAMESPACE",)
    flags: Any = {
        **RemovingCommand.flags,
        "force": (
            {"CleaningCommand": {"force": True}},
            "Though its servers may be alive: one that is comes back with the sessions of its "
            "running kernels.",
        ),
    }

    def run(self) -> ExitCode:
        """Watch, count, ask, remove."""
        from ..sql.admin import listing, pruning

        namespace = self.extra_args[0]
        check_text("namespace", namespace)
        if not self.dry_run:
            self.refuse_unanswerable()
        selection = pruning.Selection(listing.Criteria(namespace=namespace), vacated=not self.force)
        with self.connection() as connection:
            servers = listing.servers(connection, namespace)
            counted = pruning.count(connection, selection)
            if not servers and not counted.sessions:
                self.note(f"There is nothing of the namespace {namespace!r}.")
                return ExitCode.NO
            if not self.force:
                alive, servers = self.judge(connection, namespace)
                if alive:
                    self.refuse_living(alive)
                    return ExitCode.NO
            if self.dry_run:
                return self.preview(connection, selection, counted, len(servers))
            if not self.confirm(
                f"Remove {counted.sessions} session(s) and {len(servers)} server(s) of the "
                f"namespace {namespace!r}?"
            ):
                return ExitCode.NO
            evict = pruning.unregister if self.force else pruning.evict
            self.remove(connection, selection, evict(connection, servers))
            came = listing.servers(connection, namespace)
        if came and not self.force:
            self.note(
                f"The server {came[0].server_id} came back or was started meanwhile, and what it "
                "has stays. Stop it and run this again."
            )
            return ExitCode.NO
        return ExitCode.DONE


class Rename(CleaningCommand):
    """Give a namespace another name."""

    name = "jupyter-session-store rename"
    description = """
    Give the sessions of a namespace to another one: a user was renamed.

    All of it in one transaction, or nothing. Where the new namespace has
    sessions already, those that come and whose path is held there lose their
    claim to it; if both have a session of one id, all is refused.

    Refused, with exit code 1, while a server of either is alive, which is seen
    by watching for as long as the longest lease; and if there is nothing of it.
    """
    examples = """
    jupyter session-store rename hub:alice/ hub:alice.smith/
    """
    arguments = ("NAMESPACE", "NEW")
    flags: Any = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "force": (
            {"CleaningCommand": {"force": True}},
            "Though servers of either may be alive: one of the old name goes on under it, and "
            "takes the sessions of its running kernels back.",
        ),
    }
    if_interrupted = "All was changed, or nothing: look with `jupyter session-store list`."

    def run(self) -> ExitCode:
        """Watch, rename."""
        from ..sql.admin import renaming

        old, new = self.extra_args
        check_text("namespace", old)
        check_namespace(new)
        if old == new:
            raise ConfigurationError(
                f"Found {old!r} twice; expected the namespace and another name for it."
            )
        with self.connection() as connection:
            dead = None
            if not self.force:
                alive, dead = self.judge(connection, old, new)
                if alive:
                    self.refuse_living(alive)
                    return ExitCode.NO
            try:
                done = renaming.rename(connection, old, new, dead)
            except renaming.ServerCame as error:
                self.refuse_living([error.server])
                return ExitCode.NO
            except SessionConflict as error:
                self.note(
                    f"Both {old!r} and {new!r} have a session of the id {error.session_id!r}; "
                    "expected none. Nothing was changed. Remove one of the two."
                )
                return ExitCode.NO
        if not done.sessions and not done.servers:
            self.note(f"There is nothing of the namespace {old!r}.")
            return ExitCode.NO
        self.report(
            done._asdict(),
            f"Renamed {done.sessions} session(s) and {done.servers} server(s); "
            f"{done.claims_lost} lost the claim to their path.",
        )
        return ExitCode.DONE
