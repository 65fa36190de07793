"""Remove single sessions."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from ..authorities import server_of
from ..errors import ConfigurationError
from ..records import check_text
from .command import ExitCode, StoreCommand
from .removal import RemovingCommand, describe_api, describe_names, describe_server

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Connection

    from ..records import ServerRecord, SessionRecord


#: Ids that one statement names.
_BATCH: Final = 300


class Remove(RemovingCommand):
    name = "jupyter-session-store remove"
    description = """
    Remove sessions by their ids, in whichever namespace they are.

    A session stays while a server is alive that answers for it, with exit code
    5: that server would write it back. Its own API can end it, and
    the address is shown. All servers are watched at once, for as long as the
    longest lease at most. Where there is nothing, nothing is to do. Kernels are
    not shut down. Asks before it removes anything.
    """
    examples = """
    jupyter session-store remove 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55 --dry-run
    jupyter session-store remove notes-1 notes-2 --namespace hub:alice/ --yes
    """
    arguments = {"SESSION...": "The whole ids of the sessions that are removed."}
    aliases = {**StoreCommand.aliases, "namespace": "NamespaceCommand.namespace"}

    def run(self) -> ExitCode:
        from ..sql.admin import pruning

        ids = list(dict.fromkeys(self.extra_args))
        for session_id in ids:
            check_text("session_id", session_id)
        if not self.dry_run:
            self.require_answer()
        with self.connection() as connection:
            found = self._find(connection, ids)
            alive, dead = self.observe_servers(connection, self._concerned(found))
            chosen = partial(pruning.Selection, living=alive, force=self.force)
            refused = list(filter(chosen(self.criteria()).attendance(), found))
            self._report_refused(refused, alive)
            going = [one for one in found if one not in refused]
            names = {one.namespace for one in going}
            dead = dead if going else []
            counted = pruning.Counted(len(going), len(names))
            selections = [
                chosen(self.criteria(namespace=name, session_ids=ids))
                for name, some in groupby(going, key=attrgetter("namespace"))
                for ids in _batches([one.session_id for one in some])
            ]
            if self.dry_run:
                self.preview(connection, selections, counted, len(dead))
            elif going and not self.confirm_removal(counted, len(dead)):
                return ExitCode.NO
            else:
                evicting = pruning.evict(connection, dead)
                counted, evicted = self.remove(connection, selections, evicting)
                # A namespace may be in several selections.
                counted = counted._replace(namespaces=min(counted.namespaces, len(names)))
                self.report_removed(counted, evicted, refused=[one.session_id for one in refused])
        return self.exit_code(refused)

    def _find(self, connection: Connection, ids: Sequence[str]) -> list[SessionRecord]:
        """Return the sessions of the ids, in the order of their namespaces."""
        from ..sql.admin import listing

        by_id = defaultdict(list)
        for batch in _batches(ids):
            for record in listing.sessions(connection, self.criteria(session_ids=batch)):
                by_id[record.session_id].append(record)
        for session_id, some in by_id.items():
            if len(some) > 1:
                names = describe_names([one.namespace for one in some])
                raise ConfigurationError(
                    f"The session {session_id!r} is in {len(some)} namespaces ({names}); expected "
                    "--namespace to say which. Nothing was changed."
                )
        if missing := [one for one in ids if one not in by_id]:
            where = f" in the namespace {self.namespace!r}" if self.namespace else ""
            self.note(f"There is no session {describe_names(missing)}{where}.")
        return sorted((one for some in by_id.values() for one in some), key=attrgetter("namespace"))

    def _concerned(self, found: Sequence[SessionRecord]) -> Callable[[ServerRecord], bool]:
        """Return which servers answer for sessions, with --force for those on their own kernels."""
        own = {(one.namespace, server_of(one.authority)) for one in found}
        on_gateway = {one.namespace for one in found if server_of(one.authority) is None}

        def concerns(server: ServerRecord) -> bool:
            return server.key in own or (not self.force and server.namespace in on_gateway)

        return concerns

    def _report_refused(
        self, refused: Sequence[SessionRecord], alive: Collection[ServerRecord]
    ) -> None:
        """Say which sessions stay, and by which address each can be ended."""
        on_gateway = False
        for record in refused:
            own = server_of(record.authority)
            on_gateway = on_gateway or own is None
            server = next(
                one
                for one in alive
                if one.namespace == record.namespace and own in (None, one.server_id)
            )
            self.note(
                f"The session {record.session_id!r} stays: {describe_server(server)} is alive, "
                f"and would write it back. Use {describe_api(server, record.session_id)}"
            )
        if on_gateway:
            self.note("Or go on regardless of servers that only use a gateway: --force")


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
