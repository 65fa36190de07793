"""The verbs of the storage contract for shared sessions; what the store has lost is put back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from logging import Logger
from types import MappingProxyType
from typing import Any, Final, TypeVar

from ..errors import PathClaimed, SessionConflict
from ..kernels.authority import KernelAuthority
from ..paths import claim_of
from ..records import READY, Closing, Liveness, Move, Scope, SessionRecord, printable
from ..repository import SessionRepository, changed_columns
from ..servers.registered_store import RegisteredStore
from .remembered import Differences, RememberedSessions, is_older

T = TypeVar("T")

#: How often a look mends what it finds, while other servers that know less do so too.
_ATTEMPTS: Final = 5


class SharedStore:
    """What the parts ask for sessions that other servers use too. For one event loop's tasks.

    The store is the truth about them. Each read compares what it finds with what this server
    remembers, and mends before it answers: so no list lacks a living session, and no
    request starts a second kernel for one. So does each change, which asks no more than the
    repository does if nothing is lost. Each verb is as :class:`.SessionRepository` has it.
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

        Only the list of ``SessionReader`` might be given an older answer. The other callers act on
        the answer: they end kernels, follow a move, attach and count.
        """
        found = await self._repository.find(scope, **criteria)
        differences = self.remembered.compare(found, criteria)
        if not differences:
            return found
        for _ in range(_ATTEMPTS):
            if not await self._mend(scope, differences):
                break
            found = await self._repository.find(scope, **criteria)
            # Another server may have been faster, with what it knows.
            differences = self.remembered.compare(found, criteria)
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
            if is_older(found[0], record):
                # It does not equal yet what was looked for.
                return await self._bring_forward(scope, found[0], record)
            # It does not equal that any more, or another server was faster.
            self.remembered.note(found[0])
            return True
        liveness = Liveness.GONE
        if kernel_id is not None:
            liveness = await self._authority.check_liveness(kernel_id)
        if liveness is Liveness.UNKNOWN:
            unknown.append(record)
            return False
        on_kernel: list[SessionRecord] = []
        if liveness is not Liveness.GONE:
            on_kernel = await repository.find(scope, kernel_id=kernel_id)
            if any(one.session_id == record.session_id for one in on_kernel):
                # Another server was faster.
                return True
        if liveness is Liveness.GONE or on_kernel:
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
        """Change a session; first bring it back, or forward, if the store has lost it."""
        known = self.remembered.newest(session_id)
        change = partial(self._repository.update, scope, session_id, changes, expected=expected)
        updated = await self._do_or_find(scope, known, change)
        if updated is None:
            return None
        if updated.session_id != session_id:
            self.remembered.forget(session_id)
        return await self._note_changed(scope, known, updated, changes)

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark a session as closing; first bring it back, or forward, if the store has lost it."""
        known = self.remembered.newest(session_id)
        begin = partial(self._repository.begin_close, scope, session_id, server_id)
        closing = await self._do_or_find(scope, known, begin)
        if closing is not None and known is not None and known.outdates(closing.record):
            # The mark may be on a kernel that the session has left.
            await self._note_changed(scope, known, closing.record, ["state"])
            closing = await begin()
        if closing is not None:
            self.remembered.note(closing.record)
        return closing

    async def move(
        self, scope: Scope, session_id: str, kernel_id: str, changes: Mapping[str, Any]
    ) -> Move | None:
        """Move a session, which was looked for before."""
        known = self.remembered.newest(session_id)
        move = await self._repository.move(scope, session_id, kernel_id, changes)
        if move is None:
            return None
        return Move(await self._note_changed(scope, known, move.record, changes), move.last)

    async def _do_or_find(
        self, scope: Scope, known: SessionRecord | None, do: Callable[[], Awaitable[T | None]]
    ) -> T | None:
        """Do something with a session; if there is none, once more after a look for it."""
        done = await do()
        if done is None and known is not None:
            found = await self.find(scope, session_id=known.session_id)
            done = await do() if found else None
        return done

    async def _note_changed(
        self,
        scope: Scope,
        known: SessionRecord | None,
        updated: SessionRecord,
        changes: Collection[str],
    ) -> SessionRecord:
        """Note a session that was changed, `known` as it was before; return it as it is now.

        A store that had lost what is known gets it, and the change on top of that: another server
        would take the change alone for older than what was lost.
        """
        if known is not None and known.outdates(updated):
            names = {*changes, "claim"} if "path" in changes else set(changes)
            changed = {name: getattr(updated, name) for name in names}
            updated = await self._change_newest(scope, known, updated, changed)
        self.remembered.note(updated)
        return updated

    async def _change_newest(
        self,
        scope: Scope,
        known: SessionRecord,
        found: SessionRecord,
        changed: Mapping[str, Any],
    ) -> SessionRecord:
        while True:
            newest = known if known.outdates(found) else found
            wanted = newest.replace(**{**changed, "version": newest.version + 1})
            # Until it is stored, too: a list that is asked for meanwhile has it.
            self.remembered.note(wanted)
            columns = {**changed_columns(found, wanted), "version": wanted.version}
            updated = await self._repository.update(
                scope, found.session_id, columns, expected={"version": found.version}
            )
            if updated is not None:
                self._say("brought forward", updated)
                return updated
            # Another server has changed it meanwhile.
            rows = await self._repository.find(scope, session_id=found.session_id)
            if not rows:
                return wanted
            found = rows[0]

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions."""
        removed = await self._repository.remove(scope, records)
        for record in records:
            self.remembered.note_deleted(record)
        return removed
