"""Closing a session: on this server's own kernel, and on one that other servers use too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from ..errors import SessionStoreError
from ..records import Closing, SessionRecord
from .context import SessionContext, is_storable, kernel_gone, not_found
from .kernels import SessionKernels
from .recovery import UncertainCloses
from .writing import SessionWriter


class LocalCloser:
    """Counts, shuts down, and removes: no other server uses the kernel. For one event loop."""

    def __init__(
        self, context: SessionContext, writer: SessionWriter, kernels: SessionKernels
    ) -> None:
        self._context = context
        self._writer = writer
        self._kernels = kernels

    async def close(self, session_id: str) -> None:
        """Close a session; its kernel is shut down if no other session uses it."""
        context, usage = self._context, self._context.usage
        shutdown = None
        async with usage.counting():
            records = await context.find()
            record = find_by_id(records, session_id)
            kernel_id = record.kernel_id
            if kernel_id is not None and not has_others(records, kernel_id):
                shutdown = usage.begin_shutdown(kernel_id)
            else:
                await context.remove(record)
        if await self._writer.finish_close(record, shutdown, self._kernels.shut_down):
            raise kernel_gone(record)


class SharedCloser:
    """Marks, counts, shuts down, and removes. For the tasks of one event loop."""

    def __init__(
        self,
        context: SessionContext,
        writer: SessionWriter,
        kernels: SessionKernels,
        uncertain_closes: UncertainCloses,
    ) -> None:
        self._context = context
        self._writer = writer
        self._kernels = kernels
        self._uncertain_closes = uncertain_closes

    async def close(self, session_id: str) -> None:
        """Close a session; its kernel is shut down if no other session uses it."""
        with self._context.usage.in_progress(session_id):
            await self._close(session_id)

    async def _close(self, session_id: str) -> None:
        usage, uncertain_closes = self._context.usage, self._uncertain_closes
        shutdown = None
        async with usage.counting():
            closing = await self._begin(session_id)
            if closing is None:
                raise not_found(session_id)
            record = closing.record
            kernel_id = record.kernel_id
            # A session that another server attached since the mark was made has seen the mark,
            # or is seen now. This one is ready again if another server failed to close it.
            attached = closing.last and await uncertain_closes.track_failure(
                session_id, self._kernels.has_users(str(kernel_id), other_than=session_id)
            )
            if closing.last and kernel_id is not None and not attached:
                shutdown = usage.begin_shutdown(kernel_id)
            else:
                # The kernel goes on, and if this fails, the session does too.
                await uncertain_closes.track_failure(session_id, self._context.remove(record))
        shut_down = partial(self._shut_down, session_id)
        if await self._writer.finish_close(record, shutdown, shut_down):
            raise kernel_gone(record)

    async def _begin(self, session_id: str) -> Closing | None:
        if not is_storable("session_id", session_id):
            return None
        repository = await self._context.current_repository()
        await self._uncertain_closes.take_back()
        return await self._uncertain_closes.track_failure(
            session_id,
            repository.begin_close(self._context.scope, session_id, self._context.server_id),
        )

    async def _shut_down(self, session_id: str, kernel_id: str) -> None:
        """Shut down the kernel of a closing session, or make the session ready again."""
        try:
            await self._kernels.shut_down(kernel_id)
        except BaseException:
            # If that fails too, it is tried after the next renewal; the session is shown, and
            # can be deleted again.
            self._uncertain_closes.track(session_id)
            with suppress(SessionStoreError):
                async with self._context.usage.counting():
                    await self._uncertain_closes.take_back()
            raise


def find_by_id(records: Sequence[SessionRecord], session_id: str) -> SessionRecord:
    """Return the session of this id; raises 404 if there is none."""
    for record in records:
        if record.session_id == session_id:
            return record
    raise not_found(session_id)


def has_others(records: Sequence[SessionRecord], kernel_id: str | None) -> bool:
    """Return whether more than one of some sessions is on a kernel."""
    return sum(record.kernel_id == kernel_id for record in records) > 1
