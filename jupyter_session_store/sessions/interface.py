"""What the manager asks of its sessions, wherever their kernels run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from typing import Any

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord

from ..records import SessionRecord
from .attaching import KernelAttacher
from .claims import PathLeaders
from .context import NewSession, SessionContext
from .kernels import SessionKernels
from .moving import MoveRunner
from .reading import SessionReader
from .views import SessionViews
from .writing import SessionWriter


class Sessions(ABC):
    """The sessions of one scope, with the parts that all of them have alike.

    For the tasks of one event loop, but where it is said. What each method
    raises is said at the method of :class:`.PersistentSessionManager` that calls it.
    """

    def __init__(
        self,
        context: SessionContext,
        leaders: PathLeaders,
        views: SessionViews,
        uncertain_closes: Container[str] = (),
    ) -> None:
        self._context = context
        self.reader = SessionReader(context, views, uncertain_closes)
        self.kernels = SessionKernels(context, uncertain_closes)
        self.attacher = KernelAttacher(context)
        self._writer = SessionWriter(context, self.reader, leaders)
        self._runner = MoveRunner(context, self.reader, self._writer, self.kernels)

    @abstractmethod
    async def create(self, pending: KernelSessionRecord, wanted: NewSession) -> dict[str, Any]:
        """Create a session, with a new kernel or on one that is there, and return its model.

        `pending` names the session, and is given the id of its kernel. Raises
        :class:`.PathClaimed` if the session must have the claim and another holds it.
        """

    @abstractmethod
    async def save(
        self, session_id: str, wanted: NewSession, kernel_id: str | None
    ) -> dict[str, Any]:
        """Store a session and return its model."""

    @abstractmethod
    async def update(self, session_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change columns of a session and return its model; a kernel that it leaves goes on."""

    @abstractmethod
    async def move(
        self, session_id: str, kernel_name: str | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Move a session to another kernel and return its model; to be run to its end.

        The kernel that it leaves is shut down if no other session uses it. A kernel of
        `kernel_name` is started if `changes` has no ``kernel_id``. Without either, an
        override of ``update_session`` may move the session.
        """

    @abstractmethod
    async def close(self, session_id: str) -> None:
        """Close a session, and shut down a kernel that no other uses; to be run to its end."""

    def live_local_sessions(self) -> list[SessionRecord]:
        """Return the sessions on kernels that this server alone runs; from any thread."""
        return []

    def on_renewed(self, unfinished: list[SessionRecord]) -> None:
        """Take up what is unfinished, an evicted server's too; from the heartbeat's thread."""

    @property
    def number_in_memory(self) -> int | None:
        """How many sessions are in memory, from any thread; ``None`` where the store has them."""
        return None

    @property
    def unsynchronized(self) -> int:
        """How many sessions the store does not have as they are; from any thread."""
        return 0
