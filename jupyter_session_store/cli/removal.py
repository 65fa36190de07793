"""What prune, purge, remove and rename share: live servers, and removal in batches."""

from __future__ import annotations

import json
import shlex
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from jupyter_core.paths import jupyter_runtime_dir
from traitlets import Bool

from ..config.namespaces import hub_path
from ..records import Liveness
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .observation import observe
from .output import format_value
from .selection import NamespaceCommand
from .session_columns import SESSION_COLUMNS, session_row

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.listing import Criteria
    from ..sql.admin.pruning import Counted, Selection
    from ..sql.admin.summaries import Namespace

#: How many names a sentence lists.
_NAMED: Final = 3
FORCE: Final = (
    {"CleaningCommand": {"force": True}},
    "Also what living servers use on a gateway; it comes back while its kernel runs. Only servers "
    "with kernels of their own are watched; one whose liveness cannot be determined is taken for "
    "dead.",
)


@contextmanager
def _stop_after_batch(note: Callable[[str], None]) -> Iterator[Event]:
    """Yield an event that Ctrl-C sets; a second Ctrl-C raises as usual."""
    stopped = Event()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopped.set()
        # Another line may be half written, and this Ctrl-C may have ended whoever reads the lines.
        with suppress(OSError, RuntimeError):
            note("\nStopping after this batch. Ctrl-C once more does not wait for it.")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


class CleaningCommand(NamespaceCommand):
    """What prune, purge, remove and rename share: they leave live servers alone."""

    flags = {
        **StoreCommand.flags,
        **YES_FLAGS,
        **JSON_FLAG,
        "dry-run": (
            {"CleaningCommand": {"dry_run": True}},
            "Say what would be done, and change nothing.",
        ),
        "force": FORCE,
    }

    force = Bool(False, help="Also what living servers use on a gateway.").tag(config=True)
    dry_run = Bool(False, help="Say what would be done, and change nothing.").tag(config=True)

    def observe_servers(
        self,
        connection: Connection,
        concerns: Callable[[ServerRecord], bool],
        *,
        must_know: bool = True,
    ) -> tuple[list[ServerRecord], list[ServerRecord]]:
        """Observe the servers that it concerns, all at once, and return the live and the dead.

        A server of unknown liveness counts as alive, or with ``--force`` as dead; `must_know` is
        that of :func:`.observe`.
        """
        from ..sql.admin import listing

        def registered() -> list[ServerRecord]:
            return list(filter(concerns, listing.servers(connection)))

        before = registered()
        must_know = must_know and not self.force
        liveness = observe(connection, before, self.note, must_know=must_know)
        taken_for_dead = {Liveness.GONE.value, *([Liveness.UNKNOWN.value] if self.force else [])}
        seen = {server.key: server.renewals for server in before}
        alive: list[ServerRecord] = []
        dead: list[ServerRecord] = []
        for server in registered():
            # A server that was registered, or renewed its lease, meanwhile is alive.
            gone = liveness.get(server.key) in taken_for_dead
            (dead if gone and seen[server.key] == server.renewals else alive).append(server)
        return alive, dead

    def find_namespaces(
        self, connection: Connection, chosen: Sequence[Criteria]
    ) -> dict[str, Namespace]:
        """Return what there is of the chosen namespaces, and say of which there is nothing."""
        from ..sql.admin import summaries

        found = {criteria: summaries.namespaces(connection, criteria) for criteria in chosen}
        missing = [criteria for criteria, some in found.items() if not some]
        if len(missing) == 1:
            self.note_missing(connection, missing[0])
        elif missing:
            names = [str(criteria.namespace or criteria.prefix) for criteria in missing]
            self.note(f"There is nothing of the namespaces {describe_names(names)}.")
        return {one.namespace: one for some in found.values() for one in some}

    def observe_namespaces(
        self, connection: Connection, names: Collection[str], others: Collection[str] = ()
    ) -> tuple[list[ServerRecord], list[ServerRecord]]:
        """Observe the servers of namespaces, and return the live and the dead; report the live.

        With ``--force`` only those with sessions on kernels of their own, and not the `others`.
        """
        from ..sql.admin import listing, summaries

        own_kernels = {
            key
            for name in names
            for key in summaries.own_kernels(connection, listing.Criteria(namespace=name))
        }

        def concerns(server: ServerRecord) -> bool:
            if self.force:
                return server.key in own_kernels
            return server.namespace in names or server.namespace in others

        alive, dead = self.observe_servers(connection, concerns)
        self.report_alive(alive, own_kernels)
        return alive, dead

    def note_grants_left(self, connection: Connection, namespaces: Collection[str]) -> None:
        """Say what roles behind a wall were granted of namespaces whose rows are not there."""
        from ..sql.admin import heirs

        found = heirs.left(connection, namespaces)
        if not found:
            return
        roles = list(dict.fromkeys(one.role for one in found))
        names = describe_names([f"{one.role}: {one}" for one in found])
        self.note(
            f"What was granted of these namespaces stays ({names}). To take it back: "
            + self.add_url_to_commands(
                f"jupyter session-store wall revoke --role {shlex.quote(roles[0])}"
                if len(roles) == 1
                else "jupyter session-store wall revoke --role ROLE"
            )
        )

    def exit_code(self, refused: Collection[object]) -> ExitCode:
        """Return the exit code, given what was refused."""
        return ExitCode.ALIVE if refused else ExitCode.DONE

    def report_alive(
        self, alive: Iterable[ServerRecord], own_kernels: Collection[tuple[str, str]] = ()
    ) -> None:
        """Print which servers are alive, and what can be done about what they have.

        `own_kernels` has the keys of the servers with sessions on kernels of their own.
        """
        on_gateway = False
        for server in alive:
            self.note(f"{describe_server(server)} is alive: stop it first.")
            if server.key in own_kernels:
                self.note(
                    "  It would write the sessions of its own kernels back. To end one, use "
                    f"{describe_api(server)}"
                )
            else:
                on_gateway = True
        if on_gateway and not self.force:
            self.note("Or go on regardless of what they have on a gateway: --force")

    def report(self, values: dict[str, Any], text: str) -> None:
        """Write what was done: a sentence, or an object of JSON that names the database, too."""
        if self.as_json:
            self.output.one({"database": self.database_name, **values})
        else:
            self.output.text(text)


