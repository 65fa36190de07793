"""A session as a client sees it, from what is known of its kernel."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, cast

from tornado import web

from ..errors import SessionStoreError
from ..records import READY, STATES, Liveness, SessionRecord, printable
from ..telemetry.events import CLOSED
from .context import SessionContext
from .models import last_known_model, rest_model

#: The model of each of some sessions, ``None`` where the kernel is gone.
Models = list["dict[str, Any] | None"]


class SessionViews(ABC):
    """Makes the models of sessions, and has those removed whose kernels are gone.

    For the tasks of one event loop.
    """

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._removals: dict[str, SessionRecord] = {}
        self._warned: set[str] = set()

    @abstractmethod
    async def models_of(self, records: Sequence[SessionRecord]) -> Models:
        """Return the models of sessions; ``None`` for each whose kernel is gone.

        However many there are, the authority over their kernels is asked once.
        """

    async def _model_if_known(
        self, record: SessionRecord, known: Mapping[str, Liveness]
    ) -> dict[str, Any] | None:
        """Return a session's model, given what is known of its kernel; ``None`` if it is gone."""
        kernel_id = record.kernel_id
        if not kernel_id:
            self.warn_if_invalid(record)
            return None
        kernel_model = None
        held = await self._context.holds_kernel(kernel_id)
        if held:
            kernel_model = await self._context.kernel_model(kernel_id)
        if kernel_model is None:
            kept = held and self._context.hooks.overrides("kernel_culled")
            if known[kernel_id] is Liveness.GONE and not kept:
                self._schedule_removal(record)
                return None
            kernel_model = last_known_model(record)
        return rest_model(record, kernel_model)

    def _schedule_removal(self, record: SessionRecord) -> None:
        """Remove a session soon, with all others that one list schedules."""
        first = not self._removals
        self._removals[record.session_id] = record
        if first:
            self._context.tasks.spawn(self._remove())

    async def _remove(self) -> None:
        await asyncio.sleep(0)
        records, self._removals = list(self._removals.values()), {}
        try:
            count = await self._context.repository.remove(self._context.scope, records)
        except SessionStoreError:
            # The next read finds them again.
            return
        if count:
            self._context.emit(CLOSED, records)
            # A kernel that a user has shut down is gone as one is that has died.
            shown = ", ".join(f"{one.session_id} (kernel {one.kernel_id})" for one in records)
            self._context.log.info(
                "Removed %d session(s) whose kernels are gone: %s", count, printable(shown)
            )

    def warn_if_invalid(self, record: SessionRecord) -> None:
        """Warn, once for each session, of a row that no server writes: it was edited by hand."""
        if record.state not in STATES:
            found = f"the unknown state {record.state!r}, and is taken as {READY!r}"
        elif not record.kernel_id:
            found = "no kernel, and is left alone"
        else:
            return
        if record.session_id not in self._warned:
            self._warned.add(record.session_id)
            shown = printable(record.session_id)
            self._context.log.warning(
                "The session %s in the store has %s. If nobody needs it: DELETE /api/sessions/%s.",
                shown,
                found,
                shown,
            )


class LocalViews(SessionViews):
    """Models of sessions on this server's own kernels, which its kernel manager holds."""

    async def models_of(self, records: Sequence[SessionRecord]) -> Models:
        """Ask the authority only for kernels that the kernel manager does not hold."""
        culled_elsewhere = self._context.hooks.overrides("kernel_culled")
        models: Models = [None if culled_elsewhere else self._model_now(one) for one in records]
        if None not in models:
            return models
        unclear = {
            record.kernel_id
            for record, model in zip(records, models, strict=True)
            if model is None and record.kernel_id
        }
        known = await self._context.authority.refresh_liveness(unclear) if unclear else {}
        return [
            model or await self._model_if_known(record, known)
            for record, model in zip(records, models, strict=True)
        ]

    def _model_now(self, record: SessionRecord) -> dict[str, Any] | None:
        """Return a session's model if that takes no question and no wait, else ``None``.

        A list does this for each session, where coroutines would cost the most.
        """
        kernel_id, kernel_manager = record.kernel_id, cast("Any", self._context.kernel_manager)
        if kernel_id not in kernel_manager:
            return None
        try:
            kernel_model: Any = kernel_manager.kernel_model(kernel_id)
        except (KeyError, web.HTTPError):
            return None
        if isinstance(kernel_model, dict):
            return rest_model(record, kernel_model)
        if isinstance(kernel_model, Coroutine):
            kernel_model.close()
        return None


class SharedViews(SessionViews):
    """Models of sessions on kernels that other servers may shut down at any time."""

    async def models_of(self, records: Sequence[SessionRecord]) -> Models:
        """Ask the authority for every kernel, whether it is held here or not."""
        kernel_ids = {record.kernel_id for record in records if record.kernel_id}
        known = await self._context.authority.refresh_liveness(kernel_ids) if kernel_ids else {}
        models = [await self._model_if_known(record, known) for record in records]
        if Liveness.GONE in known.values():
            await self._follow_moved(records, models)
        return models

    async def _follow_moved(self, records: Sequence[SessionRecord], models: Models) -> None:
        """Put in the models of sessions that another server has moved since they were read.

        The kernel that such a session has left is gone, and the session is not.
        """
        now = {record.session_id: record for record in await self._context.find()}
        moved = {
            place: now[old.session_id]
            for place, (old, model) in enumerate(zip(records, models, strict=True))
            if model is None
            and old.session_id in now
            and now[old.session_id].kernel_id not in (None, old.kernel_id)
        }
        if moved:
            kernel_ids = {str(new.kernel_id) for new in moved.values()}
            known = await self._context.authority.refresh_liveness(kernel_ids)
            for place, new in moved.items():
                models[place] = await self._model_if_known(new, known)
