"""Who is using a kernel now, and who is shutting it down, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KernelUses:
    """Orders, in this process, who begins to use a kernel and who ends it.

    A session that attaches to a kernel while another's delete shuts it down
    waits for the end, and then finds the kernel gone. For the tasks of one
    event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._ending: dict[str, asyncio.Future[None]] = {}
        self._reserved: set[str] = set()

    @asynccontextmanager
    async def attaching(self, kernel_id: str) -> AsyncIterator[None]:
        """Hold off whoever would count the uses of a kernel, once nobody is ending it."""
        while True:
            await self.ended(kernel_id)
            async with self._lock:
                if kernel_id not in self._ending:
                    yield
                    return

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Hold off whoever would attach, to count the uses of a kernel."""
        async with self._lock:
            yield

    def end(self, kernel_id: str) -> asyncio.Future[None]:
        """Begin to end a kernel, from within :meth:`counting`; its result says it is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending[kernel_id] = future
        future.add_done_callback(lambda _: self._ending.pop(kernel_id, None))
        return future

    def is_ending(self, kernel_id: str | None) -> bool:
        """Return whether somebody is ending a kernel now."""
        return kernel_id in self._ending

    async def ended(self, kernel_id: str | None) -> bool:
        """Wait until nobody is ending a kernel; return whether somebody was."""
        waited = False
        while kernel_id is not None and (future := self._ending.get(kernel_id)) is not None:
            waited = True
            await asyncio.wait([future])
        return waited

    def reserve(self, kernel_id: str) -> bool:
        """Reserve the id of a kernel that is going to be started; ``False`` if it is reserved."""
        if kernel_id in self._reserved:
            return False
        self._reserved.add(kernel_id)
        return True

    def is_reserved(self, kernel_id: str) -> bool:
        """Return whether a kernel of this id is being started."""
        return kernel_id in self._reserved

    def release(self, kernel_id: str) -> None:
        """Give a reserved id free."""
        self._reserved.discard(kernel_id)
