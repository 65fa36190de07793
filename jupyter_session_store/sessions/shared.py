"""Sessions on kernels that other servers use too, a gateway's: the store is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web

from ..records import Liveness, SessionRecord
from .claimed_starts import ClaimedStarts
from .claims import PathLeaders
from .closing import SharedCloser
from .context import NewSession, SessionContext
from .interface import Sessions
from .models import stored_of_kernel
from .moving import SessionMover
from .recovery import Recovery, UncertainCloses
from .views import SharedViews


class SharedSessions(Sessions):
    """The sessions of a gateway's kernels: claims, marks and takeovers keep servers in step."""

    def __init__(self, context: SessionContext, leaders: PathLeaders) -> None:
        uncertain_closes = UncertainCloses(context)
        super().__init__(context, leaders, SharedViews(context), uncertain_closes)
        self.recovery = Recovery(context, uncertain_closes, self.kernels)
        self._closer = SharedCloser(context, self._writer, self.kernels, uncertain_closes)
        parts = (context, self.reader, self._writer, self.kernels, self.attacher, self.recovery)
        self._starts = ClaimedStarts(*parts)
        self._mover = SessionMover(*parts, self._runner)

    async def create(self, pending: KernelSessionRecord, wanted: NewSession) -> dict[str, Any]:
        """Attach to a kernel that is there, or take the path and start one."""
        kernel_id = wanted.kernel_id
        self.kernels.refuse_reserved(kernel_id)
        if kernel_id is not None:
            await self.attacher.attach(kernel_id, ask=True)
            if kernel_id in self._context.kernel_manager:
                attached = await self._attach(pending, wanted, kernel_id)
                if attached is not None:
                    return attached
        return await self._starts.create(pending, wanted)

    async def _attach(
        self, pending: KernelSessionRecord, wanted: NewSession, kernel_id: str
    ) -> dict[str, Any] | None:
        """Create a session on a kernel that is there; ``None`` if it ended meanwhile.

        No lock is held: it would be held while the gateway is asked. Instead the row is written
        first, and then it is looked whether anybody ends the kernel, in this process as in others.
        Who counts the sessions on the kernel after the row was written sees it, and whoever
        counted before has told by then. The row stays until it is known that the kernel is gone:
        a kernel whose other session was closed meanwhile would be left without one.
        """
        context, kernels = self._context, self.kernels
        session_id = str(pending.session_id)
        await context.usage.wait_for_shutdown(kernel_id)
        if kernel_id not in context.kernel_manager:
            return None
        pending.kernel_id = kernel_id
        try:
            model = await context.save(session_id, wanted, kernel_id)
        except web.HTTPError as error:
            if error.status_code == 404:
                return None
            raise
        await kernels.wait_until_not_closing(kernel_id, context.deadline())
        await context.usage.wait_for_shutdown(kernel_id)
        # A server that closed the kernel's last session has ended it before the mark went.
        if await context.authority.check_liveness(kernel_id) is not Liveness.GONE:
            return model
        await self.recovery.roll_back_start(context.new_record(session_id, wanted, kernel_id))
        return None

    async def save(
        self, session_id: str, wanted: NewSession, kernel_id: str | None
    ) -> dict[str, Any]:
        """Make the row of a create ready, or add one."""
        if kernel_id is not None and self._starts.is_starting(session_id):
            return await self._starts.finish(session_id, wanted, kernel_id)
        record = self._context.new_record(session_id, wanted, kernel_id)
        model = await self.reader.model_of(record)
        await self._writer.add(record.replace(**stored_of_kernel(model["kernel"])))
        return model

    async def update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the row."""
        return await self._context.tasks.answer_in_time(self._update(session_id, changes))

    async def _update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        record = await self._writer.update(session_id, changes)
        return await self._writer.finish_update(record, changes)

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Move, and count in the same unit of work."""
        moved = self._mover.move(session_id, kernel_name, changes)
        return await self._context.tasks.answer_in_time(moved)

    async def close(self, session_id: str) -> None:
        """Mark, count, shut down, remove."""
        await self._context.tasks.answer_in_time(self._closer.close(session_id))

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Have recovery take them over."""
        self.recovery.on_renewed(unfinished)
