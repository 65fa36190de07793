"""One daemon thread that makes every blocking call, so that the event loop never waits."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from ..errors import StoreUnavailable

T = TypeVar("T")

#: Seconds without a call after which ``on_idle`` is called.
IDLE_SECONDS: Final = 15.0

_Queue = queue.SimpleQueue["Callable[[], None] | None"]


class WorkerTimeout(StoreUnavailable):
    """A call was not answered in time; its result is dropped."""


class Worker:
    """Runs blocking calls one at a time, in the order in which they came.

    The thread knows the queue and not this object, nor its owner: both
    can be collected while it waits, and it ends when told so. It is a daemon,
    because a ``ThreadPoolExecutor`` whose call is stuck delays the exit of the
    process. It calls `on_idle` after :data:`IDLE_SECONDS` without a call, and at its end.
    """

    def __init__(self, name: str, on_idle: Callable[[], None]) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(
            target=_serve, args=(self._queue, on_idle), name=name, daemon=True
        )
        self._thread.start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call from any thread; its result or its error comes in the future."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._put(run)
        return future

    async def run(self, call: Callable[[], T], timeout: float) -> T:
        """Run a call and return its result, without blocking the event loop.

        A call whose turn did not come within `timeout` seconds is not made; one that has
        begun goes on, and its result is dropped. Either raises :class:`WorkerTimeout`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(call, loop)
        timer = loop.call_later(timeout, job.expire, timeout)
        self._put(job)
        try:
            return await job.future
        finally:
            timer.cancel()

    def stop(self, timeout: float) -> None:
        """End the thread after the calls that are queued; wait `timeout` seconds at most."""
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout))

    def _put(self, job: Callable[[], None]) -> None:
        if self._stopped:
            raise StoreUnavailable("it has been closed")
        self._queue.put(job)


class _Job(Generic[T]):
    __slots__ = ("_call", "_loop", "future")

    def __init__(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        self.future: asyncio.Future[T] = loop.create_future()

    def expire(self, timeout: float) -> None:
        error = WorkerTimeout(f"the database did not answer within {timeout:g} s")
        self._settle(self.future.set_exception, error)

    def __call__(self) -> None:
        # It expired in the queue, or its caller was cancelled.
        if self.future.done():
            return
        try:
            result = self._call()
        except BaseException as error:
            self._finish(self.future.set_exception, error)
        else:
            self._finish(self.future.set_result, result)

    def _finish(self, how: Callable[[Any], None], what: object) -> None:
        # The loop may have been closed meanwhile.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, how, what)

    def _settle(self, how: Callable[[Any], None], what: object) -> None:
        if not self.future.done():
            how(what)


def _serve(jobs: _Queue, on_idle: Callable[[], None]) -> None:
    idle = True
    while True:
        try:
            job = jobs.get(timeout=None if idle else IDLE_SECONDS)
        except queue.Empty:
            idle = True
            on_idle()
            continue
        if job is None:
            break
        idle = False
        job()
        # A finished call must not keep alive what it refers to until the next one comes.
        del job
    on_idle()
