"""The part of the session manager that stores a new session, and holds its path meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord

from ..errors import GatewayUnavailable, PathClaimed, StoreUnavailable
from ..kernels.authority import has_begun, is_over
from ..records import READY, STARTING, Liveness, SessionRecord, claim_of
from ..telemetry.events import CLOSED
from .models import rest_model, stored_of_kernel
from .starting import KernelStarter

#: Whether a session that finds its path claimed is refused, and not stored without the claim.
claim_required: ContextVar[bool] = ContextVar("claim_required", default=False)


class SessionClaimer(KernelStarter):
    """Stores new sessions; :class:`.PersistentSessionManager` is what users name."""

    def _new_record(
        self,
        session_id: str,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_id: str | None,
        state: str = READY,
    ) -> SessionRecord:
        now = datetime.now(timezone.utc)
        record = SessionRecord(
            namespace=self.scope.namespace,
            authority=self.scope.authority,
            session_id=session_id,
            path=path,
            name=name,
            type=type,
            kernel_id=kernel_id,
            kernel_name=None,
            kernel_model=None,
            server_id=self.server_id,
            state=state,
            claim=None,
            created_at=now,
            updated_at=now,
        )
        record.check()
        return record

    async def _add(self, record: SessionRecord) -> None:
        await self._current_store()
        if record.path is not None:
            claimed = record.replace(claim=claim_of(self.scope, record.path))
            try:
                await self.store.add(claimed)
                return
            except PathClaimed:
                pass
            # The holder's kernel may have died; then its session goes, and the claim is free.
            holders = await self._find(path=record.path)
            gone = [holder for holder in holders if holder.claim and await self._is_gone(holder)]
            if await self.store.remove(self.scope, gone):
                self._tell(CLOSED, gone)
                try:
                    await self.store.add(claimed)
                    return
                except PathClaimed:
                    pass
            if claim_required.get():
                raise PathClaimed(record.path)
        await self.store.add(record)

    async def _create_claimed(
        self,
        pending: KernelSessionRecord,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_name: str | None,
        kernel_id: str | None,
    ) -> dict[str, Any]:
        """Take the path first and then start the kernel: two statements.

        Wherever this server stops, a row says what it was about to do, and,
        where the kernel manager can, which kernel to look for.
        """
        session_id: Any = pending.session_id
        started = chosen = None
        if self._kernels.chooses_ids:
            if kernel_id is not None:
                await self.refuse_running(kernel_id)
            else:
                kernel_id = chosen = str(uuid4())
        record = self._new_record(session_id, path, name, type, kernel_id, state=STARTING)
        self._starting.add(session_id)
        try:
            try:
                await self._add(record)
            except (StoreUnavailable, asyncio.CancelledError):
                # It was perhaps added.
                await self._left(record)
                raise
            try:
                started = await self._start_kernel(
                    session_id, path, name, type, kernel_name, kernel_id
                )
            except BaseException as error:
                may_be_there = chosen if has_begun(error) else None
                await self._left(record, may_be_there, may_come=not is_over(error))
                raise
            pending.kernel_id = started
            try:
                kernel_model = await self._known_model(started)
                changes = {
                    "kernel_id": started,
                    **stored_of_kernel(kernel_model),
                    "state": READY,
                }
                saved = await self._finished(session_id, started, changes)
                if saved is None:
                    # Evicted in the meantime, and the path may be another's by now.
                    raise PathClaimed(path)
            except BaseException:
                await self._left(record, started)
                raise
            return rest_model(saved, kernel_model)
        finally:
            self._starting.discard(session_id)
            if started is not None:
                # Else nothing is reserved here: the id may be another create's.
                self._release(kernel_id)
                self._release(started)

    async def _finished(
        self, session_id: str, kernel_id: str, changes: Mapping[str, str | None]
    ) -> SessionRecord | None:
        """Make the row of a create ready; ``None`` if it is not this server's any more."""
        mine = {"state": STARTING, "server_id": self.server_id}
        saved = await self.store.update(self.scope, session_id, changes, expected=mine)
        if saved is None:
            # Its answer was lost, and it was repeated; or whoever evicted this server did it.
            found = await self.store.find(self.scope, session_id=session_id)
            if found and (found[0].state, found[0].kernel_id) == (READY, kernel_id):
                return found[0]
        return saved

    async def _left(self, *what: Any, **how: Any) -> None:
        """Undo a create to the end, whoever goes away."""
        await asyncio.shield(self._spawn(self._leave(*what, **how)))

    async def refuse_running(self, kernel_id: str) -> None:
        """Refuse to start a kernel under an id that is another's on the gateway.

        Raises
        ------
        NoSuchKernel
            If such a kernel runs, which is not this server's.
        GatewayUnavailable
            If it cannot be asked.
        """
        liveness = await self._kernels.missing(kernel_id)
        if liveness is Liveness.UNKNOWN:
            raise GatewayUnavailable(f"it cannot be asked for the kernel {kernel_id!r} now")
        if liveness is Liveness.ALIVE:
            raise NoSuchKernel(kernel_id)
