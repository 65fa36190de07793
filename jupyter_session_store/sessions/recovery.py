"""Finishing what a failure has left unfinished, here or on a server that was evicted."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import SessionStoreError
from ..records import CLOSING, READY, STARTING, Liveness, SessionRecord
from ..servers.heartbeat import now
from ..telemetry.events import ADOPTED
from .context import SessionContext
from .kernels import SessionKernels

T = TypeVar("T")


@dataclass(eq=False)
class UncertainCloses:
    """Sessions whose delete failed half way: a mark ``closing`` of theirs is to be taken back.

    A mark that stays would let another session take itself for its kernel's
    last. For the tasks of one event loop.
    """

    _context: SessionContext
    _session_ids: set[str] = field(default_factory=set)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._session_ids

    def __bool__(self) -> bool:
        return bool(self._session_ids)

    def track(self, session_id: str) -> None:
        """Have the session's mark taken back."""
        self._session_ids.add(session_id)

    async def track_failure(self, session_id: str, step: Awaitable[T]) -> T:
        """Take a step of a delete; if it fails, track the session."""
        try:
            return await step
        except BaseException:
            self.track(session_id)
            raise

    async def take_back(self) -> None:
        """Make the sessions ready again, within ``usage.counting()``.

        If that raises :class:`.StoreUnavailable`, the rest is still tracked.
        """
        for session_id in tuple(self._session_ids):
            await self._context.update_own(session_id, CLOSING, {"state": READY})
            self._session_ids.discard(session_id)


@dataclass
class UnfinishedStart:
    """A create that was not finished, until it is known what became of it."""

    #: Its row, which is perhaps there.
    record: SessionRecord
    #: The kernel that was perhaps started for it: the row stays until it is known to be gone.
    kernel_id: str | None
    #: Whether it becomes a session if its kernel lives.
    adopt_if_alive: bool
    #: Until when the kernel may still appear, on the clock of :func:`.now`.
    deadline: float


@dataclass(eq=False)
class Recovery:
    """All unfinished business with sessions on shared kernels, tried again after each renewal.

    For the tasks of one event loop, but for :meth:`on_renewed`.
    """

    _context: SessionContext
    uncertain_closes: UncertainCloses
    _kernels: SessionKernels
    #: By the id of the session.
    _unfinished_starts: dict[str, UnfinishedStart] = field(default_factory=dict)
    #: The sessions that are marked as being closed here, and are not.
    _left_marked: set[str] = field(default_factory=set)

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Take over what evicted servers were starting; called in the heartbeat's thread.

        Also take up what this server was starting or closing before a restore or a failover, which
        has brought back those rows as they were then.
        """
        for record in unfinished:
            if self._context.usage.is_in_progress(record.session_id):
                continue
            if record.state == CLOSING:
                self._left_marked.add(record.session_id)
                continue
            # A row without its path was given up already.
            adopt = record.path is not None
            deadline = now() + self._context.authority.launch_seconds
            start = UnfinishedStart(record, record.kernel_id, adopt, deadline)
            self._unfinished_starts.setdefault(record.session_id, start)
        if self._unfinished_starts or self._left_marked or self.uncertain_closes:
            # No client may have asked this server for anything yet.
            tasks = self._context.tasks
            tasks.call_from_thread(lambda: tasks.spawn(self.recover()))

    async def recover(self) -> None:
        """Finish what can be finished now; the rest is tried after the next renewal."""
        with suppress(SessionStoreError):
            for session_id in tuple(self._left_marked):
                # A turn for each: who would close or attach waits for one look at most.
                async with self._context.usage.counting():
                    await self._look_at_left_mark(session_id)
                    # Within the same turn: what another manager begins to close has its mark.
                    await self.uncertain_closes.take_back()
            async with self._context.usage.counting():
                await self.uncertain_closes.take_back()
        for session_id, start in list(self._unfinished_starts.items()):
            await self._try(session_id, start)

    async def _look_at_left_mark(self, session_id: str) -> None:
        # A look deletes again what was deleted, and whose mark the store has brought back.
        await self._context.repository.find(self._context.scope, session_id=session_id)
        if not self._context.usage.is_in_progress(session_id):
            self.uncertain_closes.track(session_id)
        self._left_marked.discard(session_id)

    def is_unfinished(self, session_id: str) -> bool:
        """Return whether a create of this session is to be rolled back, or finished."""
        return session_id in self._unfinished_starts

    async def roll_back_start(
        self, record: SessionRecord, kernel_id: str | None = None, *, may_appear: bool = False
    ) -> None:
        """Undo a create that came to nothing, now or after a later renewal.

        A cancelled caller does not stop it. The row is perhaps there, `kernel_id` was
        perhaps started for it, and the kernel `may_appear` if it may still be started.
        """
        deadline = now() + (self._context.authority.launch_seconds if may_appear else 0)
        start = UnfinishedStart(record, kernel_id, adopt_if_alive=False, deadline=deadline)
        self._unfinished_starts[record.session_id] = start
        await self._context.tasks.finish(self._try(record.session_id, start))

    async def _try(self, session_id: str, start: UnfinishedStart) -> None:
        with suppress(SessionStoreError):
            if await self._finish(start):
                self._unfinished_starts.pop(session_id, None)

    async def _finish(self, start: UnfinishedStart) -> bool:
        """Return whether there is no more to do."""
        context, repository = self._context, self._context.repository
        record, kernel_id = start.record, start.kernel_id
        session_id = record.session_id
        if start.adopt_if_alive:
            # A look brings forward, or deletes again, what this server knows more of.
            if not self._is_left(await repository.find(context.scope, session_id=session_id)):
                return True
            liveness = await self._check_liveness(kernel_id)
            if liveness is Liveness.UNKNOWN:
                return False
            if liveness is Liveness.ALIVE:
                adopted = await context.update_own(session_id, STARTING, {"state": READY})
                if adopted is not None:
                    context.emit(ADOPTED, [adopted])
                return True
            start.adopt_if_alive = False
        if kernel_id is not None:
            found = await repository.find(context.scope, session_id=session_id)
            if found and not self._is_left(found):
                # It was saved after all, or another server has taken it over.
                return True
            if not await self._kernels.has_users(kernel_id, other_than=session_id):
                try:
                    await self._kernels.shut_down(kernel_id)
                except Exception as error:
                    context.log.debug("Kernel %s cannot be shut down yet: %s", kernel_id, error)
                    gone = False
                else:
                    gone = now() >= start.deadline
                if not gone:
                    # Its row still names it, and does not hold the path any more.
                    given_up = await context.update_own(session_id, STARTING, {"path": None})
                    start.record = given_up or record
                    return False
        # Whether or not its last update, whose answer was lost, has given it the kernel.
        kernels = {record.kernel_id, kernel_id, None}
        await repository.remove(context.scope, [record.replace(kernel_id=one) for one in kernels])
        return True

    def _is_left(self, found: list[SessionRecord]) -> bool:
        """Return whether a create is still as this server has left it, or taken it over."""
        own = (STARTING, self._context.server_id)
        return bool(found) and (found[0].state, found[0].server_id) == own

    async def _check_liveness(self, kernel_id: str | None) -> Liveness:
        if not kernel_id:
            return Liveness.GONE
        if kernel_id in self._context.kernel_manager:
            return Liveness.ALIVE
        return await self._context.authority.check_liveness(kernel_id)
