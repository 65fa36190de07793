"""Shutting down the kernels that no session uses any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import GatewayUnavailable, StoreUnavailable
from ..records import Liveness
from .context import SessionContext
from .users import KernelUsers


class KernelShutdowns:
    """Shuts kernels down, one at most once at a time. For the tasks of one event loop."""

    def __init__(self, context: SessionContext, users: KernelUsers) -> None:
        self._context = context
        self._users = users

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
                used = await self._users.has_users(kernel_id)
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

    async def discard_after_move(
        self, kernel_id: str, on_failure: Callable[[str], None] | None = None
    ) -> None:
        """Discard a kernel that was started for a move which was not saved; never raises."""
        try:
            await self.discard(kernel_id)
        except Exception as error:
            self._failed(kernel_id, error, on_failure)

    async def begin_if_unused(
        self, kernel_id: str | None, *, last: bool | None = None, recount: bool = True
    ) -> asyncio.Future[None] | None:
        """Begin to shut down a kernel that a session has left, within ``usage.counting()``.

        Parameters
        ----------
        kernel_id : str or None
        last : bool, optional
            Whether the session was the kernel's last, where that was counted already.
        recount : bool
            Whether to count once more if it was: a session that another server has attached
            since then is seen now.

        Returns
        -------
        asyncio.Future or None
            For :meth:`shut_down_abandoned`; ``None`` if the kernel goes on running.
        """
        if kernel_id is None or last is False:
            return None
        usage = self._context.usage
        try:
            used = (last is None or recount) and await self._users.has_users(kernel_id)
        except StoreUnavailable:
            self._context.log.warning(
                "Kernel %s was left by its session and goes on running: whether another "
                "session uses it cannot be asked now.",
                kernel_id,
            )
            return None
        if used or usage.is_shutting_down(kernel_id):
            return None
        return usage.begin_shutdown(kernel_id)

    async def shut_down_if_unused(
        self, kernel_id: str, on_failure: Callable[[str], None] | None = None
    ) -> None:
        """Shut down a kernel that a session has perhaps left; never raises."""
        async with self._context.usage.counting():
            shutdown = await self.begin_if_unused(kernel_id)
        if shutdown is not None:
            await self.shut_down_abandoned(kernel_id, shutdown, on_failure)

    async def shut_down_abandoned(
        self,
        kernel_id: str,
        shutdown: asyncio.Future[None],
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """Shut down the kernel that a session has left; never raises: the session has moved.

        Parameters
        ----------
        kernel_id : str
        shutdown : asyncio.Future
            As :meth:`begin_if_unused` returned it.
        on_failure : callable, optional
            Called with the kernel's id if it could not be shut down.
        """
        task = self._context.tasks.spawn(self._shut_down_abandoned(kernel_id, shutdown, on_failure))
        if not getattr(self._context.kernel_manager, "use_pending_kernels", None):
            await asyncio.shield(task)

    async def _shut_down_abandoned(
        self,
        kernel_id: str,
        shutdown: asyncio.Future[None],
        on_failure: Callable[[str], None] | None,
    ) -> None:
        try:
            await self.shut_down(kernel_id)
        except Exception as error:
            self._failed(kernel_id, error, on_failure)
        finally:
            shutdown.set_result(None)

    def _failed(
        self, kernel_id: str, error: Exception, on_failure: Callable[[str], None] | None
    ) -> None:
        self._context.log.warning(
            "Kernel %s, which its session has left, could not be shut down: %s", kernel_id, error
        )
        if on_failure is not None:
            on_failure(kernel_id)
