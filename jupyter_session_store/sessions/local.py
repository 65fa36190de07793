"""Sessions on this server's own kernels: nothing but this process competes for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web

from ..records import READY, SessionRecord
from .claims import PathLeaders
from .context import NewSession, SessionContext, being_deleted, kernel_gone, not_found
from .interface import Sessions
from .kernels import StoredMove
from .models import stored_of_kernel
from .views import LocalViews


class LocalSessions(Sessions):
    """The sessions of this server's kernels, kept in the store.

    No other server shuts such a kernel down or attaches to it, so that sessions
    are counted without marks, and a session is stored once its kernel runs.
    """

    def __init__(self, context: SessionContext, leaders: PathLeaders) -> None:
        super().__init__(context, leaders, LocalViews(context, self._forget))
        #: Stored sessions by their ids, to be put back if this server was evicted.
        self._remembered: dict[str, SessionRecord] = {}

    async def create(self, pending: KernelSessionRecord, wanted: NewSession) -> dict[str, Any]:
        """Use a kernel that is there, or start one, and store the session."""
        context, kernels, kernel_id = self._context, self.kernels, wanted.kernel_id
        session_id = str(pending.session_id)
        kernels.refuse_reserved(kernel_id)
        if kernel_id is not None and kernel_id in context.kernel_manager:
            async with context.usage.attaching(kernel_id):
                if kernel_id in context.kernel_manager:
                    pending.kernel_id = kernel_id
                    return await context.save(session_id, wanted, kernel_id)
        started = pending.kernel_id = await kernels.start(session_id, wanted, kernel_id)
        try:
            return await context.save(session_id, wanted, started)
        except BaseException:
            self._remembered.pop(session_id, None)
            await context.tasks.finish(kernels.discard_saved(session_id, started))
            raise
        finally:
            # Until now: a session that attached before this one was saved would lose the kernel.
            context.usage.release(started)

    async def save(
        self, session_id: str, wanted: NewSession, kernel_id: str | None
    ) -> dict[str, Any]:
        """Add a row, with the claim to its path if that is free."""
        record = self._context.new_record(session_id, wanted, kernel_id)
        model = await self.reader.model_of(record)
        record = record.replace(**stored_of_kernel(model["kernel"]))
        await self._writer.add(record)
        self._remembered[record.session_id] = record
        return model

    async def update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the row."""
        kernel_id = changes.get("kernel_id")
        if kernel_id is None:
            record = await self._store(session_id, changes)
        else:
            async with self._context.usage.attaching(kernel_id):
                if kernel_id not in self._context.kernel_manager:
                    raise web.HTTPError(404, f"Session not found: no kernel {kernel_id!r} is here")
                record = await self._store(session_id, changes)
        return await self._writer.finish_update(record, changes)

    async def _store(self, session_id: str, changes: Mapping[str, Any]) -> SessionRecord:
        record = await self._writer.update(session_id, changes)
        # The session may have got another id.
        self._remembered.pop(session_id, None)
        self._remembered[record.session_id] = record
        return record

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Change the row, and count the sessions on the kernel that the session leaves."""
        before = await self.reader.get_for_change(session_id)
        started = None
        if "kernel_id" not in changes and kernel_name is not None:
            started = await self.kernels.start_for_move(session_id, before, kernel_name)
            changes = {**changes, "kernel_id": started}
        previous = before["kernel"]["id"]
        return await self._runner.run(session_id, previous, changes, started, self._store_move)

    async def _store_move(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        """Store a move, while no task of this process shuts the target down, or counts."""
        context, usage, target = self._context, self._context.usage, changes["kernel_id"]
        async with usage.attaching(target):
            self.kernels.refuse_missing(target)
            records = await context.find()
            left = find_by_id(records, session_id).kernel_id
            if usage.is_shutting_down(left):
                raise being_deleted(session_id)
            record = await self._store(session_id, {**changes, "state": READY})
            if left is None or left == target or has_others(records, left):
                return StoredMove(record)
            return StoredMove(record, left, usage.begin_shutdown(left))

    async def close(self, session_id: str) -> None:
        """Count, shut down, remove."""
        context, usage = self._context, self._context.usage
        shutdown = None
        async with usage.counting():
            records = await context.find()
            record = find_by_id(records, session_id)
            kernel_id = record.kernel_id
            if kernel_id is not None and not has_others(records, kernel_id):
                # A kernel is shut down only while the store can be written: the row has to go.
                # If the answer is lost, nothing has changed.
                changes = {"state": READY}
                if not await context.repository.update(context.scope, session_id, changes):
                    raise not_found(session_id)
                shutdown = usage.begin_shutdown(kernel_id)
            else:
                await context.remove(record)
        gone = await self._writer.finish_close(record, shutdown, self.kernels.shut_down)
        self._forget([record])
        if gone:
            raise kernel_gone(record)

    def _forget(self, records: Collection[SessionRecord]) -> None:
        for record in records:
            self._remembered.pop(record.session_id, None)

    def live_local_sessions(self) -> list[SessionRecord]:
        """Return the stored sessions on kernels that still run."""
        running = self._context.authority.local_kernel_ids() or frozenset()
        return [one for one in list(self._remembered.values()) if one.kernel_id in running]


def find_by_id(records: Sequence[SessionRecord], session_id: str) -> SessionRecord:
    """Return the session of this id; raises 404 if there is none."""
    for record in records:
        if record.session_id == session_id:
            return record
    raise not_found(session_id)


def has_others(records: Sequence[SessionRecord], kernel_id: str | None) -> bool:
    """Return whether more than one of some sessions is on a kernel."""
    return sum(record.kernel_id == kernel_id for record in records) > 1
