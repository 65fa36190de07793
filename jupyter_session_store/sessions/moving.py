"""Moving sessions: what every move does, and moves between kernels that others use too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

from ..errors import KernelNotStarted, StoreUnavailable
from ..records import CLOSING, READY, STARTING, Liveness, SessionRecord
from .attaching import KernelAttacher
from .context import NewSession, SessionContext, being_deleted, not_found
from .kernels import SessionKernels, StoredMove, no_such_kernel
from .models import stored_of_kernel
from .reading import SessionReader
from .recovery import Recovery
from .writing import SessionWriter

#: Seconds between two attempts to learn the outcome of a move whose answer was lost.
_SETTLE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class MoveRunner:
    """Stores a move, and leaves no kernel without a session. For the tasks of one event loop."""

    _context: SessionContext
    _reader: SessionReader
    _writer: SessionWriter
    _kernels: SessionKernels

    async def run(
        self,
        session_id: str,
        previous: str,
        changes: dict[str, Any],
        started: str | None,
        store: Callable[[str, dict[str, Any]], Awaitable[StoredMove]],
    ) -> dict[str, Any]:
        """Move a session from the `previous` kernel to one that is there, and return its model.

        The `changes` have a ``kernel_id`` unless an override moves the session. `started`
        is the kernel that was started for the move, if one was. `store` stores it; an
        override of ``update_session`` takes its place.
        """
        context, kernels = self._context, self._kernels
        target = changes.get("kernel_id", previous)
        hooked, moved = context.hooks.overrides("update_session"), None
        try:
            if hooked:
                if target != previous:
                    await context.usage.wait_for_shutdown(target)
                    kernels.refuse_missing(target)
                # No lock is held meanwhile: the override may do whatever it likes.
                await context.hooks.update_session(session_id, **changes)
            else:
                moved = await store(session_id, changes)
        except StoreUnavailable:
            settle = partial(self._settle, session_id, previous, target, started)
            if not await settle():
                context.tasks.spawn(self._settle_later(settle))
            raise
        except BaseException:
            if hooked and target != previous:
                # The session may have moved before the override failed.
                await kernels.shut_down_unused(previous, started)
            elif started is not None:
                await kernels.discard_after_move(started)
            raise
        if moved is None:
            kernel_id = target
            try:
                model = await self._reader.get_for_change(session_id)
                kernel_id = model["kernel"]["id"]
                return model
            finally:
                # An override may keep sessions elsewhere: a rename leaves their kernels alone.
                left = [one for one in (previous, started) if one != kernel_id]
                await kernels.shut_down_unused(*left)
        try:
            return await self._writer.finish_update(moved.record, changes)
        finally:
            await kernels.shut_down_abandoned(moved.left, moved.shutdown)

    async def _settle(
        self, session_id: str, previous: str, target: str, started: str | None
    ) -> bool:
        """Shut down the kernel that a move whose answer was lost has left unused.

        Return whether the store could say which one that is.
        """
        try:
            async with self._context.usage.counting():
                found = await self._context.find(session_id=session_id)
                moved = bool(found) and found[0].kernel_id == target
                unused = previous if moved else started
                shutdown = await self._kernels.begin_if_unused(unused) if unused else None
        except StoreUnavailable:
            return False
        await self._kernels.shut_down_abandoned(unused, shutdown)
        return True

    async def _settle_later(self, settle: Callable[[], Awaitable[bool]]) -> None:
        while not self._context.store.is_closed:
            await asyncio.sleep(_SETTLE_SECONDS)
            if await settle():
                return


@dataclass(frozen=True)
class SessionMover:
    """Moves sessions between kernels that other servers use too. For one event loop's tasks."""

    _context: SessionContext
    _reader: SessionReader
    _writer: SessionWriter
    _kernels: SessionKernels
    _attacher: KernelAttacher
    _recovery: Recovery
    _runner: MoveRunner

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Move a session; as :meth:`.Sessions.move` has it."""
        before = await self._reader.get_for_change(session_id)
        previous = before["kernel"]["id"]
        if "kernel_id" not in changes and kernel_name is None:
            return await self._runner.run(session_id, previous, changes, None, self._store)
        if "kernel_id" in changes:
            async with self._shutdown_guard(previous):
                await self._await_closers(changes["kernel_id"])
                return await self._runner.run(session_id, previous, changes, None, self._store)
        async with self._shutdown_guard(previous), self._shutdown_guard(str(uuid4())) as guard:
            started = await self._start_kernel(session_id, before, kernel_name, guard)
            changes = {**changes, "kernel_id": started}
            return await self._runner.run(session_id, previous, changes, started, self._store_new)

    @asynccontextmanager
    async def _shutdown_guard(self, kernel_id: str) -> AsyncIterator[SessionRecord | None]:
        """Store that a kernel has to end if no session is on it and this server dies meanwhile.

        The guard is the row of a create that was given up: the server that evicts
        this one shuts the kernel down, unless a session is on it, and removes the
        row. Yields ``None`` where no row is needed or none can name the kernel
        before it starts.
        """
        context, recovery = self._context, self._recovery
        if not context.authority.supports_preassigned_ids:
            yield None
            return
        session_id = context.hooks.new_session_id()
        guard = context.new_record(session_id, NewSession(), kernel_id, STARTING)
        with context.usage.in_progress(session_id):
            try:
                await self._writer.add(guard)
                yield guard
            finally:
                failed = kernel_id if kernel_id in self._kernels.failed_shutdowns else None
                self._kernels.failed_shutdowns.discard(kernel_id)
                # Else the kernel may still appear, and recovery removes the row.
                if not recovery.is_unfinished(session_id):
                    await recovery.roll_back_start(guard, failed)

    async def _start_kernel(
        self,
        session_id: str,
        before: dict[str, Any],
        kernel_name: str | None,
        guard: SessionRecord | None,
    ) -> str:
        """Start the kernel that a session is to move to."""
        authority = self._context.authority
        chosen = None if guard is None else guard.kernel_id
        try:
            return await self._kernels.start_for_move(session_id, before, kernel_name, chosen)
        except KernelNotStarted as error:
            reason = error.__cause__
            if guard is not None and reason and authority.start_may_have_begun(reason):
                await self._recovery.roll_back_start(
                    guard, chosen, may_appear=not authority.start_is_over(reason)
                )
            raise
        finally:
            self._context.usage.release(chosen)

    async def _await_closers(self, target: str) -> None:
        """Attach to the kernel that is moved to, once no server is closing a session on it."""
        await self._attacher.attach(target, ask=True)
        if await self._kernels.is_closing(target):
            await self._kernels.wait_until_not_closing(target, self._context.deadline())
            await self._attacher.attach(target, ask=True)

    async def _store(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        """Store a move to a kernel that others use, or take it back if they have ended it."""
        moved, target = await self._store_new(session_id, changes), changes["kernel_id"]
        try:
            undone = await self._undo_move_to_dead_kernel(session_id, moved.left, target)
        except BaseException:
            await self._kernels.shut_down_abandoned(moved.left, moved.shutdown)
            raise
        if undone:
            if moved.shutdown is not None:
                moved.shutdown.set_result(None)
            raise no_such_kernel(target)
        return moved

    async def _store_new(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        """Store a move, while no task of this process shuts the target down, or counts."""
        context, kernels, target = self._context, self._kernels, changes["kernel_id"]
        # Another's kernel manager may ask for it, and no lock is held meanwhile.
        kernel_model = await context.kernel_model(target)
        async with context.usage.attaching(target):
            kernels.refuse_missing(target)
            await self._recovery.uncertain_closes.take_back()
            # A task that was deleting it finds it on another kernel, and leaves it alone.
            changes = {**changes, **stored_of_kernel(kernel_model), "state": READY}
            left: str | None = None
            while True:
                found = await context.find(session_id=session_id)
                if not found:
                    raise not_found(session_id)
                record, last = found[0], True
                if record.state == CLOSING and context.usage.is_shutting_down(record.kernel_id):
                    raise being_deleted(session_id)
                if record.kernel_id is None:
                    return StoredMove(await self._writer.update(session_id, changes))
                if record.kernel_id != target:
                    left = record.kernel_id
                elif left is not None:
                    # Moved by a statement that was repeated, since its answer was lost.
                    break
                move = await context.repository.move(
                    context.scope, session_id, record.kernel_id, changes
                )
                # Else another server has moved it, or deleted it, since it was looked at.
                if move is not None:
                    record, last = move.record, move.last
                    break
            if left is None or not last:
                return StoredMove(record, left)
            # The sessions are counted: one that another server has attached since is seen now.
            return StoredMove(record, left, await kernels.begin_if_left(left))

    async def _undo_move_to_dead_kernel(
        self, session_id: str, previous: str | None, target: str
    ) -> bool:
        """Move a session back whose new kernel another server has ended, not having seen it.

        Both write first and look then: the server that closes the last session on
        a kernel counts once more after its mark, and here the mark is looked for
        after the move. Where that has gone already, so has the kernel.
        """
        context = self._context
        if previous is None:
            return False
        try:
            await self._kernels.wait_until_not_closing(target, context.deadline())
            if (await context.authority.refresh_liveness([target]))[target] is not Liveness.GONE:
                return False
            kernel_model = await context.kernel_model(previous)
            back = {"kernel_id": previous, **stored_of_kernel(kernel_model)}
            moved = await context.repository.move(context.scope, session_id, target, back)
            return moved is not None
        except StoreUnavailable:
            return False
