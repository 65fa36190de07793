"""Removing sessions whose kernels are gone, after the read that found them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from ..errors import SessionStoreError
from ..records import SessionRecord
from ..telemetry.events import CLOSED
from .context import SessionContext


class PendingRemovals:
    """Sessions that are going to be removed. For the tasks of one event loop.

    Parameters
    ----------
    context : SessionContext
    on_removed : callable, optional
        Called with the sessions once they are not in the store any more.
    """

    def __init__(
        self,
        context: SessionContext,
        on_removed: Callable[[Collection[SessionRecord]], None] | None = None,
    ) -> None:
        self._context = context
        self._on_removed = on_removed
        self._pending: dict[str, SessionRecord] = {}

    def schedule(self, record: SessionRecord) -> None:
        """Remove a session soon; all that one list schedules go in one statement."""
        first = not self._pending
        self._pending[record.session_id] = record
        if first:
            self._context.tasks.spawn(self._remove())

    async def _remove(self) -> None:
        await asyncio.sleep(0)
        records, self._pending = list(self._pending.values()), {}
        try:
            count = await self._context.repository.remove(self._context.scope, records)
        except SessionStoreError:
            # The next read finds them again.
            return
        if self._on_removed is not None:
            self._on_removed(records)
        if count:
            self._context.emit(CLOSED, records)
            self._context.log.warning(
                "Removed %d session(s) whose kernels are gone: %s",
                count,
                ", ".join(f"{r.session_id} (kernel {r.kernel_id})" for r in records),
            )


async def remove_session(context: SessionContext, record: SessionRecord) -> None:
    """Remove a session that a client has deleted, and emit an event if it was still there."""
    if await context.repository.remove(context.scope, [record]):
        context.emit(CLOSED, [record])
