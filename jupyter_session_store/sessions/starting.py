"""The part of the session manager that starts kernels for sessions, and ends them again."""

from __future__ import annotations

import asyncio
from typing import cast

from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_core.utils import ensure_async
from jupyter_server.services.sessions.sessionmanager import KernelName, ModelName

from ..errors import StoreUnavailable
from .finishing import Finisher


class KernelStarter(Finisher):
    """Starts kernels; :class:`.PersistentSessionManager` is what users name."""

    async def start_kernel_for_session(
        self,
        session_id: str,
        path: str | None,
        name: ModelName | None,
        type: str | None,
        kernel_name: KernelName | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start a kernel for a session and return its id.

        Parameters
        ----------
        kernel_id : str, optional
            The id to start it under. Jupyter Server before 2.20 does not have
            this parameter, so that its method serves only without it.
        """
        if kernel_id is None:
            started: str = await super().start_kernel_for_session(
                session_id, path, name, type, kernel_name
            )
            return started
        kernel_path = await ensure_async(self.contents_manager.get_kernel_path(path=path))
        started = await self.kernel_manager.start_kernel(
            path=kernel_path,
            kernel_name=kernel_name,
            env=self.get_kernel_env(path, name),
            kernel_id=kernel_id,
        )
        await self._kernels.refuse_without_kernel(started)
        return started

    async def _start_kernel(
        self,
        session_id: str,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_name: str | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start a kernel; a cancelled start goes on and ends by being shut down.

        A given id is reserved from now until the caller releases it.
        """
        if kernel_id is not None and not self._uses.reserve(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")
        start = self._spawn(
            self.start_kernel_for_session(
                session_id=session_id,
                path=path,
                name=cast("ModelName | None", name),
                type=type,
                kernel_name=cast("KernelName | None", kernel_name),
                **({} if kernel_id is None else {"kernel_id": kernel_id}),
            )
        )
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(lambda _: self._discard_started(start, kernel_id))
            raise
        except BaseException:
            self._release(kernel_id)
            raise

    def _release(self, kernel_id: str | None) -> None:
        if kernel_id is not None:
            self._uses.release(kernel_id)

    def _discard_started(self, start: asyncio.Task[str], reserved: str | None) -> None:
        self._release(reserved)
        if not start.cancelled() and start.exception() is None:
            self._spawn(self._discard(start.result()))

    async def _discard(self, kernel_id: str) -> None:
        """Shut down a kernel whose session was not saved, unless another has attached to it."""
        async with self._uses.counting():
            try:
                used = await self._has_users(kernel_id)
            except StoreUnavailable:
                # A kernel that no session is known to have had.
                used = False
            if used or self._uses.is_ending(kernel_id):
                return
            ending = self._uses.end(kernel_id)
        try:
            await self._shut_down(kernel_id)
        finally:
            ending.set_result(None)
