"""Who alone can say that a kernel is gone: the interface."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from uuid import uuid4

from ..records import Liveness

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

#: Returns those of some kernels that sessions use.
InUseCheck = Callable[[Collection[str]], Awaitable[Collection[str]]]


@dataclass(frozen=True)
class RecordedSession:
    """A session as the record of its kernel has it.

    Parameters
    ----------
    session_id : str
    path, name, type : str or None
        As in the REST API of Jupyter Server.
    created_at : str
        In ISO 8601, with the offset from UTC.
    version : int
        Grows with each change of the session: of two records that have it, the one with the
        higher version was written later.
    """

    session_id: str
    path: str | None
    name: str | None
    type: str | None
    created_at: str
    version: int


@dataclass(frozen=True)
class FoundSessions:
    """The sessions on kernels that have outlived their servers.

    Parameters
    ----------
    sessions : tuple
        Each session, with its kernel's id and name.
    former_servers : frozenset of str
        The ids of these servers, which have ended for certain.
    """

    sessions: tuple[tuple[RecordedSession, str, str], ...]
    former_servers: frozenset[str]


_server_ids: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()


def server_id_of(kernel_manager: MappingKernelManager) -> str:
    """Return this server's id: session managers over one kernel manager are the same server."""
    return _server_ids.setdefault(kernel_manager, str(uuid4()))


class KernelAuthority(ABC):
    """What alone can say that the kernels of a kernel manager are gone.

    For the tasks of one event loop, but for :meth:`local_kernel_ids`.
    """

    #: As the store has it, in the column ``authority``.
    name: str
    #: Whether other servers use kernels of this authority too.
    is_shared: bool = False
    #: Whether a kernel can be started under an id that a row of the store names before.
    supports_preassigned_ids: bool = False
    #: Whether the kernel manager can use a kernel that another server has started. Such a kernel
    #: manager has the methods of
    #: :class:`~jupyter_session_store.gateway.PersistentGatewayKernelManager`.
    can_attach: bool = False
    #: What the log says at start of what does not work, and the setting that mends it.
    limitation: str | None = None

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        self.kernel_manager = kernel_manager

    @property
    def launch_seconds(self) -> float:
        """Seconds after which a kernel cannot appear any more whose start was not answered."""
        return 0.0

    @abstractmethod
    async def check_liveness(self, kernel_id: str) -> Liveness:
        """Ask whether a kernel is alive that the kernel manager does not hold.

        Never raises: a question without an answer is :attr:`.Liveness.UNKNOWN`.
        """

    @abstractmethod
    async def refresh_liveness(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Ask whether the kernels of some sessions are alive, in bounded time; never raises.

        May attach the kernel manager to kernels that are alive: afterwards a
        kernel that the kernel manager does not hold is as the answer says.
        """

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Refuse an entry of the kernel manager that has no kernel behind it.

        Raises
        ------
        NoSuchKernel
            After the entry was taken out again.
        """

    async def shut_down(self, kernel_id: str) -> Liveness:
        """Shut down a kernel that the kernel manager does not hold; never raises.

        Returns
        -------
        Liveness
            Gone if the kernel is known to be gone now, else unknown.
        """
        return Liveness.GONE

    def local_kernel_ids(self) -> frozenset[str] | None:
        """Return the kernels that this server alone runs, from any thread; ``None`` if none is."""
        return None

    def start_may_have_begun(self, error: BaseException) -> bool:
        """Return whether a start of a kernel that failed with `error` may have begun."""
        return True

    def start_is_over(self, error: BaseException) -> bool:
        """Return whether no kernel can appear any more after a start failed with `error`."""
        return True

    def begin_records(
        self, namespace: str, patience: float, on_found: Callable[[FoundSessions], None]
    ) -> bool:
        """Begin to record the kernels, and adopt those that have outlived their server.

        Parameters
        ----------
        namespace : str
            Whose kernels they are.
        patience : float
            Seconds for which a kernel is left to the next start of the server that had it.
        on_found : callable
            Is given the sessions on what was adopted, now and later, on the event loop.

        Returns
        -------
        bool
            Whether sessions of this namespace are recorded.
        """
        return False

    def set_in_use_check(self, in_use: InUseCheck) -> None:
        """Have the kernel manager ask which kernels sessions use, before it shuts any down.

        It holds no reference to `in_use`, which is a bound method.
        """


class AuthoritySettings(Protocol):
    """What the session manager's settings say to an authority."""

    @property
    def gateway_name(self) -> str:
        """The name of the gateway, equal on every server that uses it."""


@runtime_checkable
class BringsAuthority(Protocol):
    """A kernel manager that says itself who its kernels' authority is."""

    def create_kernel_authority(self, settings: AuthoritySettings) -> KernelAuthority:
        """Return the authority over this kernel manager's kernels."""
