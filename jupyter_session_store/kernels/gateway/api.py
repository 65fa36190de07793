"""What a gateway says of its kernels, and a failed request; told apart from what others answer.

For the tasks of one event loop. Every request ends in bounded time.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from tornado import web

from ...records import Liveness, is_plain_id

if TYPE_CHECKING:
    from tornado.httpclient import AsyncHTTPClient

#: Seconds to wait for any answer of a gateway.
TIMEOUT: Final = 5.0
#: How many kernels are asked for at once where a list names them, and each has to be asked for.
_AT_ONCE: Final = 6
#: How many requests are made at once in all.
_MOST_REQUESTS: Final = 100
#: What a proxy answers for a gateway that did not answer it; 599 is tornado's, for no answer.
UNANSWERED: Final = frozenset({502, 503, 504, 599})


_http_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncHTTPClient] = WeakKeyDictionary()


class Answer(NamedTuple):
    """What came back: a status of HTTP, 0 without an answer in JSON, and that."""

    status: int
    body: Any


class KernelStatus(NamedTuple):
    """What a gateway says of one kernel, with its model where it is alive."""

    liveness: Liveness
    model: dict[str, Any] | None = None


UNKNOWN: Final = KernelStatus(Liveness.UNKNOWN)


async def request(method: str, kernel_id: str | None = None, *, timeout: float = TIMEOUT) -> Answer:
    """Send a request about one kernel, or about all; never raises.

    None is sent about an id that may lead elsewhere: no kernel has such a one.
    """
    from jupyter_server.gateway.gateway_client import GatewayClient
    from jupyter_server.utils import url_escape, url_path_join

    if kernel_id is not None and not is_plain_id(kernel_id):
        return Answer(0, None)
    client = GatewayClient.instance()
    parts = [] if kernel_id is None else [url_escape(kernel_id)]
    url = url_path_join(client.url or "", client.kernels_endpoint or "", *parts)
    try:
        arguments = client.load_connection_args(method=method)  # type: ignore[no-untyped-call]
        arguments |= {"request_timeout": timeout, "connect_timeout": TIMEOUT}
        response = await _http_client().fetch(url, raise_error=False, **arguments)
        return Answer(response.code, json.loads(response.body or b"null"))
    except Exception:
        return Answer(0, None)


def _http_client() -> AsyncHTTPClient:
    """Return the running event loop's client for these questions.

    The client that Jupyter Server uses makes ten requests at a time, and starts and shutdowns of
    kernels would wait behind them.
    """
    from tornado.httpclient import AsyncHTTPClient

    loop = asyncio.get_running_loop()
    client = _http_clients.get(loop)
    if client is None:
        for other in [one for one in _http_clients if one.is_closed()]:
            # A client refers to its loop, which would stay for ever.
            del _http_clients[other]
        client = AsyncHTTPClient(force_instance=True, max_clients=_MOST_REQUESTS)
        _http_clients[loop] = client
    return client


def is_kernel_not_found(answer: Answer, kernel_id: str) -> bool:
    """Return whether it is a 404 of the gateway's own, for this kernel.

    A failed name look-up, a proxy and a wrong prefix answer 404 too; only one
    whose JSON message names the kernel is the gateway's word. Some proxies
    answer in JSON, and quote the path.
    """
    if answer.status != 404 or not isinstance(answer.body, dict):
        return False
    message = str(answer.body.get("message"))
    return kernel_id in message and f"/{kernel_id}" not in message


async def get_status(kernel_id: str) -> KernelStatus:
    """Ask for one kernel."""
    answer = await request("GET", kernel_id)
    body = answer.body
    if answer.status == 200 and isinstance(body, dict) and body.get("id") == kernel_id:
        return KernelStatus(Liveness.ALIVE, body)
    return KernelStatus(Liveness.GONE) if is_kernel_not_found(answer, kernel_id) else UNKNOWN


async def shut_down(kernel_id: str) -> Liveness:
    """Have a kernel shut down; return gone if that is known now (a 404 says so too), or unknown."""
    from jupyter_server.gateway.gateway_client import GatewayClient

    # To end a kernel may take as long as to start it.
    timeout = float(GatewayClient.instance().request_timeout or TIMEOUT)
    answer = await request("DELETE", kernel_id, timeout=timeout)
    gone = answer.status == 204 or is_kernel_not_found(answer, kernel_id)
    return Liveness.GONE if gone else Liveness.UNKNOWN


async def list_models() -> dict[str, dict[str, Any]] | None:
    """Return the models that the gateway names, by their kernels' ids; ``None`` without an answer.

    A kernel that is not among them is not gone: the list may be incomplete. It is empty where
    the gateway answers, but keeps its list to itself (jupyter_kernel_gateway does by default)
    or fails to make it (as that does while it starts a kernel).
    """
    answer = await request("GET")
    if answer.status == 200 and isinstance(answer.body, list):
        models = [one for one in answer.body if isinstance(one, dict)]
        return {one["id"]: one for one in models if isinstance(one.get("id"), str)}
    return {} if answer.status in (403, 405, 500) and isinstance(answer.body, dict) else None


def no_answer() -> web.HTTPError:
    """Return the error of a gateway that did not answer, or for which another did."""
    return web.HTTPError(
        503,
        "The gateway cannot be asked for its kernels now. Expected it to answer at "
        "c.GatewayClient.url; nothing was changed.",
    )


def may_have_arrived(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` may have reached it."""
    return not isinstance(error.__cause__, (ConnectionRefusedError, socket.gaierror))


def is_over(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` is not going on there.

    It was answered, or has not reached the gateway. After a time-out, be it a
    proxy's, or on a connection that broke, the gateway may still be starting
    a kernel.
    """
    if not may_have_arrived(error):
        return True
    if isinstance(error, web.HTTPError):
        broken = isinstance(error.__cause__, ConnectionError)
        return not broken and error.status_code not in UNANSWERED
    return not isinstance(error, (OSError, asyncio.CancelledError, asyncio.TimeoutError))


class SingleRequests:
    """Requests for single kernels: each kernel once at a time, and not too many at once.

    `on_status` is called with the id of a kernel and its status, whenever one arrives.
    """

    def __init__(self, on_status: Callable[[str, KernelStatus], None] | None = None) -> None:
        self._on_status = on_status
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[str, asyncio.Task[KernelStatus]] = {}

    async def get(self, kernel_ids: Iterable[str], timeout: float) -> dict[str, KernelStatus]:
        """Ask for kernels, and return what is known after `timeout` seconds at most.

        Those that were not answered by then are unknown, and go on being asked for.
        """
        tasks = {kernel_id: self._task(kernel_id) for kernel_id in kernel_ids}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=timeout)
        return {
            kernel_id: task.result() if task.done() and not task.cancelled() else UNKNOWN
            for kernel_id, task in tasks.items()
        }

    def _task(self, kernel_id: str) -> asyncio.Task[KernelStatus]:
        task = self._running.get(kernel_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._request(kernel_id))
            self._running[kernel_id] = task
            task.add_done_callback(lambda _: self._running.pop(kernel_id, None))
        return task

    async def _request(self, kernel_id: str) -> KernelStatus:
        async with self._limit:
            status = await get_status(kernel_id)
        if self._on_status is not None:
            self._on_status(kernel_id, status)
        return status
