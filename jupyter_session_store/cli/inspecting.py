"""The subcommands that only look: list, show, servers."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from traitlets import Bool, Enum, Unicode

from ..errors import ConfigurationError
from ..records import STATES
from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    from ..records import SessionRecord
    from ..sql.listing import Criteria

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")

COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "path": "PATH",
    "state": "STATE",
    "kernel_id": "KERNEL",
    "updated_at": "CHANGED (UTC)",
    "session_id": "SESSION",
}


def moment_before(text: str, option: str) -> datetime:
    """Return the moment that lies a duration back.

    Parameters
    ----------
    text : str
        A number and a unit: ``90s``, ``15m``, ``12h``, ``30d`` or ``2w``.
    option : str
        What it was given for, for the error.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    match = _DURATION.fullmatch(text)
    try:
        if match:
            back = timedelta(**{_UNITS[match[2]]: float(match[1])})
            return datetime.now(timezone.utc) - back
    except OverflowError:
        pass
    raise ConfigurationError(
        f"{option} is {text!r}; expected a number and a unit, for example 90s, 15m, 12h, 30d or 2w."
    )


def row_of(record: SessionRecord) -> dict[str, Any]:
    """Return what is stored of a session, for JSON, its kernel's model decoded."""
    row = record._asdict()
    # One that somebody has edited is shown as it is.
    with suppress(ValueError):
        row["kernel_model"] = json.loads(record.kernel_model or "null")
    return row


class SelectingCommand(StoreCommand):
    """A subcommand for some of the sessions."""

    aliases: Any = {
        **StoreCommand.aliases,
        **{
            name: f"SelectingCommand.{name.replace('-', '_')}"
            for name in ("namespace", "path", "kernel", "server", "state", "older-than")
        },
    }

    namespace = Unicode(help="Only sessions of this namespace.").tag(config=True)
    path = Unicode(help="Only sessions at this path.").tag(config=True)
    kernel = Unicode(help="Only sessions on the kernel of this id.").tag(config=True)
    server = Unicode(help="Only sessions that the server of this id wrote last.").tag(config=True)
    state = Enum(["", *sorted(STATES)], "", help="Only sessions in this state.").tag(config=True)
    older_than = Unicode(
        help="""
        Only sessions that were not changed for so long: a number and a unit, for
        example 90s, 15m, 12h, 30d or 2w. By the clocks of this machine and of the
        server that changed them.
        """
    ).tag(config=True)

    def criteria(self) -> Criteria:
        """Return which sessions are meant."""
        from ..sql.listing import Criteria

        since = self.older_than and moment_before(self.older_than, "--older-than")
        return Criteria(
            namespace=self.namespace or None,
            path=self.path or None,
            kernel_id=self.kernel or None,
            server_id=self.server or None,
            state=self.state or None,
            unchanged_since=since or None,
        )


class List(SelectingCommand):
    """List sessions."""

    name = "jupyter-session-store list"
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
    flags: Any = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        """List them."""
        from ..sql import listing

        criteria = self.criteria()
        with self.connection() as connection:
            rows = map(row_of, listing.sessions(connection, criteria))
            self.output.rows(rows, COLUMNS, empty="No sessions.")
        return ExitCode.DONE


class Show(StoreCommand):
    """Show all that is stored of a session."""

    name = "jupyter-session-store show"
    description = """
    Show all that is stored of a session, in whichever namespace it is.

    The exit code is 1 if there is none of that id.
    """
    examples = """
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55 --json
    """
    arguments = ("SESSION",)
    aliases: Any = {**StoreCommand.aliases, "namespace": "Show.namespace"}
    flags: Any = {**StoreCommand.flags, **JSON_FLAG}

    namespace = Unicode(help="Only of this namespace.").tag(config=True)

    def run(self) -> ExitCode:
        """Show it."""
        from ..sql import listing

        criteria = listing.Criteria(namespace=self.namespace or None, session_id=self.extra_args[0])
        with self.connection() as connection:
            found = list(listing.sessions(connection, criteria))
        for position, record in enumerate(found):
            if position:
                self.output.text("")
            self.output.one(row_of(record))
        if not found:
            self.note(f"There is no session of the id {self.extra_args[0]!r}.")
            return ExitCode.NO
        return ExitCode.DONE


SERVER_COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "server_id": "SERVER",
    "hostname": "HOST",
    "pid": "PROCESS",
    "version": "VERSION",
    "started_at": "STARTED (UTC)",
    "lease_seconds": "LEASE (S)",
    "sessions": "SESSIONS",
    "liveness": "LIVENESS",
}


class Servers(StoreCommand):
    """List the registered servers."""

    name = "jupyter-session-store servers"
    description = """
    List the servers that are registered, and how many sessions each wrote last.

    Whether one is alive cannot be read off a database, only seen: with
    --observe this watches for as long as the longest lease, or until every
    server has renewed its own. Without, it is unknown.
    """
    examples = """
    jupyter session-store servers
    jupyter session-store servers --observe
    """
    aliases: Any = {**StoreCommand.aliases, "namespace": "Servers.namespace"}
    flags: Any = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "observe": ({"Servers": {"observing": True}}, "Watch which renew their leases."),
    }

    namespace = Unicode(help="Only servers of this namespace.").tag(config=True)
    observing = Bool(False, help="Watch which servers renew their leases.").tag(config=True)

    def run(self) -> ExitCode:
        """List them."""
        from ..sql import listing
        from .observing import observe

        with self.connection() as connection:
            found = listing.servers(connection, self.namespace or None)
            liveness = observe(connection, found, self.note) if self.observing else {}
            sessions = Counter(listing.counts(connection))
        rows = (
            {
                **vars(server),
                "sessions": sessions[server.namespace, server.server_id],
                "liveness": liveness.get((server.namespace, server.server_id), "unknown"),
            }
            for server in found
        )
        self.output.rows(rows, SERVER_COLUMNS, empty="No servers.")
        return ExitCode.DONE
