"""The claim to a path: one session a path, however many requests ask for it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from ..errors import PathClaimed
from ..records import SessionRecord, claim_of
from ..telemetry import metrics
from ..telemetry.events import CLOSED
from .context import NewSession, SessionContext

Model = dict[str, Any]


class _Leader(NamedTuple):
    kernel: tuple[str | None, str | None]
    task: asyncio.Task[Model]


class PathLeaders:
    """The requests of this process that create the session at a path, one a path.

    For the tasks of one event loop.
    """

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._leaders: dict[str | None, _Leader] = {}

    async def create_once(
        self, wanted: NewSession, create: Callable[[], Coroutine[Any, Any, Model]]
    ) -> Model:
        """Create a session, or wait for another task that creates one at the same path.

        Parameters
        ----------
        wanted : NewSession
        create : callable
            Called in a task of its own, which no cancelled request ends.

        Returns
        -------
        dict
            The session's model, which is the caller's own.
        """
        path, kernel = wanted.path, (wanted.kernel_name, wanted.kernel_id)
        waited = False
        while (leader := self._leaders.get(path)) is not None:
            if not waited:
                metrics.claim_waits.inc()
                waited = True
            try:
                return dict(await asyncio.shield(leader.task))
            except Exception:
                # The leader's kernel failed. A request for the same kernel would fail alike.
                if leader.kernel == kernel:
                    raise
            # Its callback may be still to come, and this would ask a finished task for ever.
            self._forget(path, leader)
        task = self._context.tasks.spawn(create())
        leading = self._leaders[path] = _Leader(kernel, task)
        task.add_done_callback(lambda _: self._forget(path, leading))
        return await asyncio.shield(task)

    def is_led_by_this_task(self, path: str | None) -> bool:
        """Return whether the running task creates the session at a path for a request.

        Such a session is stored with the claim, or not at all. Any other
        ``create_session`` stays permissive, as the stock manager's is.
        """
        leader = self._leaders.get(path)
        return leader is not None and leader.task is asyncio.current_task()

    def _forget(self, path: str | None, leader: _Leader) -> None:
        if self._leaders.get(path) is leader:
            del self._leaders[path]


class PathClaims:
    """Stores new sessions, with the claim to their path where it is free.

    Parameters
    ----------
    context : SessionContext
    leaders : PathLeaders
    is_gone : callable
        Tells whether a session's kernel is known to be gone.
    """

    def __init__(
        self,
        context: SessionContext,
        leaders: PathLeaders,
        is_gone: Callable[[SessionRecord], Awaitable[bool]],
    ) -> None:
        self._context = context
        self._leaders = leaders
        self._is_gone = is_gone

    async def add(self, record: SessionRecord) -> None:
        """Store a session, without the claim only if that is allowed.

        Raises
        ------
        PathClaimed
            If another session holds the claim, and this task may not do without
            (:meth:`PathLeaders.is_led_by_this_task`).
        SessionConflict
            If another session has this id.
        """
        context = self._context
        repository = await context.current_repository()
        if record.path is not None:
            claimed = record.replace(claim=claim_of(context.scope, record.path))
            try:
                await repository.add(claimed)
                return
            except PathClaimed:
                pass
            # The holder's kernel may have died; then its session goes, and the claim is free.
            holders = await context.find(path=record.path)
            gone = [holder for holder in holders if holder.claim and await self._is_gone(holder)]
            if await context.repository.remove(context.scope, gone):
                context.emit(CLOSED, gone)
                try:
                    await context.repository.add(claimed)
                    return
                except PathClaimed:
                    pass
            if self._leaders.is_led_by_this_task(record.path):
                raise PathClaimed(record.path)
        await context.repository.add(record)
