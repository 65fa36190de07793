"""The server as the authority over kernels that outlive it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..authority import FoundSessions, RecordedSession
from ..processes import ProcessAuthority

if TYPE_CHECKING:
    from .manager import PersistentKernelManager


class OutlivingAuthority(ProcessAuthority):
    """As :class:`.ProcessAuthority`; what it knows of its kernels is recorded beside them."""

    kernel_manager: PersistentKernelManager
    has_records = True

    def begin_records(
        self, namespace: str, patience: float, on_found: Callable[[FoundSessions], None]
    ) -> None:
        """Begin to record, and adopt what a predecessor left."""
        self.kernel_manager.begin_records(namespace, self.server_id, patience, on_found)

    def note_sessions(self, kernel_id: str, sessions: tuple[RecordedSession, ...]) -> None:
        """Record the sessions on a kernel."""
        self.kernel_manager.note_sessions(kernel_id, sessions)
