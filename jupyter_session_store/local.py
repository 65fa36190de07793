"""The public names of the kernel manager for kernels on this machine that outlive their server."""

from __future__ import annotations

from .kernels.outliving.kernel import PersistentKernel
from .kernels.outliving.manager import PersistentKernelManager

__all__ = ["PersistentKernel", "PersistentKernelManager"]
