"""The server as the authority over kernels that outlive it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..authority import FoundSessions
from ..process_authority import ProcessAuthority

if TYPE_CHECKING:
    from .manager import PersistentKernelManager


class OutlivingAuthority(ProcessAuthority):
    """As :class:`.ProcessAuthority`; what it knows of its kernels is recorded beside them."""

    kernel_manager: PersistentKernelManager

    def begin_records(
        self, namespace: str, patience: float, on_found: Callable[[FoundSessions], None]
    ) -> bool:
        """Begin to record, and adopt what a predecessor left."""
        return self.kernel_manager.begin_records(namespace, self.server_id, patience, on_found)
