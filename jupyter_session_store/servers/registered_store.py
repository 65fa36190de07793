"""The repository as a registered server uses it: opened, its lease kept, and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from typing import Final

from ..errors import StoreUnavailable
from ..records import Departure, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository
from .heartbeat import RENEWAL_TIMEOUT, Heartbeat, cannot_be_renewed

#: Seconds that :meth:`RegisteredStore.open` waits for the schema's check.
OPEN_TIMEOUT: Final = 5.0
#: Seconds that :meth:`RegisteredStore.close` waits for the store, and then for the heartbeat.
CLOSE_TIMEOUT: Final = 2.0
_HEARTBEAT_CLOSE_TIMEOUT: Final = 0.5


@dataclass(eq=False)
class RegisteredStore:
    """A repository, not opened yet, and the place of this `server` among those that share it.

    While the store is closed, whoever asks for it gets :class:`.StoreUnavailable`.
    """

    _repository: SessionRepository | None
    _scope: Scope
    _server: ServerRecord
    _log: Logger
    _lease: Heartbeat | None = None

    def open(
        self,
        *,
        local_sessions: Callable[[], list[SessionRecord]],
        on_renewed: Callable[[list[SessionRecord]], None],
    ) -> None:
        """Open the repository, register this server and begin to keep its lease.

        The callbacks are as :class:`.Heartbeat` has them. Raises :class:`.SchemaMismatch`.
        """
        repository = self.repository
        # Before: the lease counts from the time at which the registration is sent.
        lease = Heartbeat(
            repository,
            self._scope,
            self._server,
            local_sessions=local_sessions,
            on_renewed=on_renewed,
            log=self._log,
        )
        repository.open(self._scope, self._server, timeout=OPEN_TIMEOUT)
        self._lease = lease
        lease.start()

    @property
    def repository(self) -> SessionRepository:
        """The repository, while the store is not closed."""
        if self._repository is None:
            raise StoreUnavailable("the session manager has been closed")
        return self._repository

    def refuse_if_closed(self) -> None:
        """Raise :class:`.StoreUnavailable` if the store has been closed."""
        _ = self.repository

    @property
    def is_closed(self) -> bool:
        """Whether the store has been closed."""
        return self._repository is None

    @property
    def lease(self) -> Heartbeat:
        """The lease of this server, once the store has been opened."""
        assert self._lease is not None
        return self._lease

    async def current(self) -> SessionRepository:
        """Return the repository once this server is registered in it.

        A server that was suspended for longer than its lease was perhaps
        evicted, and its sessions are back only after it has renewed.
        """
        if self.lease.overdue:
            await self._renew()
        return self.repository

    async def check(self) -> None:
        """Ask the store, as a request for one session does.

        After a renewal or another write that failed the lease is renewed first: a read
        does not show that the store cannot be written.
        """
        if self.lease.failing or self.repository.describe().fails_writes:
            await self._renew()
        repository = await self.current()
        if repository.describe().fails_writes:
            raise StoreUnavailable("sessions cannot be written")
        # No session has the id of a server.
        await repository.find(self._scope, session_id=self._server.server_id)

    def close(self, local_kernel_ids: frozenset[str] | None) -> None:
        """Remove the sessions on this server's kernels that do not run, and give up the store.

        As :meth:`.PersistentSessionManager.close`, with :attr:`.Departure.running`.
        """
        repository, self._repository = self._repository, None
        if repository is None:
            return
        if self._lease is not None:
            self._lease.stop()
        departure = Departure(self._scope, self._server.server_id, local_kernel_ids)
        repository.close(departure, timeout=CLOSE_TIMEOUT)
        if self._lease is not None:
            # A renewal that is running ends with the store.
            self._lease.join(_HEARTBEAT_CLOSE_TIMEOUT)

    async def _renew(self) -> None:
        renewed = asyncio.wrap_future(self.lease.renew_now())
        # Nobody may be there any more who would ask for its error.
        renewed.add_done_callback(lambda one: one.cancelled() or one.exception())
        try:
            await asyncio.wait_for(asyncio.shield(renewed), RENEWAL_TIMEOUT)
        except asyncio.TimeoutError:
            raise cannot_be_renewed() from None
