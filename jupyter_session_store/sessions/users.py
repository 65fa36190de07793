"""Which sessions use a kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container
from typing import Final

from ..errors import StoreUnavailable
from ..records import CLOSING
from .context import SessionContext

#: Seconds between two looks at a session that another server is closing.
_PAUSE: Final = 0.05


class KernelUsers:
    """Tells which sessions use a kernel. For the tasks of one event loop.

    Parameters
    ----------
    context : SessionContext
    uncertain_closes : container of str
        The sessions whose mark ``closing`` says nothing.
    """

    def __init__(self, context: SessionContext, uncertain_closes: Container[str] = ()) -> None:
        self._context = context
        self._uncertain_closes = uncertain_closes

    async def has_users(self, kernel_id: str, *, other_than: str | None = None) -> bool:
        """Return whether a session uses a kernel and goes on to.

        Parameters
        ----------
        kernel_id : str
        other_than : str, optional
            The id of a session that is not counted.

        Raises
        ------
        StoreUnavailable
        """
        return any(
            record.state != CLOSING or record.session_id in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
            if record.session_id != other_than
        )

    async def in_use(self, kernel_ids: Collection[str]) -> set[str]:
        """Return those of some kernels that sessions name, the ones being created included.

        Raises
        ------
        StoreUnavailable
        """
        records = await self._context.repository.find(self._context.scope)
        return {str(record.kernel_id) for record in records} & set(kernel_ids)

    async def is_closing(self, kernel_id: str) -> bool:
        """Return whether a session on a kernel is being closed."""
        return any(
            record.state == CLOSING and record.session_id not in self._uncertain_closes
            for record in await self._context.find(kernel_id=kernel_id)
        )

    async def wait_until_not_closing(self, kernel_id: str, deadline: float) -> None:
        """Wait while another server closes a session on a kernel.

        Parameters
        ----------
        kernel_id : str
        deadline : float
            On the event loop's clock.

        Raises
        ------
        StoreUnavailable
            When the time is over.
        """
        while await self.is_closing(kernel_id):
            if asyncio.get_running_loop().time() > deadline:
                raise StoreUnavailable(f"the kernel {kernel_id!r} is being shut down elsewhere")
            await asyncio.sleep(_PAUSE)

    def deadline(self) -> float:
        """Return when a request that waits from now on for another server gives up."""
        return asyncio.get_running_loop().time() + self._context.claim_timeout
