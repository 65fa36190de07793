"""A kernel manager and a contents manager that cost nothing, for tests of the manager alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from jupyter_server._tz import utcnow
from jupyter_server.services.contents.manager import AsyncContentsManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.kernels.authority import KernelAuthority
from jupyter_session_store.kernels.gateway.api import is_over, may_have_arrived
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import Liveness, Scope, SessionRecord
from jupyter_session_store.sessions.local import LocalSessions

#: Whose sessions they are whose kernels a gateway hosts.
SHARED = Scope("tenant", "gateway:g")
#: What is asked for when a test wants just a session.
NOTEBOOK: dict[str, Any] = {"path": "a.ipynb", "name": "", "type": "notebook"}
#: Those of the repository's verbs that are coroutines, and those that are not.
VERBS: Final = (
    *("find", "add", "update", "begin_close", "move", "remove"),
    *("mirror", "mirror_change", "revision"),
)
BLOCKING_VERBS: Final = ("renew", "evict")


class DummyKernel:
    """What a kernel's model is read from."""

    execution_state = "idle"

    def __init__(self, kernel_name: str) -> None:
        self.kernel_name = kernel_name
        self.last_activity = utcnow()
        self.env: dict[str, str] = {}

    def update_env(self, *, env: dict[str, str]) -> None:
        """Keep the environment for the test to look at."""
        self.env = env


class DummyKernelManager(AsyncMappingKernelManager):
    """Counts starts and shutdowns, and starts nothing.

    ``starting`` and ``shutting_down`` are awaited half way; a test puts its own there.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.started: list[str] = []
        #: What each kernel was started with.
        self.envs: dict[str, dict[str, str]] = {}
        self.shut_down: list[str] = []
        self.start_error: Exception | None = None
        self.shutdown_error: Exception | None = None
        self.starting = asyncio.Event()
        self.starting.set()
        self.shutting_down = asyncio.Event()
        self.shutting_down.set()

    async def start_kernel(  # type: ignore[override]
        self,
        *,
        kernel_id: str | None = None,
        path: str | None = None,
        kernel_name: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Pretend to start a kernel."""
        kernel_id = kernel_id or str(uuid4())
        await asyncio.sleep(0)
        await self.starting.wait()
        if self.start_error is not None:
            raise self.start_error
        self._kernels[kernel_id] = DummyKernel(kernel_name or "python3")
        self._kernel_connections[kernel_id] = 0
        self.started.append(kernel_id)
        self.envs[kernel_id] = kwargs.get("env", {})
        return kernel_id

    async def shutdown_kernel(  # type: ignore[override]
        self, kernel_id: str, now: bool = False, restart: bool = False
    ) -> None:
        """Pretend to shut a kernel down."""
        self.get_kernel(kernel_id)
        await asyncio.sleep(0)
        await self.shutting_down.wait()
        if self.shutdown_error is not None:
            raise self.shutdown_error
        del self._kernels[kernel_id]
        self.shut_down.append(kernel_id)

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """Shut all down, as a server does at its end."""
        for kernel_id in self.list_kernel_ids():
            await self.shutdown_kernel(kernel_id)

    def die(self, kernel_id: str) -> None:
        """Let a kernel die, unnoticed by anybody."""
        del self._kernels[kernel_id]


def make_manager(
    url: str = ":memory:",
    kernels: DummyKernelManager | None = None,
    kind: type[PersistentSessionManager] = PersistentSessionManager,
    **traits: Any,
) -> PersistentSessionManager:
    """Return a session manager over dummies."""
    return kind(
        # One without kernels is false.
        kernel_manager=DummyKernelManager() if kernels is None else kernels,
        contents_manager=AsyncContentsManager(),
        database_filepath=url,
        **traits,
    )


def kernels_of(manager: PersistentSessionManager) -> DummyKernelManager:
    """Return the kernel manager of such a manager."""
    assert isinstance(manager.kernel_manager, DummyKernelManager)
    return manager.kernel_manager


async def settle(manager: PersistentSessionManager) -> None:
    """Wait for what goes on in the background."""
    await manager.tasks.wait()


async def stored(manager: PersistentSessionManager) -> list[SessionRecord]:
    """Return the rows that the manager's store holds for it, whatever a test makes of its verbs."""
    repository: Any = manager.store
    rows: list[SessionRecord] = await repository._measured.find(manager.scope)
    return rows


def in_memory(manager: PersistentSessionManager) -> list[SessionRecord]:
    """Return the sessions that a manager over its own kernels has in memory."""
    assert isinstance(manager.sessions, LocalSessions)
    return manager.sessions._mirror.records.find({})


