"""The part of the session manager that changes sessions, and moves them between kernels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from uuid import uuid4

from jupyter_server.services.sessions.sessionmanager import ModelName
from tornado import web

from ..errors import InvalidValue, KernelNotStarted, StoreUnavailable
from ..kernels.authority import has_begun, is_over
from ..records import CLOSING, READY, STARTING, Liveness, SessionRecord, check_text
from ..telemetry.events import MOVED
from .creating import SessionCreator
from .models import stored_of_kernel
from .reading import check_texts

#: Seconds between two attempts to learn the outcome of a move whose answer was lost.
_SETTLE_SECONDS: Final = 1.0


class SessionMover(SessionCreator):
    """Changes sessions; :class:`.PersistentSessionManager` is what users name."""

    #: Kernels that could not be ended when their sessions had left them.
    _unended: set[str]

    async def update_session(self, session_id: str, **kwargs: Any) -> None:
        """Change columns of a session.

        Parameters
        ----------
        session_id : str
        **kwargs : str
            Of session_id, path, name, type and kernel_id. A kernel that the
            session leaves goes on running.

        Raises
        ------
        TypeError
            If there is an unknown keyword.
        tornado.web.HTTPError
            404 if there is no such session, or its kernel is gone.
        """
        self._check_columns(kwargs)
        if not kwargs:
            await self.get_session(session_id=session_id)
            return
        await self._update(session_id, kwargs)

    async def change_session(
        self, session_id: str, *, kernel_name: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Change a session as a client asks, and return its model.

        A kernel that it leaves is shut down if no other session uses it; one
        that was started for it is shut down if the change cannot be saved.

        Parameters
        ----------
        session_id : str
        kernel_name : str, optional
            Start a kernel of this specification and move the session to it.
        **kwargs : str
            As :meth:`update_session` has them; ``kernel_id`` wins over
            `kernel_name`.

        Raises
        ------
        KernelNotStarted
            With the reason as its cause; the session stays as it was.
        """
        self._check_columns(kwargs)
        check_texts(kwargs)
        if "kernel_id" not in kwargs and kernel_name is None:
            if not kwargs:
                return await self.get_session(session_id=session_id)
            return await self._update(session_id, kwargs)
        # In a task of its own, so that no client who goes away leaves a kernel behind.
        return await asyncio.shield(self._spawn(self._move(session_id, kernel_name, kwargs)))

    async def _move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        before = await self.get_session(session_id=session_id)
        previous = before["kernel"]["id"]
        if "kernel_id" in changes:
            await self.attach_kernel(changes["kernel_id"], ask=True)
            async with self._marked(previous):
                return await self._move_to(session_id, previous, changes)
        async with self._marked(previous), self._marked(str(uuid4())) as mark:
            started = await self._start_for_move(session_id, before, kernel_name, mark)
            changes = {**changes, "kernel_id": started}
            return await self._move_to(session_id, previous, changes, started)

    @asynccontextmanager
    async def _marked(self, kernel_id: str) -> AsyncIterator[SessionRecord | None]:
        """Store that a kernel has to end if no session is on it and this server dies meanwhile.

        That is the row of a create that nobody wants any more: whoever evicts this server ends
        the kernel, unless a session is on it, and removes the row. Yields ``None`` where no row
        is needed or none can name the kernel before it starts.
        """
        if not self._kernels.chooses_ids:
            yield None
            return
        session_id = self.new_session_id()
        mark = self._new_record(session_id, None, None, None, kernel_id, state=STARTING)
        self._starting.add(session_id)
        try:
            await self._add(mark)
            yield mark
        finally:
            self._starting.discard(session_id)
            unended = kernel_id if kernel_id in self._unended else None
            self._unended.discard(kernel_id)
            # Else the kernel may come yet, and the row goes with what looks for it.
            if session_id not in self._leftovers:
                await self._leave(mark, unended)

    async def _move_to(
        self,
        session_id: str,
        previous: str,
        changes: dict[str, Any],
        started: str | None = None,
    ) -> dict[str, Any]:
        """Move a session to a kernel that is there, perhaps `started` for it."""
        target = changes["kernel_id"]
        try:
            if started is None and self._kernels.shared and await self._is_closing(target):
                await self._outlast_closers(target, self._claim_deadline())
                await self.attach_kernel(target, ask=True)
            # Nobody ends it here, and nobody counts, meanwhile.
            async with self._uses.attaching(target):
                if target not in self.kernel_manager or self._uses.is_reserved(target):
                    raise web.HTTPError(400, f"No such kernel: {target}")
                record, left = await self._moved(session_id, changes)
        except StoreUnavailable:
            unsettled = session_id, previous, target, started is not None
            if not await self._settle(*unsettled):
                self._spawn(self._settle_later(*unsettled))
            raise
        except BaseException:
            if started is not None:
                await self._discard_for_move(started)
            raise
        if started is None and await self._moved_too_late(session_id, previous, target):
            if left is not None:
                left[1].set_result(None)
            raise web.HTTPError(400, f"No such kernel: {target}")
        self._tell(MOVED, [record])
        try:
            return await self._changed(record)
        finally:
            if left is not None:
                await self._end(*left)

    async def _moved_too_late(self, session_id: str, previous: str, target: str) -> bool:
        """Move a session back whose new kernel another server has ended, not having seen it.

        Both write first and look then: whoever closes the last session on a kernel counts
        once more after its mark, and here the mark is looked for after the move. Where that
        has gone already, so has the kernel.
        """
        if not self._kernels.shared:
            return False
        try:
            await self._outlast_closers(target, self._claim_deadline())
            if (await self._kernels.look([target]))[target] is not Liveness.GONE:
                return False
            back = {"kernel_id": previous, **stored_of_kernel(await self._known_model(previous))}
            return await self.store.move(self.scope, session_id, target, back) is not None
        except StoreUnavailable:
            return False

    async def _discard_for_move(self, kernel_id: str) -> None:
        """End a kernel that was started in vain; what cannot be ended is ended later."""
        try:
            await self._discard(kernel_id)
        except Exception as error:
            self._not_ended(kernel_id, error)

    def _not_ended(self, kernel_id: str, error: Exception) -> None:
        if self._kernels.chooses_ids:
            # The row that names it stays.
            self._unended.add(kernel_id)
        self.log.warning(
            "Kernel %s, which its session has left, could not be shut down: %s", kernel_id, error
        )

    async def _start_for_move(
        self,
        session_id: str,
        before: Mapping[str, Any],
        kernel_name: str | None,
        mark: SessionRecord | None,
    ) -> str:
        """Start the kernel that a session is to move to.

        Raises
        ------
        KernelNotStarted
        """
        chosen = None if mark is None else mark.kernel_id
        try:
            return await self._start_kernel(
                session_id, before["path"], before["name"], before["type"], kernel_name, chosen
            )
        except Exception as error:
            if mark is not None and has_begun(error):
                await self._leave(mark, chosen, may_come=not is_over(error))
            raise KernelNotStarted(kernel_name) from error
        finally:
            self._release(chosen)

    async def _moved(
        self, session_id: str, changes: dict[str, Any]
    ) -> tuple[SessionRecord, tuple[str, asyncio.Future[None]] | None]:
        """Move a session, nobody else counting; say which kernel has to end now, if one has."""
        await self._take_marks_back()
        target = changes["kernel_id"]
        # Whoever was deleting it finds it on another kernel, and leaves it alone.
        changes = {
            **changes,
            **stored_of_kernel(await self._known_model(target)),
            "state": READY,
        }
        left: str | None = None
        while True:
            current = await self._find(session_id=session_id)
            if not current:
                raise web.HTTPError(404, f"Session not found: session_id={session_id!r}")
            record = current[0]
            if record.state == CLOSING and self._uses.is_ending(record.kernel_id):
                raise web.HTTPError(404, f"Session not found: {session_id!r} is being deleted")
            if record.kernel_id in (None, target):
                if left is None:
                    return await self._updated(session_id, changes), None
                # Moved by a statement that was repeated, since its answer was lost.
                last = True
                break
            left = record.kernel_id
            move = await self.store.move(self.scope, session_id, left, changes)
            # Else another server has moved it, or deleted it, since it was looked at.
            if move is not None:
                record, last = move.record, move.last
                break
        try:
            # Who attached on another server since then is seen now.
            recount = last and (self._kernels.shared or move is None)
            used = not last or (recount and await self._has_users(left))
        except StoreUnavailable:
            self.log.warning(
                "Kernel %s was left by its session and goes on running: whether another "
                "session uses it cannot be asked now.",
                left,
            )
            return record, None
        if used or self._uses.is_ending(left):
            return record, None
        return record, (left, self._uses.end(left))

    async def _settle(self, session_id: str, previous: str, target: str, started: bool) -> bool:
        """Shut down the kernel that a move left unused whose answer was lost.

        Parameters
        ----------
        session_id, previous, target : str
            The session, and its kernel before and after.
        started : bool
            Whether the latter was started for it.

        Returns
        -------
        bool
            Whether the store could say which of the two that is.
        """
        try:
            async with self._uses.counting():
                found = await self._find(session_id=session_id)
                moved = bool(found) and found[0].kernel_id == target
                if not moved and not started:
                    return True
                loser = previous if moved else target
                if await self._has_users(loser) or self._uses.is_ending(loser):
                    return True
                ending = self._uses.end(loser)
        except StoreUnavailable:
            return False
        await self._end(loser, ending)
        return True

    async def _settle_later(self, *unsettled: Any) -> None:
        while self._repository is not None:
            await asyncio.sleep(_SETTLE_SECONDS)
            if await self._settle(*unsettled):
                return

    async def _end(self, kernel_id: str, ending: asyncio.Future[None]) -> None:
        """Shut down the kernel that a session left; the session has moved, come what may."""
        shutdown = self._spawn(self._end_left(kernel_id, ending))
        if not getattr(self.kernel_manager, "use_pending_kernels", None):
            await asyncio.shield(shutdown)

    async def _end_left(self, kernel_id: str, ending: asyncio.Future[None]) -> None:
        try:
            await self._shut_down(kernel_id)
        except Exception as error:
            self._not_ended(kernel_id, error)
        finally:
            ending.set_result(None)

    async def _update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        record = await self._updated(session_id, changes)
        if not {"path", "kernel_id"}.isdisjoint(changes):
            self._tell(MOVED, [record])
        return await self._changed(record)

    async def _updated(self, session_id: str, changes: Mapping[str, Any]) -> SessionRecord:
        check_texts({field: value for field, value in changes.items() if field in self._columns})
        store = await self._current_store()
        if changes.get("kernel_id") is not None:
            kernel_model = await self._known_model(changes["kernel_id"])
            changes = {**changes, **stored_of_kernel(kernel_model)}
        record = None
        if is_storable(session_id):
            record = await store.update(self.scope, session_id, changes)
        if record is None:
            raise web.HTTPError(404, f"Session not found: session_id={session_id!r}")
        # The session may have got another id.
        self._held.pop(session_id, None)
        return record

    async def _changed(self, record: SessionRecord) -> dict[str, Any]:
        """Return the model of a session that was changed, and tell its kernel."""
        self._hold(record)
        try:
            model = await self._model_of(record)
        except KeyError as error:
            raise web.HTTPError(404, f"Session not found: {error}") from error
        if hasattr(self.kernel_manager, "update_env") and record.path is not None:
            self.kernel_manager.update_env(
                kernel_id=record.kernel_id,
                env=self.get_kernel_env(record.path, cast("ModelName | None", record.name)),
            )
        return model


def is_storable(session_id: str) -> bool:
    """Return whether a session can have this id."""
    try:
        check_text("session_id", session_id)
    except InvalidValue:
        return False
    return True
