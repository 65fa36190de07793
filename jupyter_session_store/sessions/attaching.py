"""The part of the session manager that uses kernels which another server has started."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import GatewayUnavailable
from ..records import Liveness
from .models import last_known_model
from .reading import SessionReader


class KernelAttacher(SessionReader):
    """Attaches to kernels; :class:`.PersistentSessionManager` is what users name.

    A kernel of a gateway is used by this server if a session of its own scope
    names it, whichever server started it, and never any other.
    """

    async def attach_kernel(self, kernel_id: str, *, ask: bool = False) -> None:
        """Have the kernel manager hold a kernel that a session names, if that lives.

        Nothing happens for one that it holds, or that no session names.

        Parameters
        ----------
        kernel_id : str
        ask : bool
            Whether to ask for one that it holds, too.

        Raises
        ------
        GatewayUnavailable
            If the gateway cannot be asked.
        StoreUnavailable
            If the store cannot say whether a session names it.
        """
        if not self._kernels.attaches:
            return
        held = kernel_id in self.kernel_manager
        if held and not ask:
            return
        if not held and not await self._find(kernel_id=kernel_id):
            return
        known = await self._kernels.look([kernel_id])
        if known[kernel_id] is Liveness.UNKNOWN and not held:
            raise GatewayUnavailable(f"it cannot be asked for the kernel {kernel_id!r} now")

    async def list_kernels(self) -> list[dict[str, Any]]:
        """Return the models of all kernels that sessions name, and of those held besides.

        Only for a kernel manager that attaches. One that cannot be asked for
        now is shown as unknown.

        Raises
        ------
        GatewayUnavailable
            If the gateway does not answer at all.
        """
        manager: Any = self.kernel_manager
        records = {record.kernel_id: record for record in await self._find() if record.kernel_id}
        known = await manager.refresh(records.keys())
        if known is None:
            raise GatewayUnavailable("it did not answer when it was asked for its kernels")
        held = [await manager.kernel_model(kernel_id) for kernel_id in manager.list_kernel_ids()]
        return held + [
            last_known_model(record)
            for kernel_id, record in records.items()
            if kernel_id not in manager and known.get(kernel_id) is Liveness.UNKNOWN
        ]

    async def _named_by_sessions(self, kernel_ids: Collection[str]) -> set[str]:
        """Return those of some kernels that sessions name, the ones being created included.

        Raises
        ------
        StoreUnavailable
        """
        records = await self.store.find(self.scope)
        return {str(record.kernel_id) for record in records} & set(kernel_ids)
