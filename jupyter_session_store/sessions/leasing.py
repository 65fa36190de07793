"""The part of the session manager that keeps its place among the servers of the namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable
from typing import Any

from ..config.traits import StoreSettings
from ..errors import StoreUnavailable
from ..kernels.authority import Kernels
from ..records import Scope, SessionRecord
from ..repository import SessionRepository
from ..servers.heartbeat import RENEWAL_TIMEOUT, Heartbeat
from ..telemetry.events import SessionEvents


class LeaseHolder(StoreSettings):
    """Holds this server's lease; :class:`.PersistentSessionManager` is what users name."""

    scope: Scope
    server_id: str
    _repository: SessionRepository | None = None
    _heartbeat: Heartbeat | None = None
    _kernels: Kernels
    _events: SessionEvents
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
            await self._renew(heartbeat)
        return self.store

    async def _renew(self, heartbeat: Heartbeat) -> None:
        renewed = asyncio.wrap_future(heartbeat.hurry())
        try:
            await asyncio.wait_for(asyncio.shield(renewed), RENEWAL_TIMEOUT)
        except asyncio.TimeoutError:
            raise StoreUnavailable("the lease of this server cannot be renewed") from None

    @property
    def lease(self) -> Heartbeat:
        """The lease of this server."""
        assert self._heartbeat is not None
        return self._heartbeat

    async def ask_store(self) -> None:
        """Ask the store, as a request for one session does.

        After a renewal that failed it is renewed first: who reads only does not
        notice that the store cannot be written.

        Raises
        ------
        SessionStoreError
            If the store cannot answer.
        """
        if self.lease.failing:
            await self._renew(self.lease)
        store = await self._current_store()
        # No session has the id of a server.
        await store.find(self.scope, session_id=self.server_id)

    def _tell(self, action: str, records: Iterable[SessionRecord]) -> None:
        """Tell the event logger what the store has confirmed of sessions."""
        for record in records:
            self._events.tell(
                action,
                session_id=record.session_id,
                path=record.path,
                kernel_id=record.kernel_id,
            )

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
