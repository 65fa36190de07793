"""Kernels that cost nothing, so that what is measured is the store."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

#: As mypy sees neither the coroutines of an asynchronous manager nor its types.
_Real: Final[Any] = AsyncMappingKernelManager


class DummyKernel:
    """What the REST model of a kernel is made of."""

    def __init__(self, kernel_name: str) -> None:
        self.kernel_name = kernel_name
        self.execution_state = "idle"
        self.last_activity: datetime = utcnow()

    def update_env(self, *, env: dict[str, str]) -> None:
        """Take the variables that a renamed notebook gives its kernel."""


class DummyKernelManager(_Real):  # type: ignore[misc]
    """The kernel manager of a server, with no process behind any kernel.

    ``kernel_model`` is the real one, so a model costs what it costs in reality.
    """

    def register(self, kernel_ids: Iterable[str]) -> None:
        """Have kernels under these ids."""
        for kernel_id in kernel_ids:
            self._kernels[kernel_id] = DummyKernel("python3")
            self._kernel_connections[kernel_id] = 0

    async def start_kernel(
        self, *, kernel_id: str | None = None, kernel_name: str | None = None, **kwargs: Any
    ) -> str:
        """Have a new kernel."""
        new: str = kernel_id or self.new_kernel_id(**kwargs)
        self.register([new])
        return new

    async def shutdown_kernel(self, kernel_id: str, now: bool = False, **kwargs: Any) -> None:
        """Have a kernel no more."""
        self._check_kernel_id(kernel_id)
        del self._kernels[kernel_id]
        self._kernel_connections.pop(kernel_id, None)

    async def shutdown_all(self, now: bool = False) -> None:
        """Have no kernels."""
        self._kernels.clear()
        self._kernel_connections.clear()