async def renewed(manager: PersistentSessionManager) -> None:
    """Wait for a renewal that succeeds, and for what follows it."""
    manager.tasks.use_running_loop()
    await asyncio.wrap_future(manager.lease.renew_now())
    await settle(manager)


async def assert_equal_after_renewal(manager: PersistentSessionManager) -> None:
    """Check that after one renewal the store has the sessions in memory, and nothing else."""
    await renewed(manager)
    rows, wanted = await stored(manager), in_memory(manager)
    assert rows == wanted, f"stored: {rows}\nin memory: {wanted}"
    assert manager.sessions.unsynchronized == 0


async def first_row(manager: PersistentSessionManager) -> SessionRecord:
    """Wait until there is one."""
    for _ in range(2000):
        rows = await stored(manager)
        if rows:
            return rows[0]
        await asyncio.sleep(0.005)
    raise AssertionError("no session was stored")


def raising(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises an error, whatever it is given."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def failing(manager: PersistentSessionManager, verb: str, error: Exception) -> None:
    """Let a verb of the repository fail from now on."""

    async def fail(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0)
        raise error

    setattr(manager.store, verb, fail)


@contextmanager
def store_away(manager: PersistentSessionManager, error: Exception | None = None) -> Iterator[None]:
    """Let every verb of the repository fail, the heartbeat's among them."""
    error = StoreUnavailable("test") if error is None else error
    for verb in VERBS:
        failing(manager, verb, error)
    for verb in BLOCKING_VERBS:
        setattr(manager.store, verb, raising(error))
    try:
        yield
    finally:
        for verb in (*VERBS, *BLOCKING_VERBS):
            vars(manager.store).pop(verb, None)


def losing_answers(manager: PersistentSessionManager, verb: str) -> Callable[[], None]:
    """Let a verb of the repository be done and raise; return what ends that."""
    done = getattr(manager.store, verb)

    async def made_but_lost(*arguments: Any, **options: Any) -> None:
        await done(*arguments, **options)
        raise StoreUnavailable("test")

    setattr(manager.store, verb, made_but_lost)
    return lambda: setattr(manager.store, verb, done)


class SharedAuthority(KernelAuthority):
    """A gateway that answers what a test says.

    Parameters
    ----------
    kernel_manager : DummyKernelManager
    preassigned : bool
        Whether it starts a kernel under the id that it is told.
    """

    is_shared = True
    name = SHARED.authority

    def __init__(self, kernel_manager: DummyKernelManager, *, preassigned: bool) -> None:
        super().__init__(kernel_manager)
        self.supports_preassigned_ids = preassigned
        self.liveness = Liveness.GONE
        self.shut_down_here: list[str] = []
        self.after_shutdown = Liveness.GONE
        self.launch_limit = 0.0

    @property
    def launch_seconds(self) -> float:
        """What a test says."""
        return self.launch_limit

    async def check_liveness(self, kernel_id: str) -> Liveness:
        """Say the same of each."""
        return self.liveness

    async def refresh_liveness(self, kernel_ids: Collection[str]) -> dict[str, Liveness]:
        """Say the same of each that is not held."""
        held = self.kernel_manager
        return {one: Liveness.ALIVE if one in held else self.liveness for one in kernel_ids}

    async def shut_down(self, kernel_id: str) -> Liveness:
        """Note which kernel it is."""
        self.shut_down_here.append(kernel_id)
        return self.after_shutdown

    def start_may_have_begun(self, error: BaseException) -> bool:
        """Say what a request to a gateway would."""
        return may_have_arrived(error)

    def start_is_over(self, error: BaseException) -> bool:
        """Say what a request to a gateway would."""
        return is_over(error)


class SharedKernelManager(DummyKernelManager):
    """A kernel manager whose kernels other servers use too.

    Parameters
    ----------
    preassigned : bool
        See :class:`SharedAuthority`.
    """

    def __init__(self, *, preassigned: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.authority = SharedAuthority(self, preassigned=preassigned)

    def create_kernel_authority(self, settings: object) -> SharedAuthority:
        """Bring the authority."""
        return self.authority


def shared_manager(
    url: str, *, preassigned: bool = False, **traits: Any
) -> PersistentSessionManager:
    """Return a manager in :data:`SHARED`, over kernels that others use too."""
    kernels = SharedKernelManager(preassigned=preassigned)
    manager = make_manager(url, kernels, namespace=SHARED.namespace, **traits)
    assert manager.scope == SHARED
    return manager
