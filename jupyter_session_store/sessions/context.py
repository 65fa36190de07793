"""What the parts of the session manager share, and what they do with it alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from logging import Logger
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from jupyter_core.utils import ensure_async
from tornado import web

from ..errors import InvalidValue, WaitTimedOut
from ..kernels.authority import KernelAuthority
from ..kernels.usage import KernelUsage
from ..records import READY, STARTING, Scope, SessionRecord, check_given, check_text
from ..repository import SessionRepository
from ..telemetry.events import CLOSED, SessionEvents
from .hooks import Hooks
from .local_records import LocalRecords
from .patience import Patience, PatientRepository

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

T = TypeVar("T")

#: Seconds between two looks at a session that another server is closing.
_PAUSE: Final = 0.05


@dataclass(frozen=True)
class NewSession:
    """What a client wants a session to be."""

    path: str | None = None
    name: str | None = None
    type: str | None = None
    #: The kernel specification; the default one if ``None``.
    kernel_name: str | None = None
    #: A kernel to attach to, or the id to start a new one under.
    kernel_id: str | None = None

    @property
    def texts(self) -> dict[str, Any]:
        """What is stored of it besides its kernel."""
        return {"path": self.path, "name": self.name, "type": self.type}

    def check(self) -> None:
        """Check that every text can be stored; raises :class:`.InvalidValue`."""
        check_texts(vars(self))


class BackgroundTasks:
    """The tasks of one event loop, kept until they are done.

    The loop of `app` is the one to use from another thread before any request has come.
    """

    def __init__(self, app: object = None) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        # A loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._patience: dict[asyncio.Task[Any], Patience] = {}

    def use_running_loop(self) -> None:
        """Take the running loop for the one that other threads use."""
        self._loop = asyncio.get_running_loop()

    def spawn(
        self, coroutine: Coroutine[Any, Any, T], patience: Patience | None = None
    ) -> asyncio.Task[T]:
        """Start a task, which waits for the store with a `patience` of its own, if it has one."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if patience is not None:
            self._patience[task] = patience
            task.add_done_callback(self._patience.pop)
        return task

    @property
    def patience(self) -> Patience | None:
        """With what patience the running task waits for the store."""
        task = asyncio.current_task() if self._patience else None
        return None if task is None else self._patience.get(task)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Let the running task wait no longer for the store than a request does in all.

        For what may be broken off anywhere. With a patience already it keeps that.
        """
        task = asyncio.current_task()
        if task is None or task in self._patience:
            yield
            return
        self._patience[task] = Patience.of_request()
        try:
            yield
        finally:
            del self._patience[task]

    async def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, even if the task that waits for it is cancelled."""
        return await asyncio.shield(self.spawn(coroutine))

    async def answer_in_time(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do as :meth:`finish`, and raise as soon as it has waited too long for the store in all.

        It goes on then. A part of what has a patience already is a part of that.
        """
        if self.patience is not None:
            return await coroutine
        own = Patience.of_request(goes_on=True)
        task = self.spawn(coroutine, own)
        either: list[asyncio.Future[Any]] = [task, own.failed]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise own.failed.result()

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


class Store(Protocol):
    """Where the sessions of a scope are: as :class:`.RegisteredStore` has it."""

    @property
    def is_closed(self) -> bool:
        """Whether the session manager has been closed."""

    @property
    def repository(self) -> Any:
        """The verbs of :class:`.SessionRepository`, as far as the scope's sessions need them."""

    async def current(self) -> Any:
        """Return the same once this server may use them."""

    def kernels_in_memory(self) -> set[str]:
        """Return the kernels of the sessions that this server has in memory."""


@dataclass(frozen=True)
class SessionContext:
    """What all parts share, read-only. For the tasks of one event loop."""

    scope: Scope
    server_id: str
    store: Store
    kernel_manager: MappingKernelManager
    authority: KernelAuthority
    usage: KernelUsage
    events: SessionEvents
    tasks: BackgroundTasks
    hooks: Hooks
    #: Seconds that a request waits for another server.
    claim_timeout: float
    log: Logger
    #: The sessions, where they are this server's alone: its memory is asked, and not the store.
    records: LocalRecords | None = None

    @property
    def repository(self) -> SessionRepository:
        """The repository; raises :class:`.StoreUnavailable` if the manager has been closed."""
        return self._as_waited_for(self.store.repository)

    async def current_repository(self) -> SessionRepository:
        """Return the repository once this server is registered in it."""
        self.tasks.use_running_loop()
        own = self.tasks.patience
        if own is None:
            return cast("SessionRepository", await self.store.current())
        return self._as_waited_for(await own.wait_for(self.store.current()))

    def _as_waited_for(self, repository: Any) -> SessionRepository:
        own = self.tasks.patience
        if own is None:
            return cast("SessionRepository", repository)
        return cast("SessionRepository", PatientRepository(repository, own))

    async def find(self, **criteria: Any) -> list[SessionRecord]:
        """Find sessions that are not just being started; what cannot be stored equals none."""
        if self.records is not None and not self.store.is_closed:
            return self.records.find(criteria)
        if not all(is_storable(field, value) for field, value in criteria.items()):
            return []
        repository = await self.current_repository()
        found = await repository.find(self.scope, **criteria)
        return [record for record in found if record.state != STARTING]

    def new_record(
        self, session_id: str, wanted: NewSession, kernel_id: str | None, state: str = READY
    ) -> SessionRecord:
        """Return the record of a new session; raises :class:`.InvalidValue`."""
        now = datetime.now(timezone.utc)
        record = SessionRecord(
            namespace=self.scope.namespace,
            authority=self.scope.authority,
            session_id=session_id,
            path=wanted.path,
            name=wanted.name,
            type=wanted.type,
            kernel_id=kernel_id,
            kernel_name=None,
            kernel_model=None,
            server_id=self.server_id,
            state=state,
            claim=None,
            created_at=now,
            updated_at=now,
        )
        record.check()
        return record

    async def update_own(
        self, session_id: str, state: str, changes: Mapping[str, str | None]
    ) -> SessionRecord | None:
        """Change a row that has a state and is this server's; ``None`` if it is not any more."""
        own = {"state": state, "server_id": self.server_id}
        return await self.repository.update(self.scope, session_id, changes, expected=own)

    def emit(self, action: str, records: Iterable[SessionRecord]) -> None:
        """Emit an event for each session, which the store has confirmed."""
        for record in records:
            self.events.emit(
                action,
                session_id=record.session_id,
                path=record.path,
                kernel_id=record.kernel_id,
            )

    async def remove(self, record: SessionRecord) -> None:
        """Remove a session that was deleted, and emit an event if it was still there."""
        if await self.repository.remove(self.scope, [record]):
            self.emit(CLOSED, [record])

    def deadline(self) -> float:
        """Return when a request that waits from now on for another server gives up."""
        return asyncio.get_running_loop().time() + self.claim_timeout

    async def pause_until(self, deadline: float, awaited: str) -> None:
        """Wait a moment for another server; raises :class:`.WaitTimedOut` after `deadline`."""
        if asyncio.get_running_loop().time() > deadline:
            raise WaitTimedOut(awaited)
        await asyncio.sleep(_PAUSE)

    async def save(self, session_id: str, wanted: NewSession, kernel_id: str) -> dict[str, Any]:
        """Have ``save_session`` store a session, and return its model."""
        model: dict[str, Any] = await self.hooks.save_session(
            session_id, **wanted.texts, kernel_id=kernel_id
        )
        return model

    async def holds_kernel(self, kernel_id: str) -> bool:
        """Return whether this server's kernel manager holds a kernel."""
        if not self.hooks.overrides("kernel_culled"):
            return kernel_id in self.kernel_manager
        # An override may be a plain function, as in older releases of Jupyter Server.
        culled: Any = self.hooks.kernel_culled(kernel_id)
        return not await ensure_async(culled)

    async def kernel_model(self, kernel_id: str) -> Any:
        """Return a held kernel's model; ``None`` if it went away this very moment."""
        try:
            kernel_manager: Any = self.kernel_manager
            return await ensure_async(kernel_manager.kernel_model(kernel_id))
        except (KeyError, web.HTTPError):
            return None


def check_texts(given: Mapping[str, Any]) -> None:
    """Check what a client gives for the fields of a session; raises ``InvalidValue``."""
    for field, value in given.items():
        check_given(field, value)


def is_storable(field: str, value: object) -> bool:
    """Return whether a session can have this value in a field."""
    try:
        check_text(field, value)
    except InvalidValue:
        return False
    return True


def not_found(session_id: str) -> web.HTTPError:
    """Return the error of a session that is not there."""
    return web.HTTPError(404, f"Session not found: session_id={session_id!r}")


def kernel_gone(record: SessionRecord) -> web.HTTPError:
    """Return the error of a deleted session whose kernel was gone."""
    return web.HTTPError(404, f"Session not found: its kernel {record.kernel_id!r} is gone")


def being_deleted(session_id: str) -> web.HTTPError:
    """Return the error of a session that is just being deleted."""
    return web.HTTPError(404, f"Session not found: {session_id!r} is being deleted")
