"""The kernels of sessions: starting them, who uses them, and shutting down those of no session."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container
from contextlib import suppress
from typing import Any, Final, NamedTuple

from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import GatewayUnavailable, KernelNotStarted, SessionStoreError, StoreUnavailable
from ..records import CLOSING, Liveness, SessionRecord
from .context import NewSession, SessionContext

#: Seconds between two looks at a session that another server is closing.
_PAUSE: Final = 0.05


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
        :meth:`SessionKernels.shut_down_abandoned`.
    """

    record: SessionRecord
    left: str | None = None
    shutdown: asyncio.Future[None] | None = None


class SessionKernels:
    """Starts kernels, counts the sessions on them and shuts them down. For one event loop's tasks.

    Parameters
    ----------
    context : SessionContext
    uncertain_closes : container of str
        The sessions whose mark ``closing`` says nothing.

    Attributes
    ----------
    failed_shutdowns : set of str
        Kernels that sessions have left, that could not be shut down, and that a row of the
        store can name.
    """

    def __init__(self, context: SessionContext, uncertain_closes: Container[str] = ()) -> None:
        self._context = context
        self._uncertain_closes = uncertain_closes
        self.failed_shutdowns: set[str] = set()

    async def start(self, session_id: str, wanted: NewSession, kernel_id: str | None) -> str:
        """Start a kernel and return its id; a cancelled start goes on, and is undone.

        Parameters
        ----------
        session_id : str
        wanted : NewSession
            Its ``kernel_id`` is not looked at.
        kernel_id : str or None
            The id to start it under, which is reserved from now until the
            caller releases it (:meth:`release`).

        Raises
        ------
        DuplicateKernelError
            If another task is starting a kernel under this id.
        """
        context = self._context
        if kernel_id is not None and not context.usage.reserve(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")
        start = context.tasks.spawn(
            context.hooks.start_kernel_for_session(
                session_id=session_id,
                path=wanted.path,
                name=wanted.name,
                type=wanted.type,
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
            self.release(kernel_id)
            raise

    async def start_for_move(
        self,
        session_id: str,
        before: dict[str, Any],
        kernel_name: str | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start the kernel that a session is to move to.

        Raises
        ------
        KernelNotStarted
            With the reason as its cause.
        """
        wanted = NewSession(before["path"], before["name"], before["type"], kernel_name)
        try:
            return await self.start(session_id, wanted, kernel_id)
        except Exception as error:
            raise KernelNotStarted(kernel_name) from error

    def refuse_reserved(self, kernel_id: str | None) -> None:
        """Refuse the id of a kernel that is being started: it may be in the kernel manager.

        Raises
        ------
        DuplicateKernelError
        """
        if kernel_id is not None and self._context.usage.is_reserved(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")

    def refuse_missing(self, kernel_id: str) -> None:
        """Refuse to move a session to a kernel that is not there, or only half started.

        Raises
        ------
        tornado.web.HTTPError
            400, as Jupyter Server does.
        """
        context = self._context
        if kernel_id not in context.kernel_manager or context.usage.is_reserved(kernel_id):
            raise web.HTTPError(400, f"No such kernel: {kernel_id}")

    def release(self, *kernel_ids: str | None) -> None:
        """Release reserved ids."""
        for kernel_id in kernel_ids:
            if kernel_id is not None:
                self._context.usage.release(kernel_id)

    def _discard_started(self, start: asyncio.Task[str], reserved: str | None) -> None:
        self.release(reserved)
        if not start.cancelled() and start.exception() is None:
            self._context.tasks.spawn(self.discard(start.result()))

    async def has_users(self, kernel_id: str, *, other_than: str | None = None) -> bool:
        """Return whether a session, `other_than` one, uses a kernel and goes on to.

        Raises
        ------
        StoreUnavailable
        """
        return any(
            record.state != CLOSING or record.session_id in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
            if record.session_id != other_than
        )

    async def in_use(self, kernel_ids: Collection[str]) -> set[str]:
        """Return those of some kernels that sessions name, the ones being created included.

        Raises
        ------
        StoreUnavailable
        """
        records = await self._context.repository.find(self._context.scope)
        return {str(record.kernel_id) for record in records} & set(kernel_ids)

    async def is_closing(self, kernel_id: str) -> bool:
        """Return whether a session on a kernel is being closed."""
        return any(
            record.state == CLOSING and record.session_id not in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
        )

    async def wait_until_not_closing(self, kernel_id: str, deadline: float) -> None:
        """Wait, until a time on the event loop's clock, while a session on a kernel is closed.

        Raises
        ------
        StoreUnavailable
            When the time is over.
        """
        while await self.is_closing(kernel_id):
            if asyncio.get_running_loop().time() > deadline:
                raise StoreUnavailable(f"the kernel {kernel_id!r} is being shut down elsewhere")
            await asyncio.sleep(_PAUSE)

    async def shut_down(self, kernel_id: str) -> None:
        """Shut a kernel down; one that is gone already is a success.

        Raises
        ------
        GatewayUnavailable
            If its gateway cannot be asked, or refused.
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
        usage = self._context.usage
        async with usage.counting():
            try:
                used = await self.has_users(kernel_id)
            except StoreUnavailable:
                # A kernel that no session is known to have had.
                used = False
            if used or usage.is_shutting_down(kernel_id):
                return
            shutdown = usage.begin_shutdown(kernel_id)
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

    async def begin_if_unused(
        self, kernel_id: str | None, *, last: bool = True
    ) -> asyncio.Future[None] | None:
        """Begin to shut down a kernel that a session has left, within ``usage.counting()``.

        Parameters
        ----------
        kernel_id : str or None
        last : bool
            ``False`` if the session is known not to have been the kernel's last. Otherwise the
            sessions are counted: one that another server has attached since is seen now.

        Returns
        -------
        asyncio.Future or None
            For :meth:`shut_down_abandoned`; ``None`` if the kernel goes on running.
        """
        if kernel_id is None or not last:
            return None
        usage = self._context.usage
        try:
            used = await self.has_users(kernel_id)
        except SessionStoreError:
            self._context.log.warning(
                "Kernel %s was left by its session and goes on running: whether another "
                "session uses it cannot be asked now.",
                kernel_id,
            )
            return None
        return (
            None if used or usage.is_shutting_down(kernel_id) else usage.begin_shutdown(kernel_id)
        )

    async def shut_down_unused(self, *kernel_ids: str | None) -> None:
        """Shut down those of some kernels that no session uses; never raises."""
        for kernel_id in kernel_ids:
            async with self._context.usage.counting():
                shutdown = await self.begin_if_unused(kernel_id)
            await self.shut_down_abandoned(kernel_id, shutdown)

    async def shut_down_abandoned(
        self, kernel_id: str | None, shutdown: asyncio.Future[None] | None
    ) -> None:
        """Shut down the kernel that a session has left; never raises: the session has moved.

        Parameters
        ----------
        kernel_id : str or None
        shutdown : asyncio.Future or None
            As :meth:`begin_if_unused` returned it; nothing happens without it.
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
