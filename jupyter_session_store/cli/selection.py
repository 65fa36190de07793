"""What list, show, prune and purge share: the choice of sessions, and their rows."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from traitlets import Enum, Unicode

from ..errors import ConfigurationError
from ..records import STATES, check_text
from .command import StoreCommand

if TYPE_CHECKING:
    from ..records import SessionRecord
    from ..sql.admin.listing import Criteria

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


SESSION_COLUMNS: Final = {
    "namespace": "NAMESPACE",
    "path": "PATH",
    "state": "STATE",
    "kernel_id": "KERNEL",
    "updated_at": "CHANGED (UTC)",
    "session_id": "SESSION",
}


def parse_age(text: str, option: str) -> datetime:
    """Return the time that was an age ago, such as ``90s``; `option` is named in the error."""
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


def session_row(record: SessionRecord) -> dict[str, Any]:
    """Return all fields of a session, with the kernel's model decoded."""
    row = record._asdict()
    # A model that is not JSON, because an operator edited it, is shown as it is.
    with suppress(ValueError, RecursionError):
        row["kernel_model"] = json.loads(record.kernel_model or "null")
    return row


class SelectingCommand(StoreCommand):
    """A subcommand whose options select sessions."""

    aliases = {
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
        """Return the criteria of the options, which the database could hold as values."""
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
        since = self.older_than and parse_age(self.older_than, "--older-than")
        return Criteria(**given, state=self.state or None, unchanged_since=since or None)
