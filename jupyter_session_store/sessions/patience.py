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

#: Seconds that a call may wait for whose turn it is, though the others took all the time.
_LEAST: Final = 0.1


class Patience:
    """The seconds for which a request may still wait. For the tasks of one event loop."""

    def __init__(self, seconds: float) -> None:
        self._all = self._left = seconds
        #: The error of the first call that failed.
        self.failed: asyncio.Future[StoreUnavailable] = asyncio.get_running_loop().create_future()

    async def wait_for(self, answer: Awaitable[T]) -> T:
        """Wait for an answer of the store; raise :class:`.StoreUnavailable` if it takes too long.

        As with any answer that was lost, what was asked for may have been done.
        """
        began = time.monotonic()
        try:
            return await asyncio.wait_for(answer, max(self._left, _LEAST))
        except asyncio.TimeoutError:
            error = StoreUnavailable(f"it kept a request waiting for {self._all:g} s")
            self._note(error)
            raise error from None
        except StoreUnavailable as error:
            self._note(error)
            raise
        finally:
            self._left -= time.monotonic() - began

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
