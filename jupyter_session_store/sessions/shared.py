"""Sessions on kernels that other servers use too, a gateway's: the store is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web

from ..errors import SessionStoreError
from ..records import Closing, Liveness, SessionRecord
from .claimed_starts import ClaimedStarts
from .claims import PathLeaders
from .context import NewSession, SessionContext, is_storable, kernel_gone, not_found
from .interface import Sessions
from .moving import SessionMover
from .recovery import Recovery, UncertainCloses
from .views import SharedViews, stored_of_kernel


class SharedSessions(Sessions):
    """The sessions of a gateway's kernels: claims, marks and takeovers keep servers in step."""

    def __init__(self, context: SessionContext, leaders: PathLeaders) -> None:
        self._uncertain_closes = UncertainCloses(context)
        super().__init__(context, leaders, SharedViews(context), self._uncertain_closes)
        self.recovery = Recovery(context, self._uncertain_closes, self.kernels)
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
        """Create a session on a kernel that is there; ``None`` if it ended meanwhile."""
        context, kernels = self._context, self.kernels
        session_id = str(pending.session_id)
        deadline = context.deadline()
        while True:
            async with context.usage.attaching(kernel_id):
                if kernel_id not in context.kernel_manager:
                    return None
                pending.kernel_id = kernel_id
                try:
                    model = await context.save(session_id, wanted, kernel_id)
                except web.HTTPError as error:
                    if error.status_code == 404:
                        return None
                    raise
            closing = await kernels.is_closing(kernel_id)
            # A server that closed the kernel's last session has ended it before the mark went.
            if not closing:
                liveness = await context.authority.check_liveness(kernel_id)
                if liveness is not Liveness.GONE:
                    return model
            # Another server took its session for the last, or has seen this one: which, the
            # end of its mark will tell.
            record = context.new_record(session_id, wanted, kernel_id)
            await self.recovery.roll_back_start(record)
            if not closing:
                return None
            await kernels.wait_until_not_closing(kernel_id, deadline)

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
        record = await self._writer.update(session_id, changes)
        return await self._writer.finish_update(record, changes)

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Move, and count in the same unit of work."""
        return await self._mover.move(session_id, kernel_name, changes)

    async def close(self, session_id: str) -> None:
        """Mark, count, shut down, remove."""
        usage, uncertain_closes = self._context.usage, self._uncertain_closes
        shutdown = None
        async with usage.counting():
            closing = await self._begin_close(session_id)
            if closing is None:
                raise not_found(session_id)
            record = closing.record
            kernel_id = record.kernel_id
            # A session that another server attached since the mark was made has seen the mark,
            # or is seen now.
            attached = closing.last and await uncertain_closes.track_failure(
                session_id, self.kernels.has_users(str(kernel_id))
            )
            if closing.last and kernel_id is not None and not attached:
                shutdown = usage.begin_shutdown(kernel_id)
            else:
                # The kernel goes on, and if this fails, the session does too.
                await uncertain_closes.track_failure(session_id, self._context.remove(record))
        shut_down = partial(self._shut_down_closing, session_id)
        if await self._writer.finish_close(record, shutdown, shut_down):
            raise kernel_gone(record)

    async def _begin_close(self, session_id: str) -> Closing | None:
        if not is_storable("session_id", session_id):
            return None
        repository = await self._context.current_repository()
        await self._uncertain_closes.take_back()
        return await self._uncertain_closes.track_failure(
            session_id,
            repository.begin_close(self._context.scope, session_id, self._context.server_id),
        )

    async def _shut_down_closing(self, session_id: str, kernel_id: str) -> None:
        """Shut down the kernel of a closing session, or make the session ready again."""
        try:
            await self.kernels.shut_down(kernel_id)
        except BaseException:
            # If that fails too, it is tried after the next renewal; the session is shown, and
            # can be deleted again.
            self._uncertain_closes.track(session_id)
            with suppress(SessionStoreError):
                async with self._context.usage.counting():
                    await self._uncertain_closes.take_back()
            raise

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Have recovery take them over."""
        self.recovery.on_renewed(unfinished)
