"""Get or create: what a client's POST asks for."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from ..errors import PathClaimed, StoreUnavailable
from ..records import STARTING
from ..telemetry import metrics
from .claims import PathLeaders
from .context import NewSession, SessionContext
from .reading import SessionReader

_CLAIM_ATTEMPTS: Final = 3
#: Seconds between two looks at a session that another server is creating.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5


class SessionCreator:
    """Returns the session at a path, created if there is none: one, however many ask at once.

    For the tasks of one event loop.

    Parameters
    ----------
    context : SessionContext
    reader : SessionReader
    leaders : PathLeaders
    """

    def __init__(
        self, context: SessionContext, reader: SessionReader, leaders: PathLeaders
    ) -> None:
        self._context = context
        self._reader = reader
        self._leaders = leaders

    async def get_or_create(self, wanted: NewSession) -> dict[str, Any]:
        """Return the model of the session at a path, and create it if there is none.

        A caller who goes away changes nothing.

        Raises
        ------
        StoreUnavailable
            If another server does not finish creating it in time.
        """
        return await self._leaders.create_once(wanted, lambda: self._get_or_create(wanted))

    async def _get_or_create(self, wanted: NewSession) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._context.claim_timeout
        path = str(wanted.path)
        for _attempt in range(_CLAIM_ATTEMPTS):
            model = await self._existing(path)
            if model is not None:
                return model
            try:
                created: dict[str, Any] = await self._context.hooks.create_session(
                    path=wanted.path,
                    name=wanted.name,
                    type=wanted.type,
                    kernel_name=wanted.kernel_name,
                    kernel_id=wanted.kernel_id,
                )
                return created
            except PathClaimed:
                # Another server was first: its session is there, or is being started.
                await self._wait_for_another_server(path, deadline)
        raise StoreUnavailable(f"the path {path!r} is held by a session that does not show")

    async def _existing(self, path: str) -> dict[str, Any] | None:
        hooks = self._context.hooks
        if not hooks.overrides("session_exists", "get_session"):
            return await self._reader.session_at(path)
        if not await hooks.session_exists(path=path):
            return None
        model: dict[str, Any] = await hooks.get_session(path=path)
        return model

    async def _wait_for_another_server(self, path: str, deadline: float) -> None:
        """Wait until no other server is creating a session at a path.

        Only where other servers use the kernels too: those of this server are its own.

        Raises
        ------
        StoreUnavailable
            When the time is over.
        """
        context = self._context
        if not context.authority.is_shared:
            return
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        waited = False
        while True:
            repository = await context.current_repository()
            holders = await repository.find(context.scope, path=path)
            if not any(holder.state == STARTING and holder.claim for holder in holders):
                return
            if loop.time() > deadline:
                raise StoreUnavailable(
                    f"another server has been creating the session at {path!r} for "
                    f"{context.claim_timeout:g} s (c.PersistentSessionManager.claim_timeout)"
                )
            if not waited:
                metrics.claim_waits.inc()
                waited = True
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)
