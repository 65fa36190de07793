"""Jupyter Server sessions in SQLite, PostgreSQL or MySQL/MariaDB.

The public names are resolved lazily, so that importing one room of the package
(a migration imports ``jupyter_session_store.sql``) does not import the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .manager import PersistentSessionManager
    from .memory import MemorySessionRepository
    from .records import Closing, Departure, Liveness, Scope, SessionRecord
    from .repository import SessionRepository

__all__ = [
    "Closing",
    "Departure",
    "Liveness",
    "MemorySessionRepository",
    "PersistentSessionManager",
    "Scope",
    "SessionRecord",
    "SessionRepository",
    "__version__",
]

_HOMES = {
    "Closing": "records",
    "Departure": "records",
    "Liveness": "records",
    "MemorySessionRepository": "memory",
    "PersistentSessionManager": "manager",
    "Scope": "records",
    "SessionRecord": "records",
    "SessionRepository": "repository",
}


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Say which module Jupyter Server loads: health and status."""
    from .web.extension import note_configured_class

    note_configured_class()
    return [{"module": f"{__name__}.web.extension"}]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (:pep:`562`)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "PersistentSessionManager":
        # Also where it was imported before the application that loads its configuration now.
        import_module(f"{__name__}.config.secrets").hide_secrets()
    return getattr(import_module(f"{__name__}.{home}"), name)
