"""The subcommands that remove and rename: prune, purge, rename."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Unicode

from ..errors import ConfigurationError, SessionConflict
from ..records import Liveness, check_namespace, check_text
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .inspecting import COLUMNS, moment_before, row_of
from .observing import observe

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.cleaning import Counted, Selection

__all__ = ["Prune", "Purge", "Rename"]


@contextmanager
def _stoppable(note: Callable[[str], None]) -> Iterator[Event]:
    """Yield an event that Ctrl-C sets, so that a step is counted before there is an end.

    A second Ctrl-C ends the step itself.
    """
    stopped = Event()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped.set()
        note("\nStopping after this batch. Ctrl-C once more does not wait for it.")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


class CleaningCommand(StoreCommand):
    """What the three share: who is alive, and what is said of it."""

    force = Bool(False, help="Whoever is alive.").tag(config=True)

    def judge(
        self, connection: Connection, *namespaces: str | None
    ) -> tuple[list[ServerRecord], list[ServerRecord]]:
        """Watch servers, and return those that are alive, and those that were seen dead.

        Parameters
        ----------
        connection : Connection
        namespaces : str or None
            Whose servers; ``None`` for everybody's.
        """
        from ..sql import listing

        def registered() -> list[ServerRecord]:
            return [one for name in namespaces for one in listing.servers(connection, name)]

        before = registered()
        liveness = observe(connection, before, self.note)
        seen = {(one.namespace, one.server_id): one.renewals for one in before}
        alive: list[ServerRecord] = []
        dead: list[ServerRecord] = []
        for server in registered():
            key = (server.namespace, server.server_id)
            # One that came, or came back, while others were watched is alive.
            gone = liveness.get(key) == Liveness.GONE.value and seen[key] == server.renewals
            (dead if gone else alive).append(server)
        return alive, dead

    def refuse_living(self, alive: Collection[ServerRecord]) -> None:
        """Say which servers are in the way."""
        for server in alive:
            self.note(
                f"The server {server.server_id} (process {server.pid} on {server.hostname}) of "
                f"the namespace {server.namespace!r} is alive."
            )
        self.note(
            "Nothing was changed. Stop its servers and run this again, or go on regardless: --force"
        )

    def report(self, values: dict[str, Any], text: str) -> None:
        """Say what was done: a sentence, or an object of JSON."""
        if self.as_json:
            self.output.one(values)
        else:
            self.output.text(text)


class RemovingCommand(CleaningCommand):
    """What prune and purge share."""

    flags: Any = {
        **StoreCommand.flags,
        **YES_FLAGS,
        **JSON_FLAG,
        "dry-run": (
            {"RemovingCommand": {"dry_run": True}},
            "Say how many sessions would be removed, with --json list them, and change nothing.",
        ),
    }

    dry_run = Bool(False, help="Say what would be removed, and change nothing.").tag(config=True)

    def preview(
        self, connection: Connection, selection: Selection, counted: Counted, servers: int
    ) -> ExitCode:
        """Say, or list, what would be removed."""
        if self.as_json:
            rows = map(row_of, selection.sessions(connection))
            self.output.rows(rows, COLUMNS, empty="")
        else:
            self.output.text(
                f"Would remove {_sessions(counted)} and {servers} server(s). Nothing was changed."
            )
        return ExitCode.DONE

    def remove(
        self, connection: Connection, selection: Selection, servers: Iterator[int]
    ) -> ExitCode:
        """Remove servers, then sessions, and say how many.

        Parameters
        ----------
        connection : Connection
        selection : Selection
            Of the sessions.
        servers : iterator of int
            Removes servers as it is advanced, and yields how many it has removed.
        """
        from ..sql import cleaning

        evicted = 0
        counted = cleaning.Counted(0, 0)
        with _stoppable(self.note) as stopped:
            try:
                for number in servers:
                    evicted += number
                    if stopped.is_set():
                        break
                else:
                    for step in cleaning.remove(connection, selection):
                        counted = step
                        if stopped.is_set():
                            break
            except BaseException:
                # A database goes on with a statement whose client is gone.
                self._removed_until_now(counted, evicted, " The batch that failed may be, too.")
                raise
        if stopped.is_set():
            self._removed_until_now(counted, evicted)
            raise KeyboardInterrupt
        self.report(
            {"removed": counted.sessions, "namespaces": counted.namespaces, "evicted": evicted},
            f"Removed {_sessions(counted)} and {evicted} server(s).",
        )
        return ExitCode.DONE

    def _removed_until_now(self, counted: Counted, evicted: int, more: str = "") -> None:
        self.note(f"\n{_sessions(counted)} and {evicted} server(s) are removed.{more}")
        self.if_interrupted = "To go on, run it again."


def _sessions(counted: Counted) -> str:
    return f"{counted.sessions} session(s) of {counted.namespaces} namespace(s)"


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
        from ..sql import cleaning, listing

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
            selection = cleaning.Selection(
                listing.Criteria(namespace=self.namespace or None, unchanged_since=since),
                dead_servers=self.dead_servers,
                living=alive,
            )
            counted = cleaning.count(connection, selection)
            if not counted.sessions and not self.dead_servers:
                dead = []
            if self.dry_run:
                return self.preview(connection, selection, counted, len(dead))
            if (counted.sessions or dead) and not self.confirm(
                f"Remove {_sessions(counted)}, and evict {len(dead)} dead server(s)?"
            ):
                return ExitCode.NO
            return self.remove(connection, selection, cleaning.evict(connection, dead))

    def _judge(
        self, connection: Connection
    ) -> tuple[list[ServerRecord] | None, list[ServerRecord]]:
        """Return who is alive, ``None`` if that does not matter, and who is to be evicted."""
        from ..sql import listing

        if not self.force:
            return self.judge(connection, self.namespace or None)
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
        from ..sql import cleaning, listing

        namespace = self.extra_args[0]
        check_text("namespace", namespace)
        if not self.dry_run:
            self.refuse_unanswerable()
        selection = cleaning.Selection(
            listing.Criteria(namespace=namespace), vacated=not self.force
        )
        with self.connection() as connection:
            servers = listing.servers(connection, namespace)
            counted = cleaning.count(connection, selection)
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
            evict = cleaning.unregister if self.force else cleaning.evict
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
        from ..sql import renaming

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
