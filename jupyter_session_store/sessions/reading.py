"""Reading sessions: what is there, and whether its kernel lives."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tornado import web

from ..records import (
    CLOSING,
    READY,
    STARTING,
    STATES,
    STOCK_COLUMNS,
    Liveness,
    SessionRecord,
    printable,
)
from .context import SessionContext
from .views import Models, SessionViews


@dataclass(frozen=True)
class SessionReader:
    """Reads sessions. For the tasks of one event loop."""

    _context: SessionContext
    _views: SessionViews
    #: The sessions whose mark ``closing`` says nothing.
    _uncertain_closes: Container[str] = ()

    async def session_at(self, path: str, deadline: float | None = None) -> dict[str, Any] | None:
        """Return the model of the session with this path and a kernel; ``None`` if none is.

        A session that is being closed, here or by another server, is waited for: until
        `deadline`, on the event loop's clock, or for ``claim_timeout`` seconds.
        """
        context = self._context
        local = None if context.store.is_closed else context.records
        while True:
            found = await context.find(path=path) if local is None else local.find({"path": path})
            for record in found:
                if context.usage.is_shutting_down(record.kernel_id):
                    await context.usage.wait_for_shutdown(record.kernel_id)
                    break
                if self._is_closing(record):
                    if deadline is None:
                        deadline = context.deadline()
                    await context.pause_until(
                        deadline, f"the session at {path!r} is being closed elsewhere"
                    )
                    break
                (model,) = await self.models_of([record])
                if model is not None:
                    return model
            else:
                return None

    def _is_closing(self, record: SessionRecord) -> bool:
        """Return whether a server is closing a session, on a kernel that others use too."""
        return (
            self._context.authority.is_shared
            and record.state == CLOSING
            and record.session_id not in self._uncertain_closes
        )

    async def get(self, **criteria: Any) -> dict[str, Any]:
        """Return the model of the first session that equals every criterion.

        Raises ``TypeError`` for no criterion or an unknown one, and 404 if there is no
        such session, or its kernel is gone.
        """
        if not criteria:
            raise TypeError("must specify a column to query")
        check_columns(criteria)
        if self._context.records is not None:
            return await self._get(criteria)
        with self._context.tasks.bounded():
            return await self._get(criteria)

    async def _get(self, criteria: Mapping[str, Any]) -> dict[str, Any]:
        records = await self._context.find(**criteria)
        for model in await self.models_of(records):
            if model is not None:
                return model
        if records:
            reason = culled(records[-1])
        else:
            reason = ", ".join(f"{key}={value!r}" for key, value in criteria.items())
        raise web.HTTPError(404, f"Session not found: {reason}")

    async def get_for_change(self, session_id: str) -> dict[str, Any]:
        """Return the model of a session that is about to change, as ``get_session`` does."""
        if self._context.hooks.overrides("get_session"):
            model: dict[str, Any] = await self._context.hooks.get_session(session_id=session_id)
            return model
        return await self.get(session_id=session_id)

    async def list(self) -> list[dict[str, Any]]:
        """Return the models of all sessions whose kernels are not gone, the oldest first."""
        if self._context.records is not None:
            return [one for one in await self._list() if one is not None]
        with self._context.tasks.bounded():
            return [one for one in await self._list() if one is not None]

    async def _list(self) -> Models:
        records = await self._context.find()
        for record in records:
            if record.state != READY:
                self._views.warn_if_invalid(record)
        return await self.models_of(records)

    async def count(self) -> dict[str, int]:
        """Return how many sessions there are, by their state."""
        repository = await self._context.current_repository()
        counts = dict.fromkeys(sorted(STATES), 0)
        for record in await repository.find(self._context.scope):
            state = record.state if record.state in STATES else READY
            counts[state] += not record.is_placeholder
        return counts

    async def models_of(self, records: Sequence[SessionRecord]) -> Models:
        """Return the models of sessions, as a subclass of the manager makes them."""
        if not self._context.hooks.overrides("row_to_model"):
            return await self._views.models_of(records)
        models: Models = []
        for record in records:
            try:
                models.append(await self._context.hooks.row_to_model(record))
            except KeyError:
                models.append(None)
        return models

    async def own_model_of(
        self, record: SessionRecord, *, tolerate_culled: bool = False
    ) -> dict[str, Any] | None:
        """Return a session's model, whatever a subclass makes of it.

        If its kernel is gone, return ``None`` if that is tolerated, else raise ``KeyError``.
        """
        (model,) = await self._views.models_of([record])
        if model is not None:
            return model
        if tolerate_culled:
            self._context.log.warning("%s  Continuing...", culled(record))
            return None
        raise KeyError(culled(record))

    async def model_of(self, record: SessionRecord) -> dict[str, Any]:
        """Return a session's model; 404 if its kernel is gone."""
        hooks = self._context.hooks
        try:
            if hooks.overrides("row_to_model"):
                model: dict[str, Any] | None = await hooks.row_to_model(record)
            else:
                model = await self.own_model_of(record)
        except KeyError as error:
            raise web.HTTPError(404, f"Session not found: {error}") from error
        assert model is not None
        return model

    async def current_model_of(self, record: SessionRecord) -> dict[str, Any]:
        """Return the model of a session that was just stored, as ``get_session`` would."""
        if self._context.hooks.overrides("get_session"):
            return await self.get_for_change(record.session_id)
        return await self.model_of(record)

    async def is_gone(self, record: SessionRecord) -> bool:
        """Return whether a session's kernel is known to be gone."""
        if not record.kernel_id:
            return record.state != STARTING
        if await self._context.holds_kernel(record.kernel_id):
            return False
        liveness = await self._context.authority.check_liveness(record.kernel_id)
        return liveness is Liveness.GONE


def culled(record: SessionRecord) -> str:
    """Say, as the stock manager does, why there is no session any more."""
    return printable(
        f"Kernel '{record.kernel_id}' appears to have been culled or died unexpectedly, "
        f"invalidating session '{record.session_id}'. The session has been removed."
    )


def check_columns(given: Mapping[str, Any]) -> None:
    """Raise ``TypeError``, as the stock manager does, for a key that is none of its columns."""
    for column in given:
        if column not in STOCK_COLUMNS:
            raise TypeError(f"No such column: {column}")
