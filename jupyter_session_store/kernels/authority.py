"""Who may say that a kernel is gone, and who is using it now."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from tornado import web

from ..records import LIMITS, Liveness, authority_of, digest
from .gateway import api

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

#: Returns those of some kernels that sessions use.
Used = Callable[[Collection[str]], Awaitable[Collection[str]]]

_server_ids: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def server_id_of(kernel_manager: MappingKernelManager) -> str:
    """Return the id of the server that holds a kernel manager's kernels.

    Two session managers over one kernel manager are the same server: a
    session whose kernel is in it belongs to both.
    """
    return _server_ids.setdefault(kernel_manager, str(uuid4()))


class Kernels(ABC):
    """The kernels of one authority.

    Parameters
    ----------
    kernel_manager : MappingKernelManager
        The server's.
    """

    #: The authority's name, as it stands in the store.
    authority: str
    #: Whether other servers use kernels of this authority too.
    shared: bool = False
    #: The seconds after which a kernel does not come any more whose start nobody has answered.
    launch_seconds: float = 0.0
    #: Whether a kernel is started under an id that the session's row names before.
    chooses_ids: bool = False
    #: Whether the kernel manager can use a kernel that another server has started.
    attaches: bool = False

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        self.kernel_manager = kernel_manager

    @abstractmethod
    async def missing(self, kernel_id: str) -> Liveness:
        """Say what became of a kernel that the kernel manager does not hold.

        Never raises: what cannot be told is :attr:`.Liveness.UNKNOWN`.
        """

    @abstractmethod
    async def look(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Say what is known now of some sessions' kernels; never raises.

        Asks whoever has to be asked, in bounded time, however many there are.
        Where the kernel manager can, it holds those that live from now on: what
        it does not hold then is as this says.
        """

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Refuse an entry of the kernel manager that has no kernel behind it.

        Raises
        ------
        NoSuchKernel
            After the entry was taken out again.
        """

    async def end(self, kernel_id: str) -> Liveness:
        """End a kernel that the kernel manager does not hold, if it is there.

        Never raises: :attr:`.Liveness.GONE` if it is known to be gone now, else
        :attr:`.Liveness.UNKNOWN`.
        """
        return Liveness.GONE

    def running(self) -> frozenset[str] | None:
        """Return the kernels that this server alone runs; ``None`` if they are another's."""
        return None

    def ask_before_the_end(self, used: Used) -> None:
        """Have the kernel manager ask which kernels sessions use, before it ends any.

        Parameters
        ----------
        used : callable
            A bound method, to which the kernel manager holds no reference.
        """


