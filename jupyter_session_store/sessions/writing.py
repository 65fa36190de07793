"""Storing sessions: new ones, with the claim to their path where it is free, and changes."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import PathClaimed
from ..paths import claim_of
from ..records import STOCK_COLUMNS, SessionRecord
from ..telemetry.events import CLOSED, MOVED
from .claims import PathLeaders
from .context import SessionContext, check_texts, is_storable, not_found
from .models import stored_of_kernel
from .reading import SessionReader


@dataclass(frozen=True)
class SessionWriter:
    """Stores sessions. For the tasks of one event loop."""

    _context: SessionContext
    _reader: SessionReader
    _leaders: PathLeaders

    async def add(self, record: SessionRecord) -> None:
        """Store a new session, without the claim to its path only if that is allowed.

        Raises :class:`.PathClaimed` if another session holds the claim and this task may
        not do without (:meth:`.PathLeaders.needs_claim`), and :class:`.SessionConflict`
        if another session has this id.
        """
        context = self._context
        repository = await context.current_repository()
        if record.path is not None:
            claimed = record.replace(claim=claim_of(context.scope, record.path))
            try:
                await repository.add(claimed)
                return
            except PathClaimed:
                pass
            # The holder's kernel may have died; then its session goes, and the claim is free.
            holders = await context.find(path=record.path)
            gone = [one for one in holders if one.claim and await self._reader.is_gone(one)]
            if await context.repository.remove(context.scope, gone):
                context.emit(CLOSED, gone)
                try:
                    await context.repository.add(claimed)
                    return
                except PathClaimed:
                    pass
            if self._leaders.needs_claim(record.path):
                raise PathClaimed(record.path)
        await context.repository.add(record)

    async def update(self, session_id: str, changes: Mapping[str, Any]) -> SessionRecord:
        """Change columns of a session and return it as it is now; 404 if it is not there."""
        context = self._context
        check_texts({field: value for field, value in changes.items() if field in STOCK_COLUMNS})
        repository = await context.current_repository()
        if changes.get("kernel_id") is not None:
            kernel_model = await context.kernel_model(changes["kernel_id"])
            changes = {**changes, **stored_of_kernel(kernel_model)}
        record = None
        if is_storable("session_id", session_id):
            record = await repository.update(context.scope, session_id, changes)
        if record is None:
            raise not_found(session_id)
        return record

    async def finish_update(
        self, record: SessionRecord, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Emit the event of a change, give the kernel its new name, and return the model."""
        if not {"path", "kernel_id"}.isdisjoint(changes):
            self._context.emit(MOVED, [record])
        model = await self._reader.current_model_of(record)
        kernel_manager: Any = self._context.kernel_manager
        if hasattr(kernel_manager, "update_env") and record.path is not None:
            kernel_manager.update_env(
                kernel_id=record.kernel_id,
                env=self._context.hooks.get_kernel_env(record.path, record.name),
            )
        return model

    async def finish_close(
        self,
        record: SessionRecord,
        shutdown: Future[None] | None,
        shut_down: Callable[[str], Awaitable[None]],
    ) -> bool:
        """Shut the kernel down and then remove its last session; return whether it was gone.

        Without a `shutdown`, the kernel goes on, and the session was removed already.
        """
        if shutdown is None:
            return await self._reader.is_gone(record)
        try:
            gone = await self._reader.is_gone(record)
            if not gone:
                await shut_down(str(record.kernel_id))
            await self._context.remove(record)
        finally:
            shutdown.set_result(None)
        return gone
