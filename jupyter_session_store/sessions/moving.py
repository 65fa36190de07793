"""Moving a session on a shared kernel to another kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from tornado import web

from ..errors import KernelNotStarted, StoreUnavailable
from ..records import CLOSING, READY, STARTING, Liveness, SessionRecord
from ..telemetry.events import MOVED
from .attaching import KernelAttacher
from .claims import PathClaims
from .context import NewSession, SessionContext, not_found
from .models import stored_of_kernel
from .reading import SessionReader
from .recovery import MoveSettler, Recovery, UnsettledMove
from .shutdowns import KernelShutdowns
from .starting import KernelStarter
from .updating import SessionUpdater
from .users import KernelUsers


class StoredMove(NamedTuple):
    """A move that the store has made.

    Parameters
    ----------
    record : SessionRecord
        The session, as it is now.
    left : str or None
        The kernel that it has left, if it has left one.
    shutdown : asyncio.Future or None
        If that kernel has to be shut down now: for
        :meth:`.KernelShutdowns.shut_down_abandoned`.
    """

    record: SessionRecord
    left: str | None = None
    shutdown: asyncio.Future[None] | None = None


@dataclass(frozen=True)
class MoveParts:
    """What a :class:`SessionMover` works with."""

    reader: SessionReader
    updater: SessionUpdater
    users: KernelUsers
    shutdowns: KernelShutdowns
    starter: KernelStarter
    attacher: KernelAttacher
    claims: PathClaims
    settler: MoveSettler
    recovery: Recovery


class SessionMover:
    """Moves sessions between kernels that other servers use too. For one event loop's tasks."""

    def __init__(self, context: SessionContext, parts: MoveParts) -> None:
        self._context = context
        self._parts = parts

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Move a session to the kernel of `changes`, or to a new one; to be run to its end.

        Parameters
        ----------
        session_id : str
        kernel_name : str or None
            The specification of the new kernel, if `changes` has no ``kernel_id``.
        changes : dict
            Other columns to change.

        Returns
        -------
        dict
            The session's model.

        Raises
        ------
        KernelNotStarted
        tornado.web.HTTPError
            404 if there is no such session; 400 if there is no such kernel.
        StoreUnavailable
        """
        before = await self._parts.reader.get_for_change(session_id)
        previous = before["kernel"]["id"]
        failed_shutdowns: set[str] = set()
        if "kernel_id" in changes:
            await self._parts.attacher.attach(changes["kernel_id"], ask=True)
            async with self._shutdown_guard(previous, failed_shutdowns):
                return await self._move_to(session_id, previous, changes, failed_shutdowns)
        async with (
            self._shutdown_guard(previous, failed_shutdowns),
            self._shutdown_guard(str(uuid4()), failed_shutdowns) as guard,
        ):
            started = await self._start_kernel(session_id, before, kernel_name, guard)
            changes = {**changes, "kernel_id": started}
            return await self._move_to(session_id, previous, changes, failed_shutdowns, started)

    @asynccontextmanager
    async def _shutdown_guard(
        self, kernel_id: str, failed_shutdowns: set[str]
    ) -> AsyncIterator[SessionRecord | None]:
        """Store that a kernel has to end if no session is on it and this server dies meanwhile.

        The guard is the row of a create that was given up: the server that evicts
        this one shuts the kernel down, unless a session is on it, and removes the
        row. Yields ``None`` where no row is needed or none can name the kernel
        before it starts.
        """
        context, recovery = self._context, self._parts.recovery
        if not context.authority.supports_preassigned_ids:
            yield None
            return
        session_id = context.hooks.new_session_id()
        guard = context.new_record(session_id, NewSession(), kernel_id, STARTING)
        with recovery.starting(session_id):
            try:
                await self._parts.claims.add(guard)
                yield guard
            finally:
                # Else the kernel may still appear, and recovery removes the row.
                if not recovery.is_unfinished(session_id):
                    failed = kernel_id if kernel_id in failed_shutdowns else None
                    await recovery.roll_back_start(guard, failed)

    async def _move_to(
        self,
        session_id: str,
        previous: str,
        changes: dict[str, Any],
        failed_shutdowns: set[str],
        started: str | None = None,
    ) -> dict[str, Any]:
        """Move a session to a kernel that is there, perhaps `started` for it."""
        parts, target = self._parts, changes["kernel_id"]
        try:
            if started is None and await parts.users.is_closing(target):
                await parts.users.wait_until_not_closing(target, parts.users.deadline())
                await parts.attacher.attach(target, ask=True)
            if self._context.hooks.overrides("update_session"):
                self._refuse_missing(target)
                await self._context.hooks.update_session(session_id, **changes)
                moved = None
            else:
                moved = await self._store(session_id, changes)
        except StoreUnavailable:
            move = UnsettledMove(session_id, previous, target, started is not None)
            await parts.settler.settle(move, failed_shutdowns)
            raise
        except BaseException:
            if started is not None:
                await parts.shutdowns.discard_after_move(started, failed_shutdowns.add)
            raise
        if started is None and await self._undo_move_to_dead_kernel(session_id, previous, target):
            if moved is not None and moved.shutdown is not None:
                moved.shutdown.set_result(None)
            raise web.HTTPError(400, f"No such kernel: {target}")
        if moved is None:
            model = await parts.reader.get_for_change(session_id)
            for kernel_id in {previous, started or previous} - {model["kernel"]["id"]}:
                await parts.shutdowns.shut_down_if_unused(kernel_id, failed_shutdowns.add)
            return model
        self._context.emit(MOVED, [moved.record])
        try:
            return await parts.updater.finish(moved.record)
        finally:
            if moved.left is not None and moved.shutdown is not None:
                await parts.shutdowns.shut_down_abandoned(
                    moved.left, moved.shutdown, failed_shutdowns.add
                )

    async def _store(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        context, target = self._context, changes["kernel_id"]
        # No task of this process shuts the target down, or counts, meanwhile.
        async with context.usage.attaching(target):
            self._refuse_missing(target)
            return await self._store_while_attaching(session_id, changes)

    def _refuse_missing(self, kernel_id: str) -> None:
        context = self._context
        if kernel_id not in context.kernel_manager or context.usage.is_reserved(kernel_id):
            raise web.HTTPError(400, f"No such kernel: {kernel_id}")

    async def _store_while_attaching(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        context, parts = self._context, self._parts
        await parts.recovery.uncertain_closes.take_back()
        target = changes["kernel_id"]
        # A task that was deleting it finds it on another kernel, and leaves it alone.
        changes = {
            **changes,
            **stored_of_kernel(await context.kernel_model(target)),
            "state": READY,
        }
        left: str | None = None
        while True:
            current = await context.find(session_id=session_id)
            if not current:
                raise not_found(session_id)
            record = current[0]
            if record.state == CLOSING and context.usage.is_shutting_down(record.kernel_id):
                raise web.HTTPError(404, f"Session not found: {session_id!r} is being deleted")
            if record.kernel_id in (None, target):
                if left is None:
                    return StoredMove(await parts.updater.store(session_id, changes))
                # Moved by a statement that was repeated, since its answer was lost.
                last = True
                break
            left = record.kernel_id
            move = await context.repository.move(context.scope, session_id, left, changes)
            # Else another server has moved it, or deleted it, since it was looked at.
            if move is not None:
                record, last = move.record, move.last
                break
        shutdown = await parts.shutdowns.begin_if_unused(left, last=last)
        return StoredMove(record, left, shutdown)

    async def _undo_move_to_dead_kernel(self, session_id: str, previous: str, target: str) -> bool:
        """Move a session back whose new kernel another server has ended, not having seen it.

        Both write first and look then: the server that closes the last session on
        a kernel counts once more after its mark, and here the mark is looked for
        after the move. Where that has gone already, so has the kernel.
        """
        context, users = self._context, self._parts.users
        try:
            await users.wait_until_not_closing(target, users.deadline())
            if (await context.authority.refresh_liveness([target]))[target] is not Liveness.GONE:
                return False
            kernel_model = await context.kernel_model(previous)
            back = {"kernel_id": previous, **stored_of_kernel(kernel_model)}
            moved = await context.repository.move(context.scope, session_id, target, back)
        except StoreUnavailable:
            return False
        return moved is not None

    async def _start_kernel(
        self,
        session_id: str,
        before: Mapping[str, Any],
        kernel_name: str | None,
        guard: SessionRecord | None,
    ) -> str:
        """Start the kernel that a session is to move to.

        Raises
        ------
        KernelNotStarted
        """
        authority = self._context.authority
        chosen = None if guard is None else guard.kernel_id
        wanted = NewSession(before["path"], before["name"], before["type"], kernel_name)
        try:
            return await self._parts.starter.start(session_id, wanted, chosen)
        except Exception as error:
            if guard is not None and authority.start_may_have_begun(error):
                await self._parts.recovery.roll_back_start(
                    guard, chosen, may_appear=not authority.start_is_over(error)
                )
            raise KernelNotStarted(kernel_name) from error
        finally:
            self._parts.starter.release(chosen)
