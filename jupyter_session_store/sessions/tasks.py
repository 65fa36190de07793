"""Tasks that go on when the request that began them is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundTasks:
    """The tasks of one event loop, kept until they are done.

    The loop of `app` is the one to use from another thread before any request has come.
    """

    def __init__(self, app: object = None) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        # A loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    def use_running_loop(self) -> None:
        """Take the running loop for the one that other threads use."""
        self._loop = asyncio.get_running_loop()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, even if the task that waits for it is cancelled."""
        return await asyncio.shield(self.spawn(coroutine))

    def call_from_thread(self, function: Callable[[], object]) -> None:
        """Have the event loop call a function soon; from any thread."""
        loop = self._loop or getattr(getattr(self._app, "io_loop", None), "asyncio_loop", None)
        if loop is not None:
            # A loop that was closed has no request to serve any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(function)

    async def wait(self) -> None:
        """Wait until no task is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)
