"""Reading sessions: what is there, and whether its kernel lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tornado import web

from ..records import READY, STARTING, STATES, STOCK_COLUMNS, Liveness, SessionRecord
from .context import SessionContext
from .views import InvalidRows, Models, SessionViews, culled


class SessionReader:
    """Reads sessions. For the tasks of one event loop.

    Parameters
    ----------
    context : SessionContext
    views : SessionViews
    warnings : InvalidRows
    """

    def __init__(self, context: SessionContext, views: SessionViews, warnings: InvalidRows) -> None:
        self._context = context
        self._views = views
        self._warnings = warnings

    async def session_at(self, path: str) -> dict[str, Any] | None:
        """Return the model of the session with this path and a kernel; ``None`` if none is."""
        while True:
            for record in await self._context.find(path=path):
                if await self._context.usage.wait_for_shutdown(record.kernel_id):
                    break
                (model,) = await self.models_of([record])
                if model is not None:
                    return model
            else:
                return None

    async def get(self, **criteria: Any) -> dict[str, Any]:
        """Return the model of the first session that equals every criterion.

        Raises
        ------
        TypeError
            If there is no criterion, or an unknown one.
        tornado.web.HTTPError
            404 if there is no such session, or its kernel is gone.
        """
        if not criteria:
            raise TypeError("must specify a column to query")
        check_columns(criteria)
        reason = ", ".join(f"{key}={value!r}" for key, value in criteria.items())
        records = await self._context.find(**criteria)
        for record, model in zip(records, await self.models_of(records), strict=True):
            if model is not None:
                return model
            reason = culled(record)
        raise web.HTTPError(404, f"Session not found: {reason}")

    async def get_for_change(self, session_id: str) -> dict[str, Any]:
        """Return the model of a session that is about to change, as ``get_session`` does."""
        if self._context.hooks.overrides("get_session"):
            model: dict[str, Any] = await self._context.hooks.get_session(session_id=session_id)
            return model
        return await self.get(session_id=session_id)

    async def list(self) -> list[dict[str, Any]]:
        """Return the models of all sessions whose kernels are not gone, the oldest first."""
        records = await self._context.find()
        for record in records:
            if record.state != READY:
                self._warnings.warn_if_invalid(record)
        return [model for model in await self.models_of(records) if model is not None]

    async def count(self) -> dict[str, int]:
        """Return how many sessions the store has, by their state."""
        repository = await self._context.current_repository()
        counts = dict.fromkeys(sorted(STATES), 0)
        for record in await repository.find(self._context.scope):
            state = record.state if record.state in STATES else READY
            # A row without a path that is being started only names a kernel to look for.
            counts[state] += state != STARTING or record.path is not None
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

        Parameters
        ----------
        record : SessionRecord
        tolerate_culled : bool
            Whether to return ``None`` for a session whose kernel is gone.

        Raises
        ------
        KeyError
            If the kernel is gone and that is not tolerated.
        """
        (model,) = await self._views.models_of([record])
        if model is not None:
            return model
        if tolerate_culled:
            self._context.log.warning("%s  Continuing...", culled(record))
            return None
        raise KeyError(culled(record))

    async def model_of(self, record: SessionRecord) -> dict[str, Any]:
        """Return a session's model.

        Raises
        ------
        tornado.web.HTTPError
            404 if its kernel is gone.
        """
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


def check_columns(given: Mapping[str, Any]) -> None:
    """Check that each key is a column that a caller may search and change.

    Raises
    ------
    TypeError
        As the stock manager does.
    """
    for column in given:
        if column not in STOCK_COLUMNS:
            raise TypeError(f"No such column: {column}")
