"""The events of sessions, emitted to Jupyter Server's event logger."""

from __future__ import annotations

from logging import Logger
from pathlib import Path
from typing import Any, Final

SCHEMA_ID: Final = "https://events.jupyter.org/jupyter_session_store/session_actions/v1"
_SCHEMA: Final = Path(__file__).parent / "event_schemas" / "session_actions" / "v1.yaml"

CREATED: Final = "created"
MOVED: Final = "moved"
CLOSED: Final = "closed"
ADOPTED: Final = "adopted"


class SessionEvents:
    """Emits what became of sessions to Jupyter's event logger, if there is one; never fails.

    The text of an error is not logged: it may hold the event's data.
    """

    def __init__(self, logger: Any, namespace: str, log: Logger) -> None:
        self._logger = logger
        self._namespace = namespace
        self._log = log
        if logger is None:
            return
        try:
            # Two managers of one server share its logger, which refuses a second registration.
            if SCHEMA_ID not in logger.schemas:
                logger.register_event_schema(_SCHEMA)
        except Exception as error:
            self._logger = None
            name = type(error).__name__
            log.warning("Sessions have no events: their schema was refused (%s).", name)

    def emit(
        self, action: str, *, session_id: str, path: str | None, kernel_id: str | None
    ) -> None:
        """Emit an event: something was done, and confirmed by the store.

        From a task of the event loop, where listeners are started. Handlers are
        called before this returns. Path and kernel are those that the session has now.
        """
        if self._logger is None:
            return
        data = {
            "action": action,
            "namespace": self._namespace,
            "session_id": session_id,
            "path": path,
            "kernel_id": kernel_id,
        }
        try:
            self._logger.emit(schema_id=SCHEMA_ID, data=data)
        except Exception as error:
            # A handler's, or a modifier's: the session is what it is.
            self._log.warning(
                "Could not emit the event %r of the session %s: the event logger failed (%s).",
                action,
                session_id,
                type(error).__name__,
            )
