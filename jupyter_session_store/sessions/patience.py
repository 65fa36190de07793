"""How long a request waits for the store in all, however often it asks."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from ..errors import StoreUnavailable
from ..repository import SessionRepository

T = TypeVar("T")

#: Seconds that a request waits for the store, all in all.
REQUEST_SECONDS: Final = 10.0
#: Seconds that a call may wait for whose turn it is, though the others took all the time.
_LEAST: Final = 0.1
#: By which a call's own time-out comes first, with which the store tells the log that it is away.
_LATER: Final = 0.1


class Patience:
    """The seconds for which a request may still wait. For the tasks of one event loop.

    Parameters
    ----------
    seconds : float
        In all.
    goes_on : bool
        Whether what the request does goes on when it has waited for so long, each call with all
        its own time, as when a client goes away. It is only answered then.
    """

    def __init__(self, seconds: float, *, goes_on: bool = False) -> None:
        self._all = self._left = seconds
        self._goes_on = goes_on
        #: The error of the first call that failed; of what goes on, that it has waited too long.
        self.failed: asyncio.Future[StoreUnavailable] = asyncio.get_running_loop().create_future()

    @classmethod
    def of_request(cls, *, goes_on: bool = False) -> Patience:
        """Return that of a new request."""
        return cls(REQUEST_SECONDS, goes_on=goes_on)

    async def wait_for(self, answer: Awaitable[T]) -> T:
        """Wait for an answer of the store; raise :class:`.StoreUnavailable` if it takes too long.

        As with any answer that was lost, what was asked for may have been done.
        """
        began = time.monotonic()
        try:
            if self._goes_on:
                return await self._watch(answer)
            return await asyncio.wait_for(answer, max(self._left, _LEAST) + _LATER)
        except asyncio.TimeoutError:
            error = self._too_long()
            self._note(error)
            raise error from None
        except StoreUnavailable as error:
            if not self._goes_on:
                self._note(error)
            raise
        finally:
            self._left -= time.monotonic() - began

    async def _watch(self, answer: Awaitable[T]) -> T:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(self._left, 0.0), lambda: self._note(self._too_long()))
        try:
            return await answer
        finally:
            timer.cancel()

    def _too_long(self) -> StoreUnavailable:
        return StoreUnavailable(f"it kept a request waiting for {self._all:g} s")

    def _note(self, error: StoreUnavailable) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


class PatientRepository:
    """A repository as a request uses it that does not wait for ever."""

    def __init__(self, repository: SessionRepository, patience: Patience) -> None:
        self._repository = repository
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        """Return a verb whose answer is waited for for as long as the request may wait."""
        verb = getattr(self._repository, name)
        if not inspect.iscoroutinefunction(verb):
            return verb
        return lambda *args, **kwargs: self._patience.wait_for(verb(*args, **kwargs))
