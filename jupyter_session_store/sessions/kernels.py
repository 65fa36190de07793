"""The kernels of sessions: starting them, who uses them, and shutting down those of no session."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import GatewayUnavailable, KernelNotStarted, SessionStoreError, StoreUnavailable
from ..records import CLOSING, Liveness, SessionRecord, printable
from .context import NewSession, SessionContext


class StoredMove(NamedTuple):
    """A move that the store has made."""

    #: The session, as it is now.
    record: SessionRecord
    #: The kernel that it has left, if it has left one.
    left: str | None = None
    #: If that kernel has to be shut down now: for :meth:`SessionKernels.shut_down_abandoned`.
    shutdown: asyncio.Future[None] | None = None


@dataclass(eq=False)
class SessionKernels:
    """Starts kernels, counts the sessions on them and shuts them down. For one event loop's tasks.

    Whoever asks the store here may get :class:`.StoreUnavailable`.
    """

    _context: SessionContext
    #: The sessions whose mark ``closing`` says nothing.
    _uncertain_closes: Container[str] = ()
    #: Kernels that sessions have left, that could not be shut down, and that a row of the store
    #: can name.
    failed_shutdowns: set[str] = field(default_factory=set)

    async def start(self, session_id: str, wanted: NewSession, kernel_id: str | None) -> str:
        """Start a kernel and return its id; a cancelled start goes on, and is undone.

        The id to start it under is `kernel_id`, and not that of `wanted`. It is reserved
        until the caller releases it (:meth:`.KernelUsage.release`); if it is another
        task's, that is a ``DuplicateKernelError``.
        """
        context = self._context
        if kernel_id is not None and not context.usage.reserve(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")
        start = context.tasks.spawn(
            context.hooks.start_kernel_for_session(
                session_id=session_id,
                **wanted.texts,
                kernel_name=wanted.kernel_name,
                # Jupyter Server before 2.20 does not have this parameter.
                **({} if kernel_id is None else {"kernel_id": kernel_id}),
            )
        )
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(lambda _: self._discard_started(start, kernel_id))
            raise
        except BaseException:
            context.usage.release(kernel_id)
            raise

    async def start_for_move(
        self,
        session_id: str,
        before: dict[str, Any],
        kernel_name: str | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start the kernel that a session is to move to.

        Raises :class:`.KernelNotStarted`, with the reason as its cause.
        """
        wanted = NewSession(before["path"], before["name"], before["type"], kernel_name)
        try:
            return await self.start(session_id, wanted, kernel_id)
        except Exception as error:
            raise KernelNotStarted(kernel_name) from error

    def refuse_reserved(self, kernel_id: str | None) -> None:
        """Refuse the id of a kernel that is being started: it may be in the kernel manager."""
        if kernel_id is not None and self._context.usage.is_reserved(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")

    def refuse_missing(self, kernel_id: str) -> None:
        """Refuse with 400, as Jupyter Server does, a kernel that is not there or half started."""
        context = self._context
        if kernel_id not in context.kernel_manager or context.usage.is_reserved(kernel_id):
            raise no_such_kernel(kernel_id)

    def _discard_started(self, start: asyncio.Task[str], reserved: str | None) -> None:
        self._context.usage.release(reserved)
        if not start.cancelled() and start.exception() is None:
            self._context.tasks.spawn(self.discard(start.result()))

    async def has_users(self, kernel_id: str, *, other_than: str | None = None) -> bool:
        """Return whether a session, `other_than` one, uses a kernel and goes on to."""
        return any(
            record.state != CLOSING or record.session_id in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
            if record.session_id != other_than
        )

    async def in_use(self, kernel_ids: Collection[str]) -> set[str]:
        """Return those of some kernels that sessions name, the ones being created included."""
        records = await self._context.repository.find(self._context.scope)
        used = {str(record.kernel_id) for record in records}
        # A session that the store has lost, and whose kernel cannot be asked for, comes back.
        return (used | self._context.store.kernels_in_memory()) & set(kernel_ids)

    async def is_closing(self, kernel_id: str) -> bool:
        """Return whether a session on a kernel is being closed."""
        return any(
            record.state == CLOSING and record.session_id not in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
        )

    async def wait_until_not_closing(self, kernel_id: str, deadline: float) -> None:
        """Wait, until a time on the event loop's clock, while a session on a kernel is closed."""
        while await self.is_closing(kernel_id):
            await self._context.pause_until(
                deadline, f"the kernel {kernel_id!r} is being shut down elsewhere"
            )

    async def shut_down(self, kernel_id: str) -> None:
        """Shut a kernel down; one that is gone already is a success.

        Raises :class:`.GatewayUnavailable` if its gateway cannot be asked, or refused.
        """
        context = self._context
        kernel_manager: Any = context.kernel_manager
        if kernel_id not in kernel_manager:
            if await context.authority.shut_down(kernel_id) is not Liveness.GONE:
                raise GatewayUnavailable("it cannot be asked to shut the kernel down now")
            return
        try:
            await ensure_async(kernel_manager.shutdown_kernel(kernel_id))
        except (KeyError, OSError, web.HTTPError) as error:
            if kernel_id not in kernel_manager:
                return
            if context.authority.is_shared:
                raise GatewayUnavailable("it did not shut the kernel down") from error
            raise

    async def discard(self, kernel_id: str) -> None:
        """Shut down a kernel whose session was not saved, unless another has attached to it."""
        async with self._context.usage.counting():
            try:
                shutdown = await self.begin_if_unused(kernel_id)
            except StoreUnavailable:
                # A kernel that no session is known to have had.
                shutdown = self._begin(kernel_id)
        if shutdown is not None:
            try:
                await self.shut_down(kernel_id)
            finally:
                shutdown.set_result(None)

    async def discard_saved(self, session_id: str, kernel_id: str) -> None:
        """Remove a session that was perhaps saved though its create failed; discard its kernel."""
        with suppress(SessionStoreError):
            found = await self._context.find(session_id=session_id, kernel_id=kernel_id)
            await self._context.repository.remove(self._context.scope, found)
        await self.discard(kernel_id)

    async def discard_after_move(self, kernel_id: str) -> None:
        """Discard a kernel that was started for a move which was not saved; never raises."""
        try:
            await self.discard(kernel_id)
        except Exception as error:
            self._note_failed_shutdown(kernel_id, error)

    def _begin(self, kernel_id: str) -> asyncio.Future[None] | None:
        usage = self._context.usage
        return None if usage.is_shutting_down(kernel_id) else usage.begin_shutdown(kernel_id)

    async def begin_if_unused(self, kernel_id: str) -> asyncio.Future[None] | None:
        """Begin to shut a kernel down if no session uses it, within ``usage.counting()``.

        Return what is done when the kernel has ended; ``None`` if it goes on running.
        """
        return None if await self.has_users(kernel_id) else self._begin(kernel_id)

    async def begin_if_left(self, kernel_id: str) -> asyncio.Future[None] | None:
        """Do as :meth:`begin_if_unused` with a kernel that its session has left; never raises."""
        try:
            return await self.begin_if_unused(kernel_id)
        except SessionStoreError:
            self._context.log.warning(
                "The kernel %s goes on running, though its session has left it: the store cannot "
                "say now whether another session uses it.",
                kernel_id,
            )
            return None

    async def shut_down_unused(self, *kernel_ids: str | None) -> None:
        """Shut down those of some kernels that no session uses; never raises."""
        for kernel_id in kernel_ids:
            if kernel_id is not None:
                async with self._context.usage.counting():
                    shutdown = await self.begin_if_left(kernel_id)
                await self.shut_down_abandoned(kernel_id, shutdown)

    async def shut_down_abandoned(
        self, kernel_id: str | None, shutdown: asyncio.Future[None] | None
    ) -> None:
        """Shut down the kernel that a session has left; never raises: the session has moved.

        Nothing happens without the `shutdown` that :meth:`begin_if_unused` began.
        """
        if kernel_id is None or shutdown is None:
            return
        task = self._context.tasks.spawn(self._shut_down_abandoned(kernel_id, shutdown))
        if not getattr(self._context.kernel_manager, "use_pending_kernels", None):
            await asyncio.shield(task)

    async def _shut_down_abandoned(self, kernel_id: str, shutdown: asyncio.Future[None]) -> None:
        try:
            await self.shut_down(kernel_id)
        except Exception as error:
            self._note_failed_shutdown(kernel_id, error)
        finally:
            shutdown.set_result(None)

    def _note_failed_shutdown(self, kernel_id: str, error: Exception) -> None:
        if self._context.authority.supports_preassigned_ids:
            self.failed_shutdowns.add(kernel_id)
        self._context.log.warning(
            "Kernel %s, which its session has left, could not be shut down: %s", kernel_id, error
        )


def no_such_kernel(kernel_id: str) -> web.HTTPError:
    """Return the error of a move to a kernel that is not there."""
    return web.HTTPError(400, f"No such kernel: {printable(kernel_id)}")
