"""What prune, purge and rename share: live servers, and removal in batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from traitlets import Bool

from ..records import Liveness
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .observation import observe
from .output import format_value
from .selection import SESSION_COLUMNS, session_row

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.pruning import Counted, Selection


@contextmanager
def _stop_after_batch(note: Callable[[str], None]) -> Iterator[Event]:
    """Yield an event that Ctrl-C sets; a second Ctrl-C raises as usual."""
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
    """What prune, purge and rename share: they leave live servers alone."""

    force = Bool(False, help="Whoever is alive.").tag(config=True)

    def observe_servers(
        self, connection: Connection, *namespaces: str | None, must_know: bool = True
    ) -> tuple[list[ServerRecord], list[ServerRecord]]:
        """Observe the servers of namespaces, and return the live and the dead ones.

        ``None`` stands for all namespaces. A server of unknown liveness counts as alive;
        `must_know` is that of :func:`.observe`.
        """
        from ..sql.admin import listing

        def registered() -> list[ServerRecord]:
            return [one for name in namespaces for one in listing.servers(connection, name)]

        before = registered()
        liveness = observe(connection, before, self.note, must_know=must_know)
        seen = {server.key: server.renewals for server in before}
        alive: list[ServerRecord] = []
        dead: list[ServerRecord] = []
        for server in registered():
            # A server that was registered, or renewed its lease, meanwhile is alive.
            gone = liveness.get(server.key) == Liveness.GONE.value
            (dead if gone and seen[server.key] == server.renewals else alive).append(server)
        return alive, dead

    def report_alive(self, alive: Collection[ServerRecord]) -> None:
        """Print which servers are alive, and that they have to be stopped."""
        for server in alive:
            self.note(
                f"The server {format_value(server.server_id)} (process {server.pid} on "
                f"{format_value(server.hostname)}) of the namespace {server.namespace!r} is alive."
            )
        self.note(
            "Nothing was changed. Stop its servers and run this again, or go on regardless: --force"
        )

    def report(self, values: dict[str, Any], text: str) -> None:
        """Write what was done: a sentence, or an object of JSON."""
        if self.as_json:
            self.output.one(values)
        else:
            self.output.text(text)


class RemovingCommand(CleaningCommand):
    """What prune and purge share: previews, and removal in batches."""

    flags = {
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
        """Count what would be removed; with ``--json`` list it."""
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
        """Remove servers, then the selected sessions, and report both numbers.

        The iterator `servers` removes servers as it advances, and yields how many.
        """
        from ..sql.admin import pruning

        evicted = 0
        counted = pruning.Counted(0, 0)
        with _stop_after_batch(self.note) as stopped:
            try:
                for number in servers:
                    evicted += number
                    if stopped.is_set():
                        break
                else:
                    for step in pruning.remove(connection, selection):
                        counted = step
                        if stopped.is_set():
                            break
            except BaseException:
                # A database completes a statement though its client is gone.
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
