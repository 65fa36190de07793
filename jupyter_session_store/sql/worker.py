"""One daemon thread that makes every blocking call, so that the event loop never waits."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..errors import StoreUnavailable
from ..repository import CONNECTION_IDLE_SECONDS

T = TypeVar("T")

_Queue = queue.SimpleQueue["Callable[[], None] | None"]


class WorkerTimeout(StoreUnavailable):
    """A call was not answered in time; its result is dropped."""


class Worker:
    """Runs blocking calls one at a time, in the order in which they came.

    The thread knows the queue and not this object, nor its owner: both
    can be collected while it waits, and it ends when told so. It is a daemon,
    because a ``ThreadPoolExecutor`` whose call is stuck delays the exit of the
    process. It calls `on_idle` after `idle_seconds` without a call, and at its end.

    Whoever waits for a call watches over the one that is running: `watch` ends it if it is
    overdue, and returns the seconds after which to look again.
    """

    def __init__(
        self,
        name: str,
        on_idle: Callable[[], None],
        watch: Callable[[], float] = lambda: math.inf,
        *,
        idle_seconds: float = CONNECTION_IDLE_SECONDS,
    ) -> None:
        self._watch = watch
        self._queue: _Queue = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(
            target=_serve, args=(self._queue, on_idle, idle_seconds), name=name, daemon=True
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

    def wait(self, call: Future[T], timeout: float) -> T:
        """Return the outcome of a call that was queued, from any thread but the worker's.

        Raises :class:`concurrent.futures.TimeoutError` if there is none in time.
        """
        end = time.monotonic() + timeout
        while not call.done() and (left := end - time.monotonic()) > 0:
            wait_for_futures([call], min(left, self._watch()))
        return call.result(0)

    async def run(self, call: Callable[[], T], timeout: float) -> T:
        """Run a call and return its result, without blocking the event loop.

        A call whose turn did not come within `timeout` seconds is not made; one that has
        begun goes on, and its result is dropped. Either raises :class:`WorkerTimeout`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(call, loop, timeout, self._watch)
        try:
            self._put(job)
            return await job.future
        finally:
            job.timer.cancel()

    def stop(self, timeout: float) -> bool:
        """End the thread after the calls that are queued; wait `timeout` seconds at most.

        Returns whether it has ended, as far as its own calls can tell.
        """
        if not self._stopped:
            self._stopped = True
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout))
            return not self._thread.is_alive()
        return True

    def _put(self, job: Callable[[], None]) -> None:
        if self._stopped:
            raise StoreUnavailable("it has been closed")
        self._queue.put(job)


class _Job(Generic[T]):
    __slots__ = ("_call", "_end", "_loop", "_timeout", "_watch", "future", "timer")

    def __init__(
        self,
        call: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        watch: Callable[[], float],
    ) -> None:
        self._call = call
        self._loop = loop
        self._timeout = timeout
        self._end = loop.time() + timeout
        self._watch = watch
        self.future: asyncio.Future[T] = loop.create_future()
        self.timer = loop.call_later(min(timeout, watch()), self._look)

    def _look(self) -> None:
        """Let the time run out, and until then look after the call that is running."""
        left = self._end - self._loop.time()
        if left > 0:
            self.timer = self._loop.call_later(min(left, self._watch()), self._look)
            return
        error = WorkerTimeout(f"the database did not answer within {self._timeout:g} s")
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


def _serve(jobs: _Queue, on_idle: Callable[[], None], idle_seconds: float) -> None:
    idle = True
    while True:
        try:
            job = jobs.get(timeout=None if idle else idle_seconds)
        except queue.Empty:
            idle = True
            _give_up(on_idle)
            continue
        if job is None:
            break
        idle = False
        job()
        # A finished call must not keep alive what it refers to until the next one comes.
        del job
    _give_up(on_idle)


def _give_up(on_idle: Callable[[], None]) -> None:
    # A connection that died while nobody used it may fail to close. The thread goes on all the
    # same, and the next call makes another connection.
    with suppress(Exception):
        on_idle()
