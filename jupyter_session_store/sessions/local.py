"""Sessions on this server's own kernels: its memory is the truth, and the store its mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web

from ..records import READY, SessionRecord
from ..servers.registered_store import RegisteredStore
from .claims import PathLeaders
from .closing import LocalCloser, find_by_id, has_others
from .context import NewSession, SessionContext, being_deleted
from .interface import Sessions
from .kernels import StoredMove
from .mirror import Mirror
from .models import is_news, stored_of_kernel
from .views import LocalViews


class LocalSessions(Sessions):
    """The sessions of this server's kernels.

    No other server shuts such a kernel down or attaches to it, so that sessions
    are counted without marks, and a session is there once its kernel runs. The
    context's store is a :class:`.LocalStore`, so that no request needs the database.
    """

    def __init__(
        self,
        context: SessionContext,
        leaders: PathLeaders,
        mirror: Mirror,
        registered: RegisteredStore,
    ) -> None:
        views = LocalViews(context)
        super().__init__(context, leaders, views)
        self._views = views
        self._mirror = mirror
        self._registered = registered
        self._closer = LocalCloser(context, self._writer, self.kernels)

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
        return model

    async def update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the row."""
        kernel_id = changes.get("kernel_id")
        if kernel_id is None:
            record = await self._writer.update(session_id, changes)
        else:
            async with self._context.usage.attaching(kernel_id):
                if kernel_id not in self._context.kernel_manager:
                    raise web.HTTPError(404, f"Session not found: no kernel {kernel_id!r} is here")
                record = await self._writer.update(session_id, changes)
        return await self._writer.finish_update(record, changes)

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
            record = await self._writer.update(session_id, {**changes, "state": READY})
            if left is None or left == target or has_others(records, left):
                return StoredMove(record)
            return StoredMove(record, left, usage.begin_shutdown(left))

    async def close(self, session_id: str) -> None:
        """Count, shut down, remove."""
        await self._closer.close(session_id)

    def live_local_sessions(self) -> list[SessionRecord]:
        """Return the sessions on kernels that still run."""
        running = self._context.authority.local_kernel_ids() or frozenset()
        return [one for one in self._mirror.records.all() if one.kernel_id in running]

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Have the store made equal to memory; called in the heartbeat's thread."""
        tasks = self._context.tasks
        tasks.call_from_thread(lambda: tasks.spawn(self.synchronize()))

    async def synchronize(self) -> None:
        """Bring memory up to date with the kernels, and the store up to date with memory."""
        records = self._mirror.records
        before = records.find({})
        for record, model in zip(before, await self._views.models_of(before), strict=True):
            # A session that is gone is removed by who has made the models. One that the store
            # has refused would be tried again for every message of its kernel.
            changed = records.get(record.session_id) is not record
            if model is not None and not changed and not self._mirror.is_refused(record):
                known = stored_of_kernel(model["kernel"])
                if is_news(record, known):
                    records.change(record, known)
        await self._mirror.synchronize(self._registered)

    @property
    def number_in_memory(self) -> int:
        """How many sessions there are, from any thread."""
        return len(self._mirror.records)

    @property
    def unsynchronized(self) -> int:
        """How many sessions the store does not have as they are; from any thread."""
        return self._mirror.unsynchronized
