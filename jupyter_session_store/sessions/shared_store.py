"""The verbs of the storage contract for shared sessions; what the store has lost is put back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from logging import Logger
from types import MappingProxyType
from typing import Any

from ..errors import PathClaimed, SessionConflict
from ..kernels.authority import KernelAuthority
from ..records import (
    READY,
    STARTING,
    Closing,
    Liveness,
    Move,
    Scope,
    SessionRecord,
    claim_of,
    printable,
)
from ..repository import SessionRepository, changed_columns
from ..servers.registered_store import RegisteredStore
from .remembered import Differences, RememberedSessions


class SharedStore:
    """What the parts ask for sessions that other servers use too. For one event loop's tasks.

    The store is the truth about them. Each read compares what it finds with what this server
    remembers, and mends before it answers: so no list lacks a living session, and no
    request starts a second kernel for one. Each verb is as :class:`.SessionRepository` has it.
    """

    def __init__(
        self, registered: RegisteredStore, authority: KernelAuthority, log: Logger
    ) -> None:
        self._registered = registered
        self._authority = authority
        self._log = log
        #: What this server knows.
        self.remembered = RememberedSessions()

    @property
    def is_closed(self) -> bool:
        """Whether the session manager has been closed."""
        return self._registered.is_closed

    @property
    def repository(self) -> SharedStore:
        """The verbs; raises :class:`.StoreUnavailable` if the manager has been closed."""
        self._registered.refuse_if_closed()
        return self

    async def current(self) -> SharedStore:
        """Return the verbs once this server is registered in the store."""
        await self._registered.current()
        return self

    @property
    def _repository(self) -> SessionRepository:
        return self._registered.repository

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Find sessions, and first put back what the store has lost.

        One that it does not have, and whose kernel cannot be asked for, is returned as it was
        remembered: whether it was lost or closed is not known.
        """
        found = await self._repository.find(scope, **criteria)
        differences = self.remembered.compare(found, criteria)
        if not differences:
            return found
        if await self._mend(scope, differences):
            found = await self._repository.find(scope, **criteria)
            for record in found:
                self.remembered.note(record)
        there = {record.session_id for record in found}
        unknown = [one for one in differences.unknown if one.session_id not in there]
        return sorted([*found, *unknown], key=lambda one: (one.created_at, one.session_id))

    def kernels_in_memory(self) -> set[str]:
        """Return the kernels of all sessions that this server remembers."""
        return self.remembered.kernel_ids()

    async def _mend(self, scope: Scope, differences: Differences) -> bool:
        """Return whether anything was mended."""
        mended = False
        for record in differences.undeleted:
            if await self._repository.remove(scope, [record]):
                self._say("deleted again", record)
                mended = True
        for record, newest in differences.older:
            mended = await self._bring_forward(scope, record, newest) or mended
        for record in differences.missing:
            mended = await self._put_back(scope, record, differences.unknown) or mended
        return mended

    async def _bring_forward(
        self, scope: Scope, record: SessionRecord, newest: SessionRecord
    ) -> bool:
        changes = changed_columns(record, newest)
        if changes:
            # The version, too: else a server that remembers a newer one takes what a client
            # changes next for older than that.
            changes["version"] = newest.version
            updated = await self._repository.update(
                scope, record.session_id, changes, expected={"version": record.version}
            )
            if updated is None:
                # Another server has changed it since it was read.
                return True
            self._say("brought forward", updated)
            record = updated
        self.remembered.note(record)
        return bool(changes)

    async def _put_back(
        self, scope: Scope, record: SessionRecord, unknown: list[SessionRecord]
    ) -> bool:
        repository, kernel_id = self._repository, record.kernel_id
        if found := await repository.find(scope, session_id=record.session_id):
            # It does not equal what was looked for any more.
            self.remembered.note(found[0])
            return False
        liveness = Liveness.GONE
        if kernel_id is not None:
            liveness = await self._authority.check_liveness(kernel_id)
        if liveness is Liveness.UNKNOWN:
            unknown.append(record)
            return False
        if liveness is Liveness.GONE or await repository.find(scope, kernel_id=kernel_id):
            # Closed by another server; or it has another id now.
            self.remembered.forget(record.session_id)
            return False
        # In the same version: another server may remember a newer one.
        lost = record.replace(state=READY, claim=claim_of(scope, record.path))
        try:
            try:
                await repository.add(lost)
            except PathClaimed:
                lost = lost.replace(claim=None)
                await repository.add(lost)
        except SessionConflict:
            # Another server was faster.
            return True
        self.remembered.note(lost)
        self._say("put back", lost)
        return True

    def _say(self, what: str, record: SessionRecord) -> None:
        self._log.warning(
            "The store had lost a change of the session %s. The session was %s.",
            printable(record.session_id),
            what,
        )

    async def add(self, record: SessionRecord) -> None:
        """Add a session."""
        await self._repository.add(record)
        self.remembered.note(record)

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, Any] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Change a session."""
        updated = await self._repository.update(scope, session_id, changes, expected=expected)
        if updated is not None:
            if updated.session_id != session_id:
                self.remembered.forget(session_id)
            self.remembered.note(updated)
        return updated

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark a session as closing."""
        closing = await self._repository.begin_close(scope, session_id, server_id)
        if closing is not None:
            self.remembered.note(closing.record)
        return closing

    async def move(
        self, scope: Scope, session_id: str, kernel_id: str, changes: Mapping[str, Any]
    ) -> Move | None:
        """Move a session."""
        move = await self._repository.move(scope, session_id, kernel_id, changes)
        if move is not None:
            self.remembered.note(move.record)
        return move

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions."""
        removed = await self._repository.remove(scope, records)
        for record in records:
            if record.state != STARTING:
                self.remembered.note_deleted(record)
        return removed
