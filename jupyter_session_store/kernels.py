"""Who may say that a kernel is gone, and who is using it now."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from tornado import web

from .records import LIMITS, Liveness, authority_of, digest

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

#: Seconds to wait for a gateway that is asked whether one kernel lives.
GATEWAY_TIMEOUT: Final = 5.0

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

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        self.kernel_manager = kernel_manager

    @abstractmethod
    async def missing(self, kernel_id: str) -> Liveness:
        """Say what became of a kernel that the kernel manager does not hold.

        Never raises: what cannot be told is :attr:`.Liveness.UNKNOWN`.
        """

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Refuse an entry of the kernel manager that has no kernel behind it.

        Raises
        ------
        NoSuchKernel
            After the entry was taken out again.
        """

    async def end(self, kernel_id: str) -> Liveness:
        """End a kernel whose start has failed, if it is there.

        Never raises: :attr:`.Liveness.GONE` if it is known to be gone now, else
        :attr:`.Liveness.UNKNOWN`.
        """
        return Liveness.GONE

    def running(self) -> frozenset[str] | None:
        """Return the kernels that this server alone runs; ``None`` if they are another's."""
        return None


class LocalKernels(Kernels):
    """Kernels that are processes of this server: what it does not hold is gone."""

    def __init__(self, kernel_manager: MappingKernelManager) -> None:
        super().__init__(kernel_manager)
        self.authority = authority_of(server_id_of(kernel_manager))

    async def missing(self, kernel_id: str) -> Liveness:
        """Say that the kernel is gone."""
        return Liveness.GONE

    def running(self) -> frozenset[str]:
        """Return what the kernel manager holds."""
        return frozenset(self.kernel_manager.list_kernel_ids())


class GatewayKernels(Kernels):
    """Kernels that a Jupyter gateway hosts: only its own 404 says that one is gone.

    Parameters
    ----------
    kernel_manager : GatewayMappingKernelManager
    gateway_name : str
        Equal on every server that uses this gateway.
    """

    shared = True

    def __init__(self, kernel_manager: MappingKernelManager, gateway_name: str) -> None:
        super().__init__(kernel_manager)
        self.authority = f"gateway:{gateway_name}"
        if len(self.authority) > LIMITS["authority"]:
            self.authority = f"gateway-sha256:{digest(gateway_name)}"

    @property
    def launch_seconds(self) -> float:  # type: ignore[override]
        """Longer than the gateway takes, which is told to give up before the client does."""
        from jupyter_server.gateway.gateway_client import GatewayClient

        return 1.5 * float(GatewayClient.instance().request_timeout or 0)

    @property
    def chooses_ids(self) -> bool:  # type: ignore[override]
        """Whether the kernel manager is :class:`.gateway.PersistentGatewayKernelManager`."""
        return bool(getattr(self.kernel_manager, "chooses_ids", False))

    async def missing(self, kernel_id: str) -> Liveness:
        """Ask the gateway.

        A failed name look-up, a proxy and a wrong prefix answer 404 too; only
        a 404 whose JSON message names this kernel is the gateway's word.
        """
        code, answer = await self._ask("GET", kernel_id)
        if code == 404 and kernel_id in str(answer.get("message")):
            return Liveness.GONE
        alive = code == 200 and answer.get("id") == kernel_id
        return Liveness.ALIVE if alive else Liveness.UNKNOWN

    async def end(self, kernel_id: str) -> Liveness:
        """Have the gateway shut it down; its 404 says as well that it is gone."""
        code, answer = await self._ask("DELETE", kernel_id)
        gone = code == 204 or (code == 404 and kernel_id in str(answer.get("message")))
        return Liveness.GONE if gone else Liveness.UNKNOWN

    async def _ask(self, method: str, kernel_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status of the gateway's answer, and its JSON object; 0 if there is none."""
        from jupyter_server.gateway.gateway_client import GatewayClient
        from jupyter_server.utils import url_escape, url_path_join
        from tornado.httpclient import AsyncHTTPClient

        client = GatewayClient.instance()
        url = url_path_join(
            client.url or "", client.kernels_endpoint or "", url_escape(str(kernel_id))
        )
        try:
            arguments = client.load_connection_args(method=method)  # type: ignore[no-untyped-call]
            arguments |= {"request_timeout": GATEWAY_TIMEOUT, "connect_timeout": GATEWAY_TIMEOUT}
            response = await AsyncHTTPClient().fetch(url, raise_error=False, **arguments)
            answer = json.loads(response.body or b"{}")
        except Exception:
            return 0, {}
        return response.code, answer if isinstance(answer, dict) else {}

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Take out what the gateway manager registers for a kernel that is not there."""
        kernel = self.kernel_manager.get_kernel(kernel_id)
        if getattr(kernel, "has_kernel", True):
            return
        from jupyter_client.kernelspec import NoSuchKernel

        self.kernel_manager.remove_kernel(kernel_id)
        raise NoSuchKernel(kernel_id)


#: What a proxy answers for a gateway that did not answer it; 599 is tornado's, for no answer.
_UNANSWERED: Final = frozenset({502, 503, 504, 599})


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
        return not broken and error.status_code not in _UNANSWERED
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


class KernelUses:
    """Orders, in this process, who begins to use a kernel and who ends it.

    A session that attaches to a kernel while another's delete shuts it down
    waits for the end, and then finds the kernel gone. For the tasks of one
    event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._ending: dict[str, asyncio.Future[None]] = {}
        self._reserved: set[str] = set()

    @asynccontextmanager
    async def attaching(self, kernel_id: str) -> AsyncIterator[None]:
        """Hold off whoever would count the uses of a kernel, once nobody is ending it."""
        while True:
            await self.ended(kernel_id)
            async with self._lock:
                if kernel_id not in self._ending:
                    yield
                    return

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Hold off whoever would attach, to count the uses of a kernel."""
        async with self._lock:
            yield

    def end(self, kernel_id: str) -> asyncio.Future[None]:
        """Begin to end a kernel, from within :meth:`counting`; its result says it is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending[kernel_id] = future
        future.add_done_callback(lambda _: self._ending.pop(kernel_id, None))
        return future

    def is_ending(self, kernel_id: str | None) -> bool:
        """Return whether somebody is ending a kernel now."""
        return kernel_id in self._ending

    async def ended(self, kernel_id: str | None) -> bool:
        """Wait until nobody is ending a kernel; return whether somebody was."""
        waited = False
        while kernel_id is not None and (future := self._ending.get(kernel_id)) is not None:
            waited = True
            await asyncio.wait([future])
        return waited

    def reserve(self, kernel_id: str) -> bool:
        """Reserve the id of a kernel that is going to be started; ``False`` if it is reserved."""
        if kernel_id in self._reserved:
            return False
        self._reserved.add(kernel_id)
        return True

    def is_reserved(self, kernel_id: str) -> bool:
        """Return whether a kernel of this id is being started."""
        return kernel_id in self._reserved

    def release(self, kernel_id: str) -> None:
        """Give a reserved id free."""
        self._reserved.discard(kernel_id)
