"""The part of the session manager that finishes what a failure has left, here or elsewhere."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import GatewayUnavailable, SessionStoreError
from ..records import CLOSING, READY, STARTING, Liveness, SessionRecord
from ..repository import SessionRepository
from ..servers.heartbeat import Heartbeat, now, this_server
from ..telemetry.events import ADOPTED
from .attaching import KernelAttacher


@dataclass
class Leftover:
    """A create that was not finished, until it is known what became of it.

    Parameters
    ----------
    record : SessionRecord
        Its row, which is perhaps there.
    kernel_id : str or None
        The kernel that was perhaps started for it.
    wanted : bool
        Whether it becomes a session if its kernel lives.
    until : float
        Until when the kernel may still come, on the clock of :func:`.now`.
    """

    record: SessionRecord
    kernel_id: str | None
    wanted: bool
    until: float


class Finisher(KernelAttacher):
    """Finishes what is left; :class:`.PersistentSessionManager` is what users name."""

    #: Sessions whose mark ``closing`` nobody stands by: they stay.
    _unsure: set[str]
    #: By the id of the session.
    _leftovers: dict[str, Leftover]
    #: The sessions that are being created here now.
    _starting: set[str]

    def _hold_lease(self, repository: SessionRepository) -> Heartbeat:
        return Heartbeat(
            repository,
            self.scope,
            this_server(self.scope.namespace, self.server_id, self.lease_seconds),
            held=self._held_now,
            after=self._after_renewal,
            log=self.log,
        )

    def _after_renewal(self, unfinished: list[SessionRecord]) -> None:
        """Have the event loop do what is left to do; called in the heartbeat's thread."""
        for record in unfinished:
            if record.session_id not in self._starting:
                # Whoever has given its path up did not want it any more.
                wanted = record.path is not None
                self._leftovers.setdefault(
                    record.session_id,
                    Leftover(
                        record, record.kernel_id, wanted, now() + self._kernels.launch_seconds
                    ),
                )
        # Nobody may have asked this server for anything yet.
        loop = self._loop or getattr(getattr(self.parent, "io_loop", None), "asyncio_loop", None)
        if loop is not None and (self._leftovers or self._unsure):
            # A loop that was closed has nobody who waits for it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._keep_house)

    def _keep_house(self) -> None:
        self._spawn(self._finish_what_is_left())

    async def _finish_what_is_left(self) -> None:
        """Finish what can be finished now; the rest is tried after the next renewal."""
        with suppress(SessionStoreError):
            async with self._uses.counting():
                await self._take_marks_back()
        for key, leftover in list(self._leftovers.items()):
            with suppress(SessionStoreError):
                if await self._finish(leftover):
                    self._leftovers.pop(key, None)

    async def _leave(
        self,
        record: SessionRecord,
        kernel_id: str | None = None,
        *,
        may_come: bool = False,
    ) -> None:
        """Undo a create that came to nothing, now or after a later renewal.

        Parameters
        ----------
        record : SessionRecord
            Its row, which is perhaps there.
        kernel_id : str, optional
            The kernel that was perhaps started for it. The row stays as long
            as that is not known to be gone.
        may_come : bool
            Whether the kernel may be started yet.
        """
        until = now() + (self._kernels.launch_seconds if may_come else 0)
        leftover = Leftover(record, kernel_id, wanted=False, until=until)
        self._leftovers[record.session_id] = leftover
        with suppress(SessionStoreError):
            if await self._finish(leftover):
                self._leftovers.pop(record.session_id, None)

    async def _finish(self, leftover: Leftover) -> bool:
        """Return whether there is no more to do."""
        record, kernel_id = leftover.record, leftover.kernel_id
        session_id = record.session_id
        mine = {"state": STARTING, "server_id": self.server_id}
        if leftover.wanted:
            liveness = await self._liveness(kernel_id)
            if liveness is Liveness.UNKNOWN:
                return False
            if liveness is Liveness.ALIVE:
                adopted = await self.store.update(
                    self.scope, session_id, {"state": READY}, expected=mine
                )
                if adopted is not None:
                    self._tell(ADOPTED, [adopted])
                return True
            leftover.wanted = False
        if kernel_id is not None:
            found = await self.store.find(self.scope, session_id=session_id)
            if found and (found[0].state, found[0].server_id) != tuple(mine.values()):
                # It was saved after all, or another server has taken it over.
                return True
            if not await self._has_users(kernel_id, but=session_id):
                try:
                    await self._shut_down(kernel_id)
                except Exception as error:
                    self.log.debug("Kernel %s cannot be shut down yet: %s", kernel_id, error)
                    gone = False
                else:
                    gone = now() >= leftover.until
                if not gone:
                    # Its row still names it, and stands in nobody's way.
                    changes = {"path": None}
                    await self.store.update(self.scope, session_id, changes, expected=mine)
                    return False
        # Whether or not its last update, whose answer was lost, has given it the kernel.
        kernels = {record.kernel_id, kernel_id, None}
        await self.store.remove(self.scope, [record.replace(kernel_id=one) for one in kernels])
        return True

    async def _liveness(self, kernel_id: str | None) -> Liveness:
        if not kernel_id:
            return Liveness.GONE
        if kernel_id in self.kernel_manager:
            return Liveness.ALIVE
        return await self._kernels.missing(kernel_id)

    async def _take_marks_back(self) -> None:
        """Make sessions ready again that nobody is closing; nobody else counting.

        A mark whose answer was lost would let another session take itself for the last.
        """
        mine = {"state": CLOSING, "server_id": self.server_id}
        for unsure in tuple(self._unsure):
            await self.store.update(self.scope, unsure, {"state": READY}, expected=mine)
            self._unsure.discard(unsure)

    async def _has_users(self, kernel_id: str, *, but: str | None = None) -> bool:
        """Return whether a session that stays is on a kernel."""
        return any(
            record.state != CLOSING or record.session_id in self._unsure
            for record in await self._find(kernel_id=kernel_id)
            if record.session_id != but
        )

    async def _shut_down(self, kernel_id: str) -> None:
        """Shut a kernel down; one that is gone already is a success.

        Raises
        ------
        GatewayUnavailable
            If its gateway cannot be asked, or refused.
        """
        if kernel_id not in self.kernel_manager:
            if await self._kernels.end(kernel_id) is not Liveness.GONE:
                raise GatewayUnavailable("it cannot be asked to shut the kernel down now")
            return
        try:
            shutdown: Any = self.kernel_manager.shutdown_kernel(kernel_id)
            await ensure_async(shutdown)
        except (KeyError, OSError, web.HTTPError) as error:
            if kernel_id not in self.kernel_manager:
                return
            if self._kernels.shared:
                raise GatewayUnavailable("it did not shut the kernel down") from error
            raise
