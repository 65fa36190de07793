"""What this process is doing now with sessions, and with the kernels that these use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary

_usages: WeakKeyDictionary[object, KernelUsage] = WeakKeyDictionary()


def usage_of(kernel_manager: object) -> KernelUsage:
    """Return the usage of a kernel manager's kernels: session managers over one share it."""
    return _usages.setdefault(kernel_manager, KernelUsage())


class KernelUsage:
    """Orders, in this process, what begins to use a kernel and what shuts it down.

    A session that attaches to a kernel while another's delete shuts it down
    waits, and then finds the kernel gone. The one lock is held while the store
    is asked, and while a gateway is asked only about a session that the store
    has lost. For the tasks of one event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._shutdowns: dict[str, asyncio.Future[None]] = {}
        self._reserved: set[str] = set()
        self._in_progress: Counter[str] = Counter()

    @asynccontextmanager
    async def attaching(self, kernel_id: str) -> AsyncIterator[None]:
        """Wait until the kernel is not being shut down; meanwhile hold off all counting."""
        while True:
            await self.wait_for_shutdown(kernel_id)
            async with self._lock:
                if kernel_id not in self._shutdowns:
                    yield
                    return

    def counting(self) -> asyncio.Lock:
        """Hold off every task that would attach, to count the sessions on a kernel."""
        return self._lock

    def begin_shutdown(self, kernel_id: str) -> asyncio.Future[None]:
        """Begin to shut down a kernel, within :meth:`counting`; set the result when it is done."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shutdowns[kernel_id] = future
        future.add_done_callback(lambda _: self._shutdowns.pop(kernel_id, None))
        return future

    def is_shutting_down(self, kernel_id: str | None) -> bool:
        """Return whether a kernel is being shut down now."""
        return kernel_id in self._shutdowns

    async def wait_for_shutdown(self, kernel_id: str | None) -> bool:
        """Wait until a kernel is not being shut down; return whether that took a wait."""
        waited = False
        while kernel_id is not None and (future := self._shutdowns.get(kernel_id)) is not None:
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

    def release(self, *kernel_ids: str | None) -> None:
        """Release reserved ids."""
        self._reserved.difference_update(kernel_ids)

    @contextmanager
    def in_progress(self, session_id: str) -> Iterator[None]:
        """Mark a session as being created or closed here: nothing is left of it to be finished."""
        self._in_progress[session_id] += 1
        try:
            yield
        finally:
            self._in_progress[session_id] -= 1
            if not self._in_progress[session_id]:
                del self._in_progress[session_id]

    def is_in_progress(self, session_id: str) -> bool:
        """Return whether a session is being created or closed here, from any thread."""
        return session_id in self._in_progress
