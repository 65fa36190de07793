"""The public names of the kernel manager for a gateway's kernels."""

from __future__ import annotations

from .kernels.gateway.kernel import PersistentGatewayKernel
from .kernels.gateway.manager import PersistentGatewayKernelManager

__all__ = ["PersistentGatewayKernel", "PersistentGatewayKernelManager"]
