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
from ..records import STATES, check_text
from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    from ..records import SessionRecord
    from ..sql.admin.listing import Criteria

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

    def criteria(self, session_id: str | None = None) -> Criteria:
        """Return which sessions are meant.

        Raises
        ------
        SessionStoreError
            If no session can have what was given.
        """
        from ..sql.admin.listing import Criteria

        given = {
            "namespace": self.namespace or None,
            "session_id": session_id,
            "path": self.path or None,
            "kernel_id": self.kernel or None,
            "server_id": self.server or None,
        }
        for field, value in given.items():
            check_text(field, value)
        since = self.older_than and moment_before(self.older_than, "--older-than")
        return Criteria(**given, state=self.state or None, unchanged_since=since or None)


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
        from ..sql.admin import listing

        criteria = self.criteria()
        with self.connection() as connection:
            rows = map(row_of, listing.sessions(connection, criteria))
            self.output.rows(rows, COLUMNS, empty="No sessions.")
        return ExitCode.DONE


class Show(SelectingCommand):
    """Show all that is stored of a session."""

    name = "jupyter-session-store show"
    description = """
    Show all that is stored of a session, in whichever namespace it is, or of
    each session that the options select.

    With --json an array, whatever their number. The exit code is 1 if there is
    none.
    """
    examples = """
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55 --json
    jupyter session-store show --namespace hub:alice/ --path Untitled.ipynb
    """
    arguments = ("SESSION",)
    optional_arguments = 1
    flags: Any = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        """Show it."""
        from ..sql.admin import listing

        session_id = self.extra_args[0] if self.extra_args else None
        criteria = self.criteria(session_id)
        if criteria == listing.Criteria():
            raise ConfigurationError(
                "Found neither SESSION nor an option that says which sessions; expected one of "
                "them, for example --path PATH. To show all of them: jupyter session-store list"
            )
        with self.connection() as connection:
            rows = map(row_of, listing.sessions(connection, criteria))
            if not self.output.each(rows):
                self.note(
                    f"There is no session of the id {session_id!r}."
                    if session_id and criteria == listing.Criteria(session_id=session_id)
                    else "There is no such session."
                )
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
        from ..sql.admin import listing
        from .observing import observe

        check_text("namespace", self.namespace)
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
