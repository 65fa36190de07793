"""Get or create: one session a path, however many requests ask for it at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jupyter_core.utils import ensure_async

from ..errors import PathClaimed, WaitTimedOut
from ..paths import path_digest
from ..records import STARTING
from ..telemetry import metrics
from .context import NewSession, SessionContext
from .hooks import Hooks
from .patience import Patience
from .reading import SessionReader

Model = dict[str, Any]

_CLAIM_ATTEMPTS: Final = 3
#: Seconds between two looks at a session that another server is creating.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5


@dataclass(eq=False)
class _Leader:
    kernel: tuple[str | None, str | None]
    task: asyncio.Task[Model]
    patience: Patience
    #: Not where an override may do without the store: its failure is not the answer then.
    may_fail_early: bool
    needs_claim: bool = True

    async def answer(self) -> Model:
        """Return the model of the session; raise as soon as the store has failed.

        What is undone then goes on. A caller who goes away changes nothing.
        """
        if not self.may_fail_early:
            return await asyncio.shield(self.task)
        failed = self.patience.failed
        either: list[asyncio.Future[Any]] = [self.task, failed]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self.task.done():
            raise failed.result()
        return self.task.result()


class PathLeaders:
    """The tasks of this process that create the session at a path, one a path.

    For the tasks of one event loop.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        #: By the digest of the path: equal paths have one.
        self._leaders: dict[str | None, _Leader] = {}

    async def create_once(
        self, wanted: NewSession, spawn: Callable[[Patience], asyncio.Task[Model]]
    ) -> Model:
        """Create a session, or wait for the task that creates one at the same path.

        `spawn` starts the task that creates it, which no cancelled request ends, with a
        patience that all who wait for it share. The
        model is the caller's own.
        """
        key, kernel = path_digest(wanted.path), (wanted.kernel_name, wanted.kernel_id)
        if key in self._leaders:
            metrics.claim_waits.inc()
        while (leader := self._leaders.get(key)) is not None:
            try:
                return dict(await leader.answer())
            except Exception:
                # The leader's kernel failed. A request for the same kernel would fail alike.
                if leader.kernel == kernel:
                    raise
                await asyncio.wait([leader.task])
            # Its callback may be still to come, and this would ask a finished task for ever.
            self._forget(key, leader)
        own = Patience.of_request()
        overridden = self._hooks.overrides("create_session", "save_session")
        leading = self._leaders[key] = _Leader(kernel, spawn(own), own, not overridden)
        leading.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        leading.task.add_done_callback(lambda _: self._forget(key, leading))
        return await leading.answer()

    def needs_claim(self, path: str | None) -> bool:
        """Return whether the running task creates the one session at a path, for a request.

        Such a session is stored with the claim, or not at all. Any other
        ``create_session`` stays permissive, as the stock manager's is. An override
        of that or of ``save_session`` may go on in a task of its own, which cannot be told
        from another's: then every create at the path needs the claim until the request has
        its session.
        """
        leader = self._leaders.get(path_digest(path))
        if leader is None or not leader.needs_claim:
            return False
        return leader.task is asyncio.current_task() or self._hooks.overrides(
            "create_session", "save_session"
        )

    def waive_claim(self, path: str | None) -> None:
        """Let the running task create a second session at a path, as an override wants it."""
        if self.needs_claim(path):
            self._leaders[path_digest(path)].needs_claim = False

    def _forget(self, key: str | None, leader: _Leader) -> None:
        if self._leaders.get(key) is leader:
            del self._leaders[key]


@dataclass(frozen=True)
class SessionCreator:
    """Returns the session at a path, or creates it. For the tasks of one event loop."""

    _context: SessionContext
    _reader: SessionReader
    _leaders: PathLeaders

    async def get_or_create(self, wanted: NewSession) -> Model:
        """Return the model of the session at a path; a caller who goes away changes nothing.

        Raises :class:`.StoreUnavailable` if another server does not finish creating it in time.
        """
        return await self._leaders.create_once(
            wanted, lambda own: self._context.tasks.spawn(self._get_or_create(wanted), own)
        )

    async def _get_or_create(self, wanted: NewSession) -> Model:
        deadline = self._context.deadline()
        path = str(wanted.path)
        for _attempt in range(_CLAIM_ATTEMPTS):
            model = await self._existing(path, deadline)
            if model is not None:
                return model
            try:
                created: Model = await self._context.hooks.create_session(**vars(wanted))
                return created
            except PathClaimed:
                # Another server was first: its session is there, or is being started.
                await self._wait_for_another_server(path, deadline)
                if self._context.hooks.overrides("session_exists"):
                    # It is asked once more. If it says again that there is none, there are two.
                    self._leaders.waive_claim(wanted.path)
        raise WaitTimedOut(f"the path {path!r} is held by a session that does not show")

    async def _existing(self, path: str, deadline: float) -> Model | None:
        hooks = self._context.hooks
        if not hooks.overrides("session_exists", "get_session"):
            return await self._reader.session_at(path, deadline)
        # An override may be a plain function: the stock handler takes either.
        if not await ensure_async(hooks.session_exists(path=path)):
            return None
        model: Model = await hooks.get_session(path=path)
        return model

    async def _wait_for_another_server(self, path: str, deadline: float) -> None:
        """Wait until no other server, where others use the kernels too, is creating a session."""
        context = self._context
        if not context.authority.is_shared:
            return
        pause = _FIRST_PAUSE
        while True:
            repository = await context.current_repository()
            holders = await repository.find(context.scope, path=path)
            if not any(holder.state == STARTING and holder.claim for holder in holders):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise WaitTimedOut(
                    f"another server has been creating the session at {path!r} for "
                    f"{context.claim_timeout:g} s (c.PersistentSessionManager.claim_timeout)"
                )
            if pause == _FIRST_PAUSE:
                metrics.claim_waits.inc()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)
