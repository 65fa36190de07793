"""Using kernels that another server has started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel

from ..errors import GatewayUnavailable
from ..records import Liveness
from .context import SessionContext
from .models import last_known_model


@dataclass(frozen=True)
class KernelAttacher:
    """Attaches this server to kernels of its sessions. For the tasks of one event loop.

    This server uses a shared kernel if a session of its own scope names it,
    whichever server started it, and never any other. Each method raises
    :class:`.GatewayUnavailable` if the gateway cannot be asked.
    """

    _context: SessionContext

    async def attach(self, kernel_id: str, *, ask: bool = False) -> None:
        """Have the kernel manager hold a kernel that a session names, if the kernel lives.

        Nothing happens for a kernel that it holds, unless `ask` says to ask for
        that too, or for one that no session names.
        """
        context = self._context
        if not context.authority.can_attach:
            return
        held = kernel_id in context.kernel_manager
        if held and not ask:
            return
        if not held and not await context.find(kernel_id=kernel_id):
            return
        known = await context.authority.refresh_liveness([kernel_id])
        if known[kernel_id] is Liveness.UNKNOWN and not held:
            raise cannot_be_asked(kernel_id)

    async def list_kernels(self) -> list[dict[str, Any]]:
        """Return the models of all kernels that sessions name, and of those held besides.

        Only for an authority that can attach. A kernel that cannot be asked for
        now is shown as unknown.
        """
        manager: Any = self._context.kernel_manager
        found = await self._context.find()
        records = {record.kernel_id: record for record in found if record.kernel_id}
        known = await manager.refresh(records.keys())
        if known is None:
            raise GatewayUnavailable("it did not answer when it was asked for its kernels")
        held = [await manager.kernel_model(kernel_id) for kernel_id in manager.list_kernel_ids()]
        return held + [
            last_known_model(record)
            for kernel_id, record in records.items()
            if kernel_id not in manager and known.get(kernel_id) is Liveness.UNKNOWN
        ]

    async def refuse_running(self, kernel_id: str) -> None:
        """Refuse, as ``NoSuchKernel``, to start a kernel under an id that is in use there."""
        liveness = await self._context.authority.check_liveness(kernel_id)
        if liveness is Liveness.UNKNOWN:
            raise cannot_be_asked(kernel_id)
        if liveness is Liveness.ALIVE:
            raise NoSuchKernel(kernel_id)


def cannot_be_asked(kernel_id: str) -> GatewayUnavailable:
    """Return the error of a gateway that does not say whether a kernel is alive."""
    return GatewayUnavailable(f"it cannot be asked for the kernel {kernel_id!r} now")
