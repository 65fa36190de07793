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
    """Emits what became of sessions to an event logger, and never fails.

    Parameters
    ----------
    logger : jupyter_events.EventLogger or None
        Without one nothing is emitted.
    namespace : str
        Whose sessions they are.
    log : logging.Logger
        Where it is said that the event logger failed.
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
            log.warning("Sessions have no events: their schema was refused (%s).", _name(error))

    def emit(
        self, action: str, *, session_id: str, path: str | None, kernel_id: str | None
    ) -> None:
        """Emit an event: something was done, and confirmed by the store.

        From a task of the event loop, where listeners are started. Handlers are
        called before this returns.

        Parameters
        ----------
        action : str
            :data:`CREATED`, :data:`MOVED`, :data:`CLOSED` or :data:`ADOPTED`.
        session_id, path, kernel_id : str or None
            Of the session, as it is now.
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
                "The event that the session %s was %s was not told: the event logger failed (%s).",
                session_id,
                action,
                _name(error),
            )


def _name(error: Exception) -> str:
    """Return what may be shown of an error; its text may hold the event's data."""
    return type(error).__name__
