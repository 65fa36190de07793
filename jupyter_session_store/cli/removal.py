"""What prune, purge and rename share: who is alive, questions, and removing in batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from traitlets import Bool

from ..records import Liveness
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .observing import observe
from .output import format_value
from .selection import SESSION_COLUMNS, session_row

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.cleaning import Counted, Selection

__all__ = ["CleaningCommand", "RemovingCommand", "describe_counted"]


@contextmanager
def _stop_after_batch(note: Callable[[str], None]) -> Iterator[Event]:
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

    def observe_servers(
        self, connection: Connection, *namespaces: str | None, must_know: bool = True
    ) -> tuple[list[ServerRecord], list[ServerRecord]]:
        """Watch servers, and return those that are alive, and those that were seen dead.

        Parameters
        ----------
        connection : Connection
        namespaces : str or None
            Whose servers; ``None`` for everybody's.
        must_know : bool
            As :func:`.observe` has it. Who is not known to be dead is alive.

        Raises
        ------
        StoreUnavailable
            If it cannot be seen who is.
        """
        from ..sql.admin import listing

        def registered() -> list[ServerRecord]:
            return [one for name in namespaces for one in listing.servers(connection, name)]

        before = registered()
        liveness = observe(connection, before, self.note, must_know=must_know)
        seen = {(one.namespace, one.server_id): one.renewals for one in before}
        alive: list[ServerRecord] = []
        dead: list[ServerRecord] = []
        for server in registered():
            key = (server.namespace, server.server_id)
            # One that came, or came back, while others were watched is alive.
            gone = liveness.get(key) == Liveness.GONE.value and seen[key] == server.renewals
            (dead if gone else alive).append(server)
        return alive, dead

    def report_alive(self, alive: Collection[ServerRecord]) -> None:
        """Say which servers are in the way."""
        for server in alive:
            self.note(
                f"The server {format_value(server.server_id)} (process {server.pid} on "
                f"{format_value(server.hostname)}) of the namespace {server.namespace!r} is alive."
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
            rows = map(session_row, selection.sessions(connection))
            self.output.rows(rows, SESSION_COLUMNS, empty="")
        else:
            self.output.text(
                f"Would remove {describe_counted(counted)} and {servers} server(s). "
                "Nothing was changed."
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
        from ..sql.admin import cleaning

        evicted = 0
        counted = cleaning.Counted(0, 0)
        with _stop_after_batch(self.note) as stopped:
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
                self._note_removed_so_far(counted, evicted, " The batch that failed may be, too.")
                raise
        if stopped.is_set():
            self._note_removed_so_far(counted, evicted)
            raise KeyboardInterrupt
        self.report(
            {"removed": counted.sessions, "namespaces": counted.namespaces, "evicted": evicted},
            f"Removed {describe_counted(counted)} and {evicted} server(s).",
        )
        return ExitCode.DONE

    def _note_removed_so_far(self, counted: Counted, evicted: int, more: str = "") -> None:
        self.note(f"\n{describe_counted(counted)} and {evicted} server(s) are removed.{more}")
        self.interrupt_message = "To go on, run it again."


def describe_counted(counted: Counted) -> str:
    """Return how many sessions were counted, in words."""
    return f"{counted.sessions} session(s) of {counted.namespaces} namespace(s)"
