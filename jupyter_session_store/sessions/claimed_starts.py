"""Creating a session with a new kernel on a gateway: take the path first, then start the kernel.

Wherever this server stops, a row says what it was about to do, and, where the
kernel manager can, which kernel to look for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord

from ..errors import PathClaimed, StoreUnavailable
from ..records import READY, STARTING, SessionRecord
from .attaching import KernelAttacher
from .context import NewSession, SessionContext
from .kernels import SessionKernels
from .models import rest_model, stored_of_kernel
from .reading import SessionReader
from .recovery import Recovery
from .writing import SessionWriter


@dataclass(eq=False)
class ClaimedStarts:
    """Creates sessions with new kernels in two statements. For the tasks of one event loop."""

    _context: SessionContext
    _reader: SessionReader
    _writer: SessionWriter
    _kernels: SessionKernels
    _attacher: KernelAttacher
    _recovery: Recovery
    #: The rows that were added and are not ready yet, by the ids of their sessions.
    _starting: dict[str, SessionRecord] = field(default_factory=dict)

    async def create(self, pending: KernelSessionRecord, wanted: NewSession) -> dict[str, Any]:
        """Create a session and return its model; no exit leaves a kernel or a row behind.

        `pending` is given the id of the kernel.
        """
        session_id = str(pending.session_id)
        authority = self._context.authority
        kernel_id = wanted.kernel_id
        started = chosen = None
        if authority.supports_preassigned_ids:
            if kernel_id is not None:
                await self._attacher.refuse_running(kernel_id)
            else:
                kernel_id = chosen = str(uuid4())
        record = self._context.new_record(session_id, wanted, kernel_id, STARTING)
        try:
            with self._context.usage.in_progress(session_id):
                try:
                    await self._writer.add(record)
                except (StoreUnavailable, asyncio.CancelledError):
                    # It was perhaps added.
                    await self._recovery.roll_back_start(record)
                    raise
                try:
                    started = await self._kernels.start(session_id, wanted, kernel_id)
                except BaseException as error:
                    begun = authority.start_may_have_begun(error)
                    await self._recovery.roll_back_start(
                        record,
                        chosen if begun else None,
                        may_appear=not authority.start_is_over(error),
                    )
                    raise
                pending.kernel_id = started
                return await self._save(record, wanted, started)
        finally:
            if started is not None:
                # Else nothing is reserved here: the id may be another create's.
                self._context.usage.release(kernel_id, started)

    async def _save(
        self, record: SessionRecord, wanted: NewSession, started: str
    ) -> dict[str, Any]:
        self._starting[record.session_id] = record
        try:
            model = await self._context.save(record.session_id, wanted, started)
        except BaseException:
            if self._starting.pop(record.session_id, None) is not None:
                await self._recovery.roll_back_start(record, started)
            else:
                # An override has failed after the row was made ready.
                await self._context.tasks.finish(
                    self._kernels.discard_saved(record.session_id, started)
                )
            raise
        if self._starting.pop(record.session_id, None) is not None:
            # An override has kept the session elsewhere; the kernel is its own.
            await self._recovery.roll_back_start(record)
        return model

    def is_starting(self, session_id: str) -> bool:
        """Return whether a session has a row that :meth:`finish` makes ready."""
        return session_id in self._starting

    async def finish(self, session_id: str, wanted: NewSession, kernel_id: str) -> dict[str, Any]:
        """Make the row of a create ready, and return the session's model.

        Raises :class:`.PathClaimed` if the row is not this server's any more: it was evicted
        meanwhile, and the path may be another's by now.
        """
        context, row = self._context, self._starting[session_id]
        kernel_model = await context.kernel_model(kernel_id)
        changes = {
            **{name: value for name, value in wanted.texts.items() if value != row[name]},
            "kernel_id": kernel_id,
            **stored_of_kernel(kernel_model),
            "state": READY,
        }
        saved = await context.update_own(session_id, STARTING, changes)
        if saved is None:
            # Its answer was lost, and it was repeated; or another server took it over and did it.
            found = await context.repository.find(context.scope, session_id=session_id)
            if not found or (found[0].state, found[0].kernel_id) != (READY, kernel_id):
                raise PathClaimed(wanted.path)
            saved = found[0]
        del self._starting[session_id]
        if context.hooks.overrides("kernel_culled", "row_to_model"):
            return await self._reader.model_of(saved)
        return rest_model(saved, kernel_model)