class LocalKernels(Kernels):
    """Kernels that are processes of this server: what it does not hold is gone."""

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        super().__init__(kernel_manager)
        self.authority = authority_of(server_id_of(kernel_manager))

    async def missing(self, kernel_id: str) -> Liveness:
        """Say that the kernel is gone."""
        return Liveness.GONE

    async def look(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Say that they are gone."""
        return dict.fromkeys(kernel_ids, Liveness.GONE)

    def running(self) -> frozenset[str]:
        """Return what the kernel manager holds."""
        return frozenset(self.kernel_manager.list_kernel_ids())


class GatewayKernels(Kernels):
    """Kernels that a Jupyter gateway hosts: only its own 404 says that one is gone.

    With :class:`.gateway.PersistentGatewayKernelManager` kernels that other
    servers have started are used too. Jupyter Server's own class cannot do
    that, and such kernels are only asked for.

    Parameters
    ----------
    kernel_manager : GatewayMappingKernelManager
    gateway_name : str
        Equal on every server that uses this gateway.
    """

    shared = True

    def __init__(self, kernel_manager: MappingKernelManager, gateway_name: str) -> None:
        super().__init__(kernel_manager)
        self.authority = gateway_authority_of(gateway_name)
        self.chooses_ids = bool(getattr(kernel_manager, "chooses_ids", False))
        self.attaches = bool(getattr(kernel_manager, "attaches", False))
        self._singly: api.SingleAsker | None = None

    @property
    def launch_seconds(self) -> float:  # type: ignore[override]
        """Longer than the gateway takes, which is told to give up before the client does."""
        from jupyter_server.gateway.gateway_client import GatewayClient

        return 1.5 * float(GatewayClient.instance().request_timeout or 0)

    async def missing(self, kernel_id: str) -> Liveness:
        """Ask the gateway."""
        return (await api.ask_for(kernel_id)).liveness

    async def look(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Ask the gateway: for a single kernel, or for all at once.

        Jupyter Server's own class asks by itself for what it holds, as often as a
        front end lists the kernels.
        """
        manager: Any = self.kernel_manager
        if not self.attaches:
            if self._singly is None:
                self._singly = api.SingleAsker()
            known = {one: Liveness.ALIVE for one in kernel_ids if one in manager}
            missing = [one for one in kernel_ids if one not in known]
            words = await self._singly.ask(missing, api.TIMEOUT)
            return known | {one: word.liveness for one, word in words.items()}
        if len(kernel_ids) == 1:
            (kernel_id,) = kernel_ids
            return {kernel_id: await manager.attach(kernel_id)}
        found: dict[str, Liveness] | None = await manager.refresh(kernel_ids)
        return dict.fromkeys(kernel_ids, Liveness.UNKNOWN) if found is None else found

    async def end(self, kernel_id: str) -> Liveness:
        """Have the gateway shut it down; its 404 says as well that it is gone."""
        return await api.end(kernel_id)

    def ask_before_the_end(self, used: Used) -> None:
        """Have :class:`.gateway.PersistentGatewayKernelManager` ask, which then detaches."""
        if not self.attaches:
            return
        weak: Any = weakref.WeakMethod(used)

        async def ask(kernel_ids: Collection[str]) -> Collection[str]:
            method = weak()
            return kernel_ids if method is None else await method(kernel_ids)

        manager: Any = self.kernel_manager
        manager.used = ask

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Take out what the gateway manager registers for a kernel that is not there."""
        kernel = self.kernel_manager.get_kernel(kernel_id)
        if getattr(kernel, "has_kernel", True):
            return
        from jupyter_client.kernelspec import NoSuchKernel

        self.kernel_manager.remove_kernel(kernel_id)
        raise NoSuchKernel(kernel_id)


#: What a proxy answers for a gateway that did not answer it; 599 is tornado's, for no answer.
UNANSWERED: Final = frozenset({502, 503, 504, 599})


def has_begun(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` may have reached it."""
    return not isinstance(error.__cause__, (ConnectionRefusedError, socket.gaierror))


def is_over(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` is not going on there.

    It was answered, or has not reached the gateway. After a time-out, be it a
    proxy's, or on a connection that broke, the gateway may still be starting
    a kernel.
    """
    if not has_begun(error):
        return True
    if isinstance(error, web.HTTPError):
        broken = isinstance(error.__cause__, ConnectionError)
        return not broken and error.status_code not in UNANSWERED
    return not isinstance(error, (OSError, asyncio.CancelledError, asyncio.TimeoutError))


def is_gateway(kernel_manager: object) -> bool:
    """Return whether a kernel manager's kernels are a gateway's.

    A kernel manager cannot be one of a module that was never imported.
    """
    module = sys.modules.get("jupyter_server.gateway.managers")
    return module is not None and isinstance(kernel_manager, module.GatewayMappingKernelManager)


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = re.compile(r"^(localhost|.*\.localhost|127\.[\d.]+|::1|0\.0\.0\.0|::)$")


def gateway_name_of(url: str) -> str:
    """Return the name of a gateway: its normalised URL without credentials.

    A loopback address and a Unix socket mean another gateway on each host, and
    are completed by the host's name.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = parts.scheme.lower()
    path = parts.path.rstrip("/")
    host = (parts.hostname or "").lower()
    if scheme.endswith("+unix"):
        return f"{scheme}://{host}{path}@{socket.gethostname()}"
    port = parts.port or _DEFAULT_PORTS.get(scheme)
    shown = f"[{host}]" if ":" in host else host
    name = f"{scheme}://{shown}:{port}{path}"
    return f"{name}@{socket.gethostname()}" if _LOOPBACK.match(host) else name


def gateway_authority_of(gateway_name: str) -> str:
    """Return the authority over the kernels of a gateway."""
    authority = f"gateway:{gateway_name}"
    if len(authority) > LIMITS["authority"]:
        return f"gateway-sha256:{digest(gateway_name)}"
    return authority
