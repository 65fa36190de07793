"""What subcommands share that choose namespaces and sessions."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from traitlets import Enum, Unicode

from ..config.namespaces import hub_namespace, hub_prefix, namespace_fault
from ..errors import ConfigurationError
from ..records import STATES, check_text
from .command import StoreCommand

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..sql.admin.listing import Criteria

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


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


class NamespaceCommand(StoreCommand):
    """A subcommand whose options select namespaces."""

    aliases = {
        **StoreCommand.aliases,
        **{name: f"NamespaceCommand.{name}" for name in ("namespace", "user", "prefix")},
    }

    namespace = Unicode(help="Only this namespace, exactly as it is written.").tag(config=True)
    user = Unicode(
        help="""
        Only the namespaces of this user of JupyterHub: that of the default server,
        and those of the named ones.
        """
    ).tag(config=True)
    prefix = Unicode(help="Only namespaces that begin so, for example hub:ada/ or dir:/home/.").tag(
        config=True
    )

    def criteria(self, **more: Any) -> Criteria:
        """Return the criteria of the options, which the database could hold as values."""
        from ..sql.admin.listing import Criteria

        given = [name for name in ("namespace", "user", "prefix") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigurationError(
                f"Found --{given[0]} and --{given[1]}; expected one of them. Nothing was changed."
            )
        check_text("namespace", self.namespace)
        chosen = user_namespaces(self.user) if self.user else {}
        if self.prefix:
            check_text("namespace", self.prefix)
            chosen["prefix"] = self.prefix
        return Criteria(**{"namespace": self.namespace or None, **chosen, **more})

    def note_if_missing(self, connection: Connection, criteria: Criteria) -> None:
        """Say if there is nothing of the chosen namespaces."""
        from ..sql.admin import summaries

        chosen = criteria.namespace or criteria.prefix
        if chosen and not summaries.namespaces(connection, criteria):
            self.note_missing(connection, criteria)

    def note_missing(self, connection: Connection, criteria: Criteria) -> None:
        """Say that there is nothing of the chosen namespaces, and which may have been meant."""
        from ..sql.admin.summaries import near_namespaces

        name = criteria.namespace or criteria.prefix or ""
        what = "the namespace" if criteria.namespace else "namespaces that begin with"
        near = near_namespaces(connection, name, hub_prefix(name))
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        self.note(f"There is nothing of {what} {name!r}.{hint}")


def user_namespaces(user: str) -> dict[str, Any]:
    """Return the criteria for all namespaces of a user of JupyterHub.

    Where the user's name is too long for one, that of the default server only: it is a digest.
    """
    prefix = hub_prefix(user)
    if namespace_fault(prefix) is None:
        return {"prefix": prefix}
    return {"namespace": hub_namespace(user)}


class SelectingCommand(NamespaceCommand):
    """A subcommand whose options select sessions."""

    aliases = {
        **NamespaceCommand.aliases,
        **{
            name: f"SelectingCommand.{name.replace('-', '_')}"
            for name in ("path", "kernel", "server", "state", "older-than")
        },
    }

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

    def criteria(self, **more: Any) -> Criteria:
        """Return the criteria of the options, which the database could hold as values."""
        given = {
            "path": self.path or None,
            "kernel_id": self.kernel or None,
            "server_id": self.server or None,
        }
        for field, value in given.items():
            check_text(field, value)
        since = self.older_than and parse_age(self.older_than, "--older-than")
        return super().criteria(
            **given, state=self.state or None, unchanged_since=since or None, **more
        )
