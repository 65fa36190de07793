"""Remove all of some namespaces."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import Unicode

from ..errors import ConfigurationError
from ..records import check_text
from .command import ExitCode, StoreCommand
from .removal import RemovingCommand, describe_server
from .selection import user_namespaces

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection

    from ..records import ServerRecord
    from ..sql.admin.listing import Criteria


class Purge(RemovingCommand):
    name = "jupyter-session-store purge"
    description = """
    Remove all sessions and server registrations of namespaces: users have left.

    Whatever their number, all servers are watched at once, for as long as the
    longest lease at most. A namespace stays while a server of it is alive, with
    exit code 5; the others go. Where there is nothing, nothing is to do.
    Kernels are not shut down. What roles behind a wall were granted stays: wall
    revoke takes it back. Asks before it removes anything.
    """
    examples = """
    jupyter session-store purge hub:alice/ --dry-run
    jupyter session-store purge hub:alice/ hub:bob/ --yes
    jupyter session-store purge --user alice
    jupyter session-store purge --users leavers.txt --yes --json
    """
    arguments = {"NAMESPACE...": "The namespaces that are removed; or options say which."}
    optional_arguments = 1
    aliases = {
        **StoreCommand.aliases,
        "user": "NamespaceCommand.user",
        "users": "Purge.users",
        "prefix": "NamespaceCommand.prefix",
    }

    users = Unicode(
        help="""
        The namespaces of all users of JupyterHub that a file names, one on each
        line; - is standard input.
        """
    ).tag(config=True)

    def run(self) -> ExitCode:
        from ..sql.admin import listing, pruning

        chosen = self._chosen()
        if not self.dry_run:
            self.require_answer()
        with self.connection() as connection:
            found = self.find_namespaces(connection, chosen)
            alive, dead = self.observe_namespaces(connection, found)
            refused = sorted({server.namespace for server in alive})
            going = {name: one for name, one in found.items() if name not in refused}
            selections = [
                pruning.Selection(
                    listing.Criteria(namespace=name), vacated=not self.force, force=self.force
                )
                for name in going
            ]
            servers = [one for one in listing.servers(connection) if one.namespace in going]
            counted = pruning.Counted(
                sum(one.sessions for one in going.values()),
                sum(one.sessions > 0 for one in going.values()),
            )
            if self.dry_run:
                self.preview(connection, selections, counted, len(servers))
                return self.exit_code(refused)
            if going and not self.confirm_removal(counted, len(servers), going):
                return ExitCode.NO
            removed = self.remove(connection, selections, self._evict(connection, servers, dead))
            refused += [] if self.force else self._returned(connection, going)
            self.report_removed(*removed, refused=refused)
            self.note_grants_left(connection, [name for name in going if name not in refused])
        return self.exit_code(refused)

    def _chosen(self) -> list[Criteria]:
        """Return the criteria of all namespaces that are to go."""
        from ..sql.admin.listing import Criteria

        for name in self.extra_args:
            check_text("namespace", name)
        chosen = [Criteria(namespace=name) for name in dict.fromkeys(self.extra_args)]
        if self.user or self.prefix:
            chosen.append(self.criteria())
        if self.users:
            chosen += (Criteria(**user_namespaces(user)) for user in read_users(self.users))
        if not chosen:
            raise ConfigurationError(
                "Found no argument; expected NAMESPACE..., or --user USER, --users FILE or "
                "--prefix PREFIX. Nothing was changed."
            )
        return chosen

    def _evict(
        self, connection: Connection, servers: list[ServerRecord], dead: list[ServerRecord]
    ) -> Iterator[int]:
        """Remove the registrations of servers; of those that nobody has watched with --force."""
        from ..sql.admin import pruning

        keys = {server.key for server in dead}
        yield from pruning.evict(connection, [one for one in dead if one in servers])
        if self.force:
            rest = [server for server in servers if server.key not in keys]
            yield from pruning.unregister(connection, rest)

    def _returned(self, connection: Connection, going: Collection[str]) -> list[str]:
        """Say which servers have come back, and return their namespaces."""
        from ..sql.admin import listing

        returned = [one for one in listing.servers(connection) if one.namespace in going]
        for server in returned:
            self.note(
                f"{describe_server(server)} came back or was started meanwhile, and what it has "
                "stays. Stop it and run this again."
            )
        return sorted({server.namespace for server in returned})


def read_users(file: str) -> list[str]:
    """Return the users that a file names, one on each line; ``-`` is standard input."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no file {file!r}; expected one that names a user on each line, or for one "
            f"user: --user {shlex.quote(file)}. Nothing was changed."
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"The file {file!r} is not UTF-8; expected text that is. Nothing was changed."
        ) from None
    users = list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))
    if not users:
        given = "Standard input" if file == "-" else f"The file {file!r}"
        raise ConfigurationError(
            f"{given} names nobody; expected a user on each line. Nothing was changed."
        )
    return users
