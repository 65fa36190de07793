"""Sessions on this server's own kernels: nothing but this process competes for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web

from ..errors import KernelNotStarted, StoreUnavailable
from ..records import READY, SessionRecord
from ..telemetry.events import MOVED
from .attaching import KernelAttacher
from .claims import PathClaims, PathLeaders
from .context import NewSession, SessionContext, not_found
from .interface import Sessions
from .models import stored_of_kernel
from .moving import StoredMove
from .reading import SessionReader
from .recovery import MoveSettler, UnsettledMove
from .removals import PendingRemovals, remove_session
from .shutdowns import KernelShutdowns
from .starting import KernelStarter
from .updating import SessionUpdater
from .users import KernelUsers
from .views import InvalidRows, LocalViews


class LocalSessions(Sessions):
    """The sessions of this server's kernels, kept in the store.

    No other server shuts such a kernel down or attaches to it, so that sessions
    are counted without marks, and a session is stored once its kernel runs.
    """

    def __init__(self, context: SessionContext, leaders: PathLeaders) -> None:
        self._context = context
        #: Stored sessions by their ids, to be put back if this server was evicted.
        self._remembered: dict[str, SessionRecord] = {}
        invalid_rows = InvalidRows(context)
        removals = PendingRemovals(context, self._forget)
        self.reader = SessionReader(
            context, LocalViews(context, invalid_rows, removals), invalid_rows
        )
        self.users = KernelUsers(context)
        self.attacher = KernelAttacher(context)
        self._shutdowns = KernelShutdowns(context, self.users)
        self._starter = KernelStarter(context, self._shutdowns)
        self._claims = PathClaims(context, leaders, self.reader.is_gone)
        self._updater = SessionUpdater(context, self.reader)
        self._settler = MoveSettler(context, self.users, self._shutdowns)

    async def create(self, pending: KernelSessionRecord, wanted: NewSession) -> dict[str, Any]:
        """Use a kernel that is there, or start one, and store the session."""
        context, kernel_id = self._context, wanted.kernel_id
        self._starter.refuse_reserved(kernel_id)
        if kernel_id is not None and kernel_id in context.kernel_manager:
            async with context.usage.attaching(kernel_id):
                if kernel_id in context.kernel_manager:
                    return await self._save(pending, wanted, kernel_id)
        started = await self._starter.start(str(pending.session_id), wanted, kernel_id)
        try:
            return await self._save(pending, wanted, started)
        except BaseException:
            await context.tasks.finish(self._shutdowns.discard(started))
            raise
        finally:
            # Until now: a session that attached before this one was saved would lose the kernel.
            self._starter.release(started)

    async def _save(
        self, pending: KernelSessionRecord, wanted: NewSession, kernel_id: str
    ) -> dict[str, Any]:
        pending.kernel_id = kernel_id
        model: dict[str, Any] = await self._context.hooks.save_session(
            pending.session_id,
            path=wanted.path,
            name=wanted.name,
            type=wanted.type,
            kernel_id=kernel_id,
        )
        return model

    async def save(
        self, session_id: str, wanted: NewSession, kernel_id: str | None
    ) -> dict[str, Any]:
        """Add a row, with the claim to its path if that is free."""
        record = self._context.new_record(session_id, wanted, kernel_id)
        model = await self.reader.model_of(record)
        record = record.replace(**stored_of_kernel(model["kernel"]))
        await self._claims.add(record)
        self._remembered[record.session_id] = record
        return await self.reader.after_save(record, model)

    async def update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the row."""
        record = await self._store(session_id, changes)
        self._updater.emit(record, changes)
        return await self._updater.finish(record)

    async def _store(self, session_id: str, changes: Mapping[str, Any]) -> SessionRecord:
        record = await self._updater.store(session_id, changes)
        # The session may have got another id.
        self._remembered.pop(session_id, None)
        self._remembered[record.session_id] = record
        return record

    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Change the row, and count the sessions on the kernel that the session leaves."""
        context = self._context
        before = await self.reader.get_for_change(session_id)
        started = None
        if "kernel_id" not in changes:
            started = await self._start_for_move(session_id, before, kernel_name)
            changes = {**changes, "kernel_id": started}
        previous, target = before["kernel"]["id"], changes["kernel_id"]
        try:
            if context.hooks.overrides("update_session"):
                self._refuse_missing(target)
                await context.hooks.update_session(session_id, **changes)
                moved = None
            else:
                moved = await self._store_move(session_id, changes)
        except StoreUnavailable:
            move = UnsettledMove(session_id, previous, target, started is not None)
            await self._settler.settle(move, set())
            raise
        except BaseException:
            if started is not None:
                await self._shutdowns.discard_after_move(started)
            raise
        if moved is None:
            model = await self.reader.get_for_change(session_id)
            for kernel_id in {previous, started or previous} - {model["kernel"]["id"]}:
                await self._shutdowns.shut_down_if_unused(kernel_id)
            return model
        context.emit(MOVED, [moved.record])
        try:
            return await self._updater.finish(moved.record)
        finally:
            if moved.left is not None and moved.shutdown is not None:
                await self._shutdowns.shut_down_abandoned(moved.left, moved.shutdown)

    async def _start_for_move(
        self, session_id: str, before: Mapping[str, Any], kernel_name: str | None
    ) -> str:
        wanted = NewSession(before["path"], before["name"], before["type"], kernel_name)
        try:
            return await self._starter.start(session_id, wanted, None)
        except Exception as error:
            raise KernelNotStarted(kernel_name) from error

    async def _store_move(self, session_id: str, changes: dict[str, Any]) -> StoredMove:
        context, usage, target = self._context, self._context.usage, changes["kernel_id"]
        # No task of this process shuts the target down, or counts, meanwhile.
        async with usage.attaching(target):
            self._refuse_missing(target)
            records = await context.find()
            record = find_by_id(records, session_id)
            left = record.kernel_id
            if usage.is_shutting_down(left):
                raise web.HTTPError(404, f"Session not found: {session_id!r} is being deleted")
            record = await self._store(session_id, {**changes, "state": READY})
            if left in (None, target) or has_others(records, left):
                return StoredMove(record)
            return StoredMove(record, left, usage.begin_shutdown(left))

    def _refuse_missing(self, kernel_id: str) -> None:
        context = self._context
        if kernel_id not in context.kernel_manager or context.usage.is_reserved(kernel_id):
            raise web.HTTPError(400, f"No such kernel: {kernel_id}")

    async def close(self, session_id: str) -> None:
        """Count, shut down, remove."""
        context, usage = self._context, self._context.usage
        shutdown = None
        async with usage.counting():
            records = await context.find()
            record = find_by_id(records, session_id)
            kernel_id = record.kernel_id
            if kernel_id is not None and not has_others(records, kernel_id):
                shutdown = usage.begin_shutdown(kernel_id)
            else:
                await remove_session(context, record)
        if shutdown is None:
            gone = await self.reader.is_gone(record)
        else:
            try:
                gone = await self.reader.is_gone(record)
                if not gone:
                    await self._shutdowns.shut_down(str(kernel_id))
                await remove_session(context, record)
            finally:
                shutdown.set_result(None)
        self._forget([record])
        if gone:
            raise web.HTTPError(404, f"Session not found: its kernel {kernel_id!r} is gone")

    def _forget(self, records: Collection[SessionRecord]) -> None:
        for record in records:
            self._remembered.pop(record.session_id, None)

    def live_local_sessions(self) -> list[SessionRecord]:
        """Return the stored sessions on kernels that still run."""
        running = self._context.authority.local_kernel_ids() or frozenset()
        return [one for one in list(self._remembered.values()) if one.kernel_id in running]

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Take over nothing: the kernels of a server that was evicted have ended with it."""


def find_by_id(records: Sequence[SessionRecord], session_id: str) -> SessionRecord:
    """Return the session of this id; raises 404 if there is none."""
    for record in records:
        if record.session_id == session_id:
            return record
    raise not_found(session_id)


def has_others(records: Sequence[SessionRecord], kernel_id: str | None) -> bool:
    """Return whether more than one of some sessions is on a kernel."""
    return sum(record.kernel_id == kernel_id for record in records) > 1
