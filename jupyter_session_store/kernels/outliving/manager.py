"""The kernel manager for kernels on this machine that outlive their server."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_server._tz import utcnow
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop, PeriodicCallback
from traitlets import Bool, Float, TraitError, default, validate

from ..authority import AuthoritySettings, FoundSessions, KernelAuthority, RecordedSession
from .adoption import FoundKernel, Search
from .authority import OutlivingAuthority
from .folder import KernelFolder
from .kernel import AssumedBusy, PersistentKernel
from .kernel_lock import KernelLock
from .kernel_process import ProcessMark
from .kernel_record import BadRecord
from .owned_kernels import OwnedKernels, Owner

T = TypeVar("T")

#: Seconds between two looks at what is written of the kernels, and for kernels without an owner.
_MAINTENANCE: Final = 30.0
#: Seconds after the start until the second look: by then, of two servers that were started at once
#: at one place, the one that did not get the port has ended.
_SECOND_LOOK: Final = 5.0


class PersistentKernelManager(AsyncMappingKernelManager):
    """Kernels on this machine that go on when their server ends, and are found by the next one.

    For ``PersistentSessionManager``, whose namespace says which kernels are whose: with
    another session manager, and where records or locks do not work, kernels are started as
    Jupyter Server starts them. For the tasks of one event loop.
    """

    detach_on_stop = Bool(
        True,
        help="""
        Whether kernels go on when the server stops, in order or not, for the
        next server to find. If not, they are started as Jupyter Server starts
        them, and end with their server: set that where a stop is to free memory.
        """,
    ).tag(config=True)

    detached_kernel_days = Float(
        7.0,
        help="""
        Days after which a kernel without a server is ended, by any server of
        its user on this machine that finds it. A time in which the machine
        sleeps does not count. More than 0.
        """,
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        if sys.platform == "win32":
            raise TraitError(
                "c.ServerApp.kernel_manager_class is "
                "jupyter_session_store.local.PersistentKernelManager, which does not work on "
                "Windows; remove the setting."
            )
        self._owned: OwnedKernels | None = None
        self._search: Search | None = None
        self._on_found: Callable[[FoundSessions], None] | None = None
        self._maintenance: PeriodicCallback | None = None
        #: The kernels that could not be adopted, each of which was told of.
        self._unusable: set[str] = set()
        self._maintaining = False
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return "jupyter_session_store.local.PersistentKernel"

    @validate("detached_kernel_days")
    def _validate_days(self, proposal: Any) -> float:
        days: float = proposal["value"]
        if not days > 0:
            raise TraitError(
                f"c.PersistentKernelManager.detached_kernel_days is {days:g}; expected more than 0."
            )
        return days

    def create_kernel_authority(self, settings: AuthoritySettings) -> KernelAuthority:
        """Return this server as the authority over these kernels."""
        return OutlivingAuthority(self)

    def begin_records(
        self,
        namespace: str,
        server_id: str,
        patience: float,
        on_found: Callable[[FoundSessions], None],
    ) -> bool:
        """Begin to record kernels, and adopt those that this server's predecessor left.

        Returns with the kernels in the list; asks none of them anything. A second call, for
        another session manager over the same kernels, has that told of what is found later.

        Parameters
        ----------
        namespace : str
        server_id : str
        patience : float
            Seconds for which a kernel of another server is left to that server's next start.
        on_found : callable
            Is given what was found, now and whenever another kernel is adopted.

        Returns
        -------
        bool
            Whether the kernels of this namespace are recorded: those of one namespace are.
        """
        if self._owned is not None:
            if self._owned.owner.namespace != namespace:
                return False
            self._on_found = on_found
            return True
        if not self.detach_on_stop:
            return False
        folder = KernelFolder.of_this_machine()
        process = ProcessMark.of(os.getpid())
        if process is None or not self._works(folder):
            return False
        place = place_of(self.parent)
        self._on_found = on_found
        self._owned = OwnedKernels(
            folder,
            Owner(namespace, place, server_id, process),
            self.log,
            detached_days=self.detached_kernel_days,
        )
        self._search = Search(
            folder, namespace, place, patience, self.detached_kernel_days, self.log
        )
        folder.remove_foreign()
        self._adopt(self._search.find_at_start())
        foreign = self._search.count_foreign()
        if foreign:
            self.log.info(
                "%d kernel(s) of other namespaces run without a server on this machine: "
                "jupyter session-store kernels",
                foreign,
            )
        IOLoop.current().add_callback(self._begin_maintenance)
        return True

    def _works(self, folder: KernelFolder) -> bool:
        """Return whether records and locks can be kept, and say so in the log if not."""
        try:
            folder.prepare()
            probe = folder.path / f"probe-{os.getpid()}"
            try:
                lock, second = KernelLock.acquire(probe), KernelLock.acquire(probe)
            finally:
                probe.unlink(missing_ok=True)
        except BadRecord as error:
            why = f"{folder.path}: {error}"
        except OSError as error:
            why = f"{folder.path}: {error.strerror or error}"
        else:
            if lock is not None and second is None:
                lock.release()
                return True
            why = f"{folder.path}: its locks cannot be trusted"
        self.log.warning(
            "Kernels end with this server, because no record of them can be kept (%s). Set "
            "JUPYTER_RUNTIME_DIR to a folder of your own on a disk of this machine.",
            why,
        )
        return False

    def _begin_maintenance(self) -> None:
        self._maintenance = PeriodicCallback(self._maintain, 1000 * _MAINTENANCE)
        self._maintenance.start()
        IOLoop.current().add_callback(self._maintain)
        IOLoop.current().call_later(_SECOND_LOOK, self._maintain)

    async def _maintain(self) -> None:
        assert self._owned is not None
        # Also while a search waits: a record counts for how long its kernel has had no server.
        self._owned.maintain()
        if self._maintaining:
            # A kernel that does not end is waited for; the search is for one thread.
            return
        self._maintaining = True
        try:
            await self._look_after_kernels()
        finally:
            self._maintaining = False

    async def _look_after_kernels(self) -> None:
        owned, search = self._owned, self._search
        assert owned is not None
        assert search is not None
        # The port is another one if that was taken.
        is_at_place = place_of(self.parent) == search.place
        # In a thread: a kernel that is to end is given some seconds.
        find = partial(search.find, frozenset(self._kernels), is_at_place=is_at_place)
        self._adopt(await in_daemon_thread(find))

    def _adopt(self, kernels: list[FoundKernel]) -> None:
        """Own kernels that were found, and hand over their sessions."""
        owned, search = self._owned, self._search
        assert owned is not None
        assert search is not None
        adopted: list[FoundKernel] = []
        for found in kernels:
            if found.record.kernel_id in self._kernels:
                # It was started here meanwhile, as one that cannot be recorded.
                found.lock.release()
                continue
            try:
                self._adopt_one(found, owned)
            except Exception:
                # One kernel that cannot be used keeps no other from its user.
                if found.record.kernel_id not in self._unusable:
                    self.log.exception("The kernel %s cannot be adopted.", found.record.kernel_id)
                self._unusable.add(found.record.kernel_id)
                found.lock.release()
            else:
                adopted.append(found)
        if adopted:
            self.log.info(
                "Found %d kernel(s) that had outlived their server: %s",
                len(adopted),
                ", ".join(one.record.kernel_id for one in adopted),
            )
        former, search.former_servers = frozenset(search.former_servers), set()
        sessions = sessions_on(adopted)
        if (adopted or former) and self._on_found is not None:
            self._on_found(FoundSessions(sessions, former))
        for left in {one.record.kernel_id for one in adopted} - {one[1] for one in sessions}:
            # Its sessions are on another kernel by now: deleted there, they would come back here.
            owned.note_sessions(left, ())

    def _adopt_one(self, found: FoundKernel, owned: OwnedKernels) -> None:
        record = found.record
        specifications = {}
        if self.kernel_spec_manager:
            specifications["kernel_spec_manager"] = self.kernel_spec_manager
        kernel: PersistentKernel = self.kernel_manager_factory(
            connection_file=record.connection_file,
            parent=self,
            log=self.log,
            kernel_name=record.kernel_name,
            **specifications,
        )
        kernel.hold(found, owned)
        owned.adopt(record, found.lock, found.process)
        self._kernels[record.kernel_id] = kernel
        self._kernel_connections[record.kernel_id] = 0
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=kernel.kernel_name).inc()
        IOLoop.current().add_callback(self._watch, kernel)

    async def _watch(self, kernel: PersistentKernel) -> None:
        """Do for an adopted kernel what is done for one that has started."""
        kernel_id = str(kernel.kernel_id)
        if self._kernels.get(kernel_id) is not kernel:
            return
        kernel.start_restarter()
        await self._finish_kernel_start(kernel_id)
        if not self._initialized_culler:
            self.initialize_culler()  # type: ignore[no-untyped-call]

    def pre_start_kernel(self, kernel_name: str | None, kwargs: Any) -> Any:
        """Make the kernel that is to be started, and have it recorded.

        Raises
        ------
        DuplicateKernelError
            If a kernel of this id runs without a server: its connection file would be overwritten.
        """
        kernel_id = kwargs.get("kernel_id")
        if kernel_id and self._owned is not None and self._owned.is_anothers(kernel_id):
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")
        made = super().pre_start_kernel(kernel_name, kwargs)
        if isinstance(made[0], PersistentKernel):
            made[0].owned = self._owned
            # It is in the list before Jupyter Server sets these, and fails the list without them.
            made[0].execution_state = "starting"
            made[0].reason = ""
            made[0].last_activity = utcnow()
        return made

    async def _finish_kernel_start(self, kernel_id: str) -> None:
        await super()._finish_kernel_start(kernel_id)  # type: ignore[no-untyped-call]
        kernel = self._kernels.get(kernel_id)
        if isinstance(kernel, PersistentKernel) and kernel.outlives and kernel.ready.done():
            kernel.ask_for_state()

    def start_watching_activity(self, kernel_id: str) -> None:
        """Watch a kernel, of which an earlier Jupyter Server says that it is starting."""
        kernel = self._kernels[kernel_id]
        state = kernel.execution_state
        super().start_watching_activity(kernel_id)  # type: ignore[no-untyped-call]
        if isinstance(state, AssumedBusy):
            kernel.execution_state = state

    def stop_watching_activity(self, kernel_id: str) -> None:
        """Watch a kernel no longer."""
        super().stop_watching_activity(kernel_id)  # type: ignore[no-untyped-call]
        kernel = self._kernels[kernel_id]
        if isinstance(kernel, PersistentKernel):
            kernel.stop_asking()

    def remove_kernel(self, kernel_id: str) -> Any:
        """Take a kernel out of the list; its record goes with its process."""
        kernel = super().remove_kernel(kernel_id)
        if isinstance(kernel, PersistentKernel):
            kernel.stop_asking()
            if self._owned is not None:
                self._owned.forget(kernel_id)
        return kernel

    def note_sessions(self, kernel_id: str, sessions: tuple[RecordedSession, ...]) -> None:
        """Record the sessions on a kernel."""
        if self._owned is not None:
            self._owned.note_sessions(kernel_id, sessions)

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """Let go of the kernels that outlive this server, and shut the others down."""
        if self._maintenance is not None:
            self._maintenance.stop()
        await self._finish_pending()
        detached = {
            kernel_id: kernel
            for kernel_id, kernel in self._kernels.items()
            if isinstance(kernel, PersistentKernel) and kernel.outlives
        }
        for kernel_id, kernel in detached.items():
            self.stop_watching_activity(kernel_id)
            self.stop_buffering(kernel_id)  # type: ignore[no-untyped-call]
            kernel.detach()
            if self._owned is not None:
                self._owned.detach(kernel_id)
        others = list(self._kernels.keys() - detached.keys())
        stops = (self.shutdown_kernel(one, now=now) for one in others)  # type: ignore[no-untyped-call]
        ended = await asyncio.gather(*stops, return_exceptions=True)
        for kernel_id, error in zip(others, ended, strict=True):
            if isinstance(error, Exception):
                # Else Jupyter Server would give its whole end up, and run on.
                self.log.error("The kernel %s could not be shut down: %s", kernel_id, error)
        # With pending kernels, these have only begun.
        await self._finish_pending()
        if detached:
            self.log.info(
                "%d kernel(s) go on without this server. To see them: jupyter session-store "
                "kernels; to end them: jupyter session-store kernels --stop --detached",
                len(detached),
            )

    async def _finish_pending(self) -> None:
        """Wait until the kernels that are being started or shut down have been."""
        pending = [task for task in self._pending_kernels.values() if not task.done()]
        await asyncio.gather(*pending, return_exceptions=True)


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread that does not delay the exit of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], what: object) -> None:
        if not done.cancelled():
            how(what)

    def run() -> None:
        how: Callable[[Any], None] = done.set_result
        what: object
        try:
            what = function()
        except BaseException as error:
            how, what = done.set_exception, error
        # A loop that was closed waits for nothing any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, how, what)

    threading.Thread(target=run, name="jupyter_session_store kernels", daemon=True).start()
    return await done


def place_of(app: Any) -> str:
    """Return where a server is served: its base URL, and its port or socket where that is fixed.

    Under JupyterHub the base URL names the user and the server, and the port is another each time.
    """
    base_url = str(getattr(app, "base_url", "/"))
    if os.environ.get("JUPYTERHUB_USER"):
        return f"hub:{base_url}"
    return f"{getattr(app, 'sock', '') or getattr(app, 'port', '')}:{base_url}"


def sessions_on(found: list[FoundKernel]) -> tuple[tuple[RecordedSession, str, str], ...]:
    """Return the sessions on some kernels, with their kernels' ids and names.

    A session that was on its way from one kernel to another when its server ended may be on
    both: it is on the one whose record has its later version.
    """
    newest: dict[str, tuple[RecordedSession, FoundKernel]] = {}
    for kernel in found:
        for session in kernel.record.sessions:
            known = newest.get(session.session_id)
            if known is None or known[0].version < session.version:
                newest[session.session_id] = (session, kernel)
    return tuple(
        (session, kernel.record.kernel_id, kernel.record.kernel_name)
        for session, kernel in newest.values()
    )
