"""Kernels that are processes of this server."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..authorities import authority_of
from ..records import Liveness
from .authority import KernelAuthority, server_id_of

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager


class ProcessAuthority(KernelAuthority):
    """The server itself: a kernel that its kernel manager does not hold is gone."""

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        super().__init__(kernel_manager)
        self.server_id = server_id_of(kernel_manager)
        self.name = authority_of(self.server_id)

    async def check_liveness(self, kernel_id: str) -> Liveness:
        """Say that the kernel is gone."""
        return Liveness.GONE

    async def refresh_liveness(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Say that the kernels are gone."""
        return dict.fromkeys(kernel_ids, Liveness.GONE)

    def local_kernel_ids(self) -> frozenset[str]:
        """Return what the kernel manager holds."""
        return frozenset(self.kernel_manager.list_kernel_ids())
