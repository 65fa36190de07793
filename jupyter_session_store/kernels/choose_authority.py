"""Which authority has the kernels of a kernel manager."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .authority import AuthoritySettings, BringsAuthority, KernelAuthority
from .process_authority import ProcessAuthority

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager


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
