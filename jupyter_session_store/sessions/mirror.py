"""The store's copy of the sessions on this server's own kernels, kept equal to its memory.

A change is made in memory first. Nobody waits long for the store: if it is away, the change
is counted as one that is not in it yet, and the next renewal that succeeds brings it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from functools import partial
from logging import Logger
from typing import Final
from weakref import WeakKeyDictionary

from ..errors import InvalidValue, PathClaimed, SessionConflict, SessionStoreError
from ..paths import claim_of
from ..records import Mirrored, Scope, SessionRecord, printable
from ..repository import SessionRepository
from ..servers.registered_store import RegisteredStore
from .local_records import LocalRecords

#: Seconds that a request waits for the store to take its change.
PATIENCE: Final = 1.0
#: How often a renewal makes the store equal to what memory has become meanwhile.
_ROUNDS: Final = 3
#: More than the store can have counted of one change, however often it was sent.
_LEAP: Final = 100
#: How many renewals may find the row of a former server before that server is evicted.
_LATE_RENEWALS: Final = 3


@dataclass(eq=False)
class _Push:
    """A change on its way to the store."""

    before: SessionRecord | None
    after: SessionRecord | None
    #: Done when the request can be answered: with whether the store has answered in time.
    answer: asyncio.Future[bool]

    @property
    def acknowledged(self) -> bool:
        """Whether the request has been answered."""
        return self.answer.done() and not self.answer.cancelled()

    def settle(self, in_time: bool) -> None:
        """Let the request be answered."""
        if not self.answer.done():
            self.answer.set_result(in_time)

    def fail(self, error: Exception) -> None:
        """Let the request fail."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False)
