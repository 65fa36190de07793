"""Changing the columns of a session that stays on its kernel's authority."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records import STOCK_COLUMNS, SessionRecord, check_text
from ..telemetry.events import MOVED
from .context import SessionContext, is_storable, not_found
from .models import stored_of_kernel
from .reading import SessionReader


class SessionUpdater:
    """Changes the columns of sessions. For the tasks of one event loop."""

    def __init__(self, context: SessionContext, reader: SessionReader) -> None:
        self._context = context
        self._reader = reader

    async def store(self, session_id: str, changes: Mapping[str, Any]) -> SessionRecord:
        """Store the changes.

        Returns
        -------
        SessionRecord
            The session as it is now.

        Raises
        ------
        tornado.web.HTTPError
            404 if there is no such session.
        """
        check_texts({field: value for field, value in changes.items() if field in STOCK_COLUMNS})
        repository = await self._context.current_repository()
        if changes.get("kernel_id") is not None:
            kernel_model = await self._context.kernel_model(changes["kernel_id"])
            changes = {**changes, **stored_of_kernel(kernel_model)}
        record = None
        if is_storable("session_id", session_id):
            record = await repository.update(self._context.scope, session_id, changes)
        if record is None:
            raise not_found(session_id)
        return record

    def emit(self, record: SessionRecord, changes: Mapping[str, Any]) -> None:
        """Emit an event if the session has another path or kernel now."""
        if not {"path", "kernel_id"}.isdisjoint(changes):
            self._context.emit(MOVED, [record])

    async def finish(self, record: SessionRecord) -> dict[str, Any]:
        """Return the model of a session that was changed, and rename it for its kernel."""
        model = await self._reader.current_model_of(record)
        kernel_manager: Any = self._context.kernel_manager
        if hasattr(kernel_manager, "update_env") and record.path is not None:
            kernel_manager.update_env(
                kernel_id=record.kernel_id,
                env=self._context.hooks.get_kernel_env(record.path, record.name),
            )
        return model


def check_texts(given: Mapping[str, Any]) -> None:
    """Check that each value can be stored in the field of its name.

    Raises
    ------
    InvalidValue
    """
    for field, value in given.items():
        check_text(field, value)