class RemovingCommand(CleaningCommand):
    """What prune, purge and remove share: previews, and removal in batches."""

    flags = {
        **CleaningCommand.flags,
        "dry-run": (
            {"CleaningCommand": {"dry_run": True}},
            "Say how many sessions would be removed, with --json list them, and change nothing.",
        ),
    }

    def preview(
        self,
        connection: Connection,
        selections: Iterable[Selection],
        counted: Counted,
        servers: int,
    ) -> None:
        """Say how much would be removed; with ``--json`` list it."""
        if self.as_json:
            found = (one for selection in selections for one in selection.sessions(connection))
            self.output.rows(map(session_row, found), SESSION_COLUMNS, empty="")
        else:
            self.output.text(
                f"Would remove {describe_counted(counted)} and {servers} server(s) from "
                f"{self.database_name}. Nothing was changed."
            )

    def confirm_removal(
        self, counted: Counted, servers: int, namespaces: Collection[str] = ()
    ) -> bool:
        """Ask whether so much is to be removed, of these namespaces."""
        names = f" ({describe_names(namespaces)})" if namespaces else ""
        return self.confirm(
            f"Remove {describe_counted(counted)}{names} and {servers} server(s) from "
            f"{self.database_name}?"
        )

    def remove(
        self, connection: Connection, selections: Iterable[Selection], servers: Iterator[int]
    ) -> tuple[Counted, int]:
        """Remove servers, then the selected sessions, and return both numbers.

        The iterator `servers` removes servers as it advances, and yields how many. No
        namespace is in two of the selections.
        """
        from ..sql.admin import pruning

        evicted = 0
        before = counted = pruning.Counted(0, 0)
        with _stop_after_batch(self.note) as stopped:
            try:
                for number in servers:
                    evicted += number
                    if stopped.is_set():
                        break
                for selection in () if stopped.is_set() else selections:
                    before = counted
                    for step in pruning.remove(connection, selection):
                        counted = before.plus(step)
                        if stopped.is_set():
                            break
                    if stopped.is_set():
                        break
            except BaseException:
                # A database completes a statement though its client is gone.
                self._note_removed_so_far(counted, evicted, " The batch that failed may be, too.")
                raise
        if stopped.is_set():
            self._note_removed_so_far(counted, evicted)
            raise KeyboardInterrupt
        if counted.sessions or evicted:
            self.interrupt_message = f"{_describe_removed(counted, evicted)}."
        return counted, evicted

    def report_removed(self, counted: Counted, evicted: int, **more: Any) -> None:
        """Write how much was removed."""
        self.report(
            {
                "removed": counted.sessions,
                "namespaces": counted.namespaces,
                "evicted": evicted,
                **more,
            },
            f"Removed {describe_counted(counted)} and {evicted} server(s) from "
            f"{self.database_name}.",
        )

    def _note_removed_so_far(self, counted: Counted, evicted: int, more: str = "") -> None:
        self.note(f"\n{_describe_removed(counted, evicted)}.{more}")
        self.interrupt_message = "To go on, run it again."


def _describe_removed(counted: Counted, evicted: int) -> str:
    return f"{describe_counted(counted)} and {evicted} server(s) are removed"


def describe_counted(counted: Counted) -> str:
    """Return how many sessions were counted, in words."""
    return f"{counted.sessions} session(s) of {counted.namespaces} namespace(s)"


def describe_names(names: Collection[str]) -> str:
    """Return some names in words, and how many more there are."""
    shown = ", ".join(map(repr, list(names)[:_NAMED]))
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def describe_server(server: ServerRecord) -> str:
    """Return which server it is, in words."""
    return (
        f"The server {format_value(server.server_id)} (process {server.pid} on "
        f"{format_value(server.hostname)}) of the namespace {server.namespace!r}"
    )


def describe_api(server: ServerRecord, session_id: str | None = None) -> str:
    """Return how a session is ended by the API of its server, in words; no token is in it."""
    end = f"api/sessions/{'ID' if session_id is None else quote(session_id, safe='')}"
    path = hub_path(server.namespace)
    if path is not None:
        return f"its API: DELETE {path}{end} at the address of the hub."
    if (address := _address_here(server)) is not None:
        return f"its API: DELETE {address}{end}."
    host = format_value(server.hostname)
    return f"its API: DELETE {end} at its address, which `jupyter server list` shows on {host}."


def _address_here(server: ServerRecord) -> str | None:
    """Return the address of a server of this user on this machine; it has no token."""
    from ..kernels.outliving.folder import UnsafeFile, read_safely

    if server.hostname != socket.gethostname():
        return None
    try:
        file = Path(jupyter_runtime_dir()) / f"jpserver-{server.pid}.json"
        found = json.loads(read_safely(file))
        parts = urlsplit(found["url"])
        if found["pid"] != server.pid or not parts.hostname:
            return None
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except (UnsafeFile, OSError, ValueError, KeyError, TypeError, AttributeError):
        # What the file says is for other programs; this one does without.
        return None