class Mirror:
    """Makes a store equal to the records in memory. For the tasks of one event loop.

    One change at a time, in the order in which they were made.
    """

    scope: Scope
    log: Logger
    records: LocalRecords = field(default_factory=LocalRecords)
    #: What the store has, as far as is known, by the ids of the sessions.
    _stored: dict[str, SessionRecord] = field(default_factory=dict)
    #: The ids of sessions that the store has otherwise, or not at all.
    _differing: set[str] = field(default_factory=set)
    #: Records that the store has refused for good.
    _refused: dict[str, SessionRecord] = field(default_factory=dict)
    #: Sessions of former servers, whose rows the store may still have, and for how many renewals.
    _awaited: dict[str, int] = field(default_factory=dict)
    #: Whether what is not in :attr:`_differing` is known to be the store's.
    _in_step: bool = True
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: The changes on their way: a loop keeps only weak references to its tasks.
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def unsynchronized(self) -> int:
        """How many sessions the store does not have as they are; from any thread."""
        return len(self._differing)

    def adopt(self, record: SessionRecord) -> None:
        """Take a session into memory that a former server had; the next renewal stores it.

        Until then the store may have it as that server's, and would refuse it: so may a renewal
        that has begun before.

        Raises
        ------
        SessionConflict
            If another session has its id.
        """
        try:
            self.records.add(record.replace(claim=claim_of(record.scope, record.path)))
        except PathClaimed:
            self.records.add(record)
        self._differing.add(record.session_id)
        self._awaited[record.session_id] = _LATE_RENEWALS
        self._in_step = False

    async def push(
        self, store: RegisteredStore, before: SessionRecord | None, after: SessionRecord | None
    ) -> None:
        """Have the store take a change that memory has made.

        Returns when the store has it, after :data:`PATIENCE` seconds, or at once while
        the store is away. What the store refuses for good is taken back in memory, and
        raised: :class:`.InvalidValue` or :class:`.SessionConflict`.
        """
        self._differing.update(one.session_id for one in (before, after) if one is not None)
        if not self._in_step or store.lease.failing:
            return
        loop = asyncio.get_running_loop()
        push = _Push(before, after, loop.create_future())
        task = loop.create_task(self._settle(store, push))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # By hand: `asyncio.wait` takes one more turn of the event loop.
        timer = loop.call_later(PATIENCE, push.settle, False)
        try:
            in_time = await push.answer
        finally:
            timer.cancel()
        if not in_time:
            self._lose(store)

    async def _settle(self, store: RegisteredStore, push: _Push) -> None:
        try:
            await self._push(store, push)
        except Exception as error:
            push.fail(error)
        except BaseException:
            push.answer.cancel()
            raise
        else:
            push.settle(True)

    async def _push(self, store: RegisteredStore, push: _Push) -> None:
        async with self._lock:
            if not self._in_step:
                return
            had, now = self._stored_of(push), self._now(push)
            try:
                stored = await self._store(store.repository, had, now)
            except (InvalidValue, SessionConflict) as error:
                if self._take_back(push):
                    self._compare(push)
                    raise
                if now is not None:
                    self._set_aside(now, error)
                return
            except PathClaimed:
                # A row that memory does not have: the store is as it was before a failover.
                self._ask_for_synchronization(store)
                return
            except SessionStoreError:
                self._lose(store)
                return
            except Exception:
                self.log.exception("A session could not be stored; it is tried again.")
                self._lose(store)
                return
            if had is not None:
                self._stored.pop(had.session_id, None)
            if stored is not None:
                self._stored[stored.session_id] = stored
                if now is not None and stored is not now and self._is_there(now):
                    self.records.replace(now, stored)
            elif now is not None:
                # The store has lost what it had, or another has written to it.
                self._ask_for_synchronization(store)
            self._compare(push)

    def _compare(self, push: _Push) -> None:
        """Note whether the store has the sessions of a change as they are."""
        for one in (push.before, push.after):
            if one is not None and self._is_stored(one.session_id):
                self._differing.discard(one.session_id)

    def _is_stored(self, session_id: str) -> bool:
        return self.records.get(session_id) is self._stored.get(session_id)

    def _stored_of(self, push: _Push) -> SessionRecord | None:
        """Return what the store has of a session, under its old id or its new one."""
        for one in (push.before, push.after):
            if one is not None and (stored := self._stored.get(one.session_id)) is not None:
                return stored
        return None

    def _now(self, push: _Push) -> SessionRecord | None:
        return None if push.after is None else self.records.get(push.after.session_id)

    async def _store(
        self, repository: SessionRepository, had: SessionRecord | None, now: SessionRecord | None
    ) -> SessionRecord | None:
        """Make the store's row what memory has now, and return it; ``None`` if it is not so."""
        if had is now:
            return now
        if now is None:
            assert had is not None
            await repository.remove(self.scope, [had])
            return None
        if had is None:
            await repository.add(now)
            return now
        return await repository.mirror_change(had, now)

    def _take_back(self, push: _Push) -> bool:
        """Undo a change that the store refuses, unless it was acknowledged or changed again."""
        before, after = push.before, push.after
        if push.acknowledged or after is None or not self._is_there(after):
            return False
        self.records.replace(after, before)
        return True

    def _set_aside(self, record: SessionRecord, error: SessionStoreError) -> None:
        """Leave a session out until it changes."""
        self._refused[record.session_id] = record
        self.log.warning(
            "The store refuses the session %s, which goes on in this server's memory: %s",
            printable(record.session_id),
            error,
        )

    def _lose(self, store: RegisteredStore) -> None:
        """Note that the store is away, and that it is not known what it has."""
        self._in_step = False
        store.lease.note_failure()

    def _ask_for_synchronization(self, store: RegisteredStore) -> None:
        self._in_step = False
        store.lease.renew_now()

    async def synchronize(self, store: RegisteredStore) -> None:
        """Make the store equal to memory, after a renewal; never raises a fault of the store."""
        async with self._lock:
            self._leave_versions_behind()
            awaited = self._awaited.keys()
            self._awaited = {name: left - 1 for name, left in self._awaited.items() if left > 1}
            for _ in range(_ROUNDS):
                asked: dict[str, SessionRecord] = {}
                try:
                    mirrored = await store.repository.mirror(
                        self.scope, partial(self._wanted, asked)
                    )
                except SessionStoreError:
                    self._lose(store)
                    return
                waiting = len(self._differing)
                self._take(mirrored, asked, awaited)
                if waiting and not self._differing:
                    self.log.info("Stored %d session(s) of this server.", waiting)
                if self._in_step:
                    return

    def _leave_versions_behind(self) -> None:
        """Give what may differ a version that its row cannot have.

        A change whose answer was lost was perhaps made twice, and somebody else may have
        changed a row and left its version alone: equal versions would hide either.
        """
        for session_id in self._differing - self._refused.keys():
            record = self.records.get(session_id)
            if record is not None:
                self.records.replace(record, record.replace(version=record.version + _LEAP))

    def _wanted(self, asked: dict[str, SessionRecord]) -> list[SessionRecord]:
        """Return what the store is to have, and note it; from any thread."""
        found = [one for one in self.records.all() if not self.is_refused(one)]
        asked.clear()
        asked.update((one.session_id, one) for one in found)
        return found

    def is_refused(self, record: SessionRecord) -> bool:
        """Return whether the store has refused a session as it is."""
        return self._refused.get(record.session_id) is record

    def _take(
        self, mirrored: Mirrored, asked: dict[str, SessionRecord], awaited: Collection[str]
    ) -> None:
        """Note what the store has now, and which sessions it has otherwise."""
        self._refused = {key: one for key, one in self._refused.items() if self._is_there(one)}
        for session_id, error in mirrored.refused.items():
            if session_id in awaited and isinstance(error, SessionConflict):
                continue
            self._set_aside(asked[session_id], error)
        self._stored = dict(mirrored.stored)
        for session_id, stored in self._stored.items():
            if session_id in mirrored.refused:
                continue
            if stored is not asked[session_id] and self._is_there(asked[session_id]):
                self.records.replace(asked[session_id], stored)
        names = {one.session_id for one in self.records.all()} | self._stored.keys()
        self._differing = {name for name in names if not self._is_stored(name)}
        self._in_step = self._differing <= self._refused.keys()

    def _is_there(self, record: SessionRecord) -> bool:
        return self.records.get(record.session_id) is record


_mirrors: WeakKeyDictionary[object, dict[Hashable, Mirror]] = WeakKeyDictionary()


def mirror_of(
    kernel_manager: object, scope: Scope, store_identity: Hashable | None, log: Logger
) -> Mirror:
    """Return the memory of a kernel manager's sessions, and its mirror.

    Session managers over one kernel manager, namespace and store share it.
    """
    if store_identity is None:
        return Mirror(scope, log)
    mirrors = _mirrors.setdefault(kernel_manager, {})
    return mirrors.setdefault((scope, store_identity), Mirror(scope, log))
