"""Starting kernels for sessions."""

from __future__ import annotations

import asyncio

from jupyter_client.multikernelmanager import DuplicateKernelError

from .context import NewSession, SessionContext
from .shutdowns import KernelShutdowns


class KernelStarter:
    """Starts kernels; no start is cancelled half way. For the tasks of one event loop."""

    def __init__(self, context: SessionContext, shutdowns: KernelShutdowns) -> None:
        self._context = context
        self._shutdowns = shutdowns

    def refuse_reserved(self, kernel_id: str | None) -> None:
        """Refuse the id of a kernel that is being started: it may be in the kernel manager.

        Raises
        ------
        DuplicateKernelError
        """
        if kernel_id is not None and self._context.usage.is_reserved(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")

    async def start(self, session_id: str, wanted: NewSession, kernel_id: str | None) -> str:
        """Start a kernel; a cancelled start goes on, and its kernel is shut down.

        Parameters
        ----------
        session_id : str
        wanted : NewSession
            Its ``kernel_id`` is not looked at.
        kernel_id : str or None
            The id to start it under, which is reserved from now until the
            caller releases it (:meth:`release`).

        Returns
        -------
        str
            The kernel's id.

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

    def release(self, *kernel_ids: str | None) -> None:
        """Release reserved ids."""
        for kernel_id in kernel_ids:
            if kernel_id is not None:
                self._context.usage.release(kernel_id)

    def _discard_started(self, start: asyncio.Task[str], reserved: str | None) -> None:
        self.release(reserved)
        if not start.cancelled() and start.exception() is None:
            self._context.tasks.spawn(self._shutdowns.discard(start.result()))
