"""The part of the session manager that keeps its place among the servers of the namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

from .errors import StoreUnavailable
from .kernels import Kernels
from .records import Scope, SessionRecord
from .registration import RENEWAL_TIMEOUT, Heartbeat
from .repository import SessionRepository
from .traits import StoreSettings


class LeaseHolder(StoreSettings):
    """Holds this server's lease; :class:`.PersistentSessionManager` is what users name."""

    scope: Scope
    server_id: str
    _repository: SessionRepository | None = None
    _heartbeat: Heartbeat | None = None
    _kernels: Kernels
    _tasks: set[asyncio.Task[Any]]
    _loop: asyncio.AbstractEventLoop | None = None
    #: The sessions on local kernels, to be written back if this server was evicted.
    _held: dict[str, SessionRecord]

    @property
    def store(self) -> SessionRepository:
        """The repository.

        Raises
        ------
        StoreUnavailable
            If this manager has been closed.
        """
        if self._repository is None:
            raise StoreUnavailable("the session manager has been closed")
        return self._repository

    async def _current_store(self) -> SessionRepository:
        """Return the repository once this server is registered in it.

        Whoever was suspended for longer than the lease was perhaps evicted, and
        its sessions are back only after it has renewed.
        """
        self._loop = asyncio.get_running_loop()
        heartbeat = self._heartbeat
        if heartbeat is not None and heartbeat.overdue:
            renewed = asyncio.wrap_future(heartbeat.hurry())
            try:
                await asyncio.wait_for(asyncio.shield(renewed), RENEWAL_TIMEOUT)
            except asyncio.TimeoutError:
                raise StoreUnavailable("the lease of this server cannot be renewed") from None
        return self.store

    def _hold(self, record: SessionRecord) -> None:
        if self._kernels.running() is not None:
            self._held[record.session_id] = record

    def _let_go(self, records: Collection[SessionRecord]) -> None:
        for record in records:
            self._held.pop(record.session_id, None)

    def _held_now(self) -> list[SessionRecord]:
        """Return the sessions on kernels that still run here; called in the heartbeat's thread."""
        running = self._kernels.running() or frozenset()
        return [record for record in list(self._held.values()) if record.kernel_id in running]

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        # The loop keeps only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
