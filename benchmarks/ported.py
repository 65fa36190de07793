"""What every port of the stock manager to the package's table does alike."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, Final

from jupyter_server.services.sessions.sessionmanager import SessionManager

from jupyter_session_store.paths import claim_of, digest
from jupyter_session_store.records import READY, Scope

from .worker import Worker

#: The storage methods, which a port replaces, have no types to keep to.
_Stock: Final[Any] = SessionManager

#: The scope of the sessions that are measured.
SCOPE = Scope("benchmark", "benchmark-server")


def values_of(
    scope: Scope,
    session_id: str,
    path: str,
    name: str | None,
    type: str | None,
    kernel_id: str,
    kernel_model: dict[str, Any],
    server_id: str = "benchmark-server",
) -> dict[str, Any]:
    """Return a row of ``jupyter_sessions`` for a session that was just created."""
    now = datetime.now(timezone.utc)
    return {
        "namespace": scope.namespace,
        "session_id": session_id,
        "path": path,
        "path_digest": digest(path),
        "name": name,
        "type": type,
        "kernel_id": kernel_id,
        "kernel_name": kernel_model["name"],
        "kernel_model": json.dumps(kernel_model),
        "authority": scope.authority,
        "server_id": server_id,
        "state": READY,
        "claim": claim_of(scope, path),
        "created_at": now,
        "updated_at": now,
    }


class PortedSessionManager(_Stock):  # type: ignore[misc]
    """The stock manager, to have its storage replaced.

    Starting the kernel, the pending records and the REST model stay as they
    are, so that peers differ in how they store and in nothing else.
    """

    worker: Worker | None = None

    def rest_model(
        self, session_id: str, path: str | None, name: str | None, type: str | None, kernel_id: str
    ) -> dict[str, Any]:
        """Return the model of a session, as the REST API shows it."""
        model: dict[str, Any] = {
            "id": session_id,
            "path": path,
            "name": name,
            "type": type,
            "kernel": self.kernel_manager.kernel_model(kernel_id),
        }
        if type == "notebook":
            model["notebook"] = {"path": path, "name": name}
        return model

    def tell_kernel(self, kernel_id: str | None, path: str, name: str) -> None:
        """Tell a kernel of its session's new path, as the stock manager does."""
        self.kernel_manager.update_env(kernel_id=kernel_id, env=self.get_kernel_env(path, name))

    def close(self) -> None:
        """End the worker thread. Idempotent."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close()
