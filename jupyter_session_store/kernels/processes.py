"""Kernels that are processes of this server, and which authority has which kernels."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ..records import Liveness, authority_of
from .authority import AuthoritySettings, BringsAuthority, KernelAuthority, server_id_of

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


def authority_for(
    kernel_manager: MappingKernelManager, settings: AuthoritySettings
) -> KernelAuthority:
    """Return the authority over a kernel manager's kernels.

    A kernel manager may bring its own (:class:`BringsAuthority`). Otherwise the
    kernels are a gateway's, or processes of this server.
    """
    if isinstance(kernel_manager, BringsAuthority):
        return kernel_manager.create_kernel_authority(settings)
    # A kernel manager cannot be of a class whose module was never imported.
    gateways = sys.modules.get("jupyter_server.gateway.managers")
    if gateways is not None and isinstance(kernel_manager, gateways.GatewayMappingKernelManager):
        from .gateway.authority import GatewayAuthority

        return GatewayAuthority(kernel_manager, settings.gateway_name)
    return ProcessAuthority(kernel_manager)
