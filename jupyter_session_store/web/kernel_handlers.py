"""The handlers of kernels on a gateway, for those that another server has started.

The manager puts them before Jupyter Server's own, which they subclass, where its
kernel manager can use such kernels. Each attaches first to the kernel that it is
asked for, if a session of this server's namespace names it, and then does as the
stock one does. They say themselves that they need authentication: see
:mod:`.handlers`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.services.kernels import handlers as stock
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler as StockWebsocket
from tornado import web

from .handlers import StoreErrors, answer
from .stock_kernel_handlers import MainKernelHandler as CheckedKernelHandler


class MainKernelHandler(CheckedKernelHandler):
    """``/api/kernels``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the kernels of the namespace's sessions, and those that were started here."""
        with self.store_errors():
            kernels = await self.manager.sessions.attacher.list_kernels()
        self.finish(json.dumps(kernels, default=json_default))

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel; under an id of the client's only if the gateway has no such kernel."""
        wanted = self.checked_body().get("kernel_id")
        # An empty id is none: a gateway would be asked for all its kernels.
        if wanted:
            try:
                with self.store_errors():
                    await self.manager.sessions.attacher.refuse_running(wanted)
            except NoSuchKernel:
                raise web.HTTPError(409, f"Kernel already exists: {wanted}") from None
        await answer(super().post())


class KernelHandler(StoreErrors, stock.KernelHandler):
    """``/api/kernels/<kernel_id>``."""

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """Return the kernel's model."""
        with self.store_errors():
            await self.manager.sessions.attacher.attach(kernel_id, ask=True)
        await answer(super().get(kernel_id))

    @web.authenticated
    @authorized
    async def delete(self, kernel_id: str) -> None:
        """Shut the kernel down."""
        with self.store_errors():
            await self.manager.sessions.attacher.attach(kernel_id)
        await answer(super().delete(kernel_id))


class KernelActionHandler(StoreErrors, stock.KernelActionHandler):
    """``/api/kernels/<kernel_id>/interrupt`` and ``/restart``."""

    @web.authenticated
    @authorized
    async def post(self, kernel_id: str, action: str) -> None:
        """Interrupt the kernel, or restart it."""
        with self.store_errors():
            await self.manager.sessions.attacher.attach(kernel_id)
        if kernel_id not in self.kernel_manager:
            # The stock method makes a 500 of what a restart raises.
            raise web.HTTPError(404, f"Kernel does not exist: {kernel_id}")
        await answer(super().post(kernel_id, action))


class KernelWebsocket(GatewayWebSocketConnection):
    """A front end's websocket, passed on to the gateway: at most one of a front end at a time.

    A kernel tells its clients apart by the id that the front end chose. Of two connections with
    one id each takes the kernel away from the other, and the messages of either may be lost.
    """

    _connecting: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect with the gateway, or wait for a first message.

        A browser gives a websocket up at once if it offered protocols of which the server chose
        none, as with a gateway, and JupyterLab comes again without: that is the gateway's first.
        """
        handler: Any = self.websocket_handler
        offered = "Sec-WebSocket-Protocol" in handler.request.headers
        if self._connecting is not None or not offered or handler.selected_subprotocol:
            await super().connect()  # type: ignore[no-untyped-call]

    def handle_incoming_message(self, message: str) -> None:
        """Pass a message on."""
        send = super().handle_incoming_message
        if self._connecting is None and self.ws_future is None:
            self._connecting = asyncio.ensure_future(super().connect())  # type: ignore[no-untyped-call]
        if self._connecting is None:
            send(message)
        else:
            # All of them, and so in the order in which they came.
            self._connecting.add_done_callback(lambda _: send(message))

    def disconnect(self) -> None:  # type: ignore[override]
        """Close the connection, at once or as soon as it is there.

        The stock method cancels the future of one that is being made. Then it is
        made all the same, and never closed.
        """
        self.disconnected = True
        if self.ws is not None:
            self.ws.close()

    def _connection_done(self, fut: Any) -> None:
        super()._connection_done(fut)  # type: ignore[no-untyped-call]
        if self.disconnected and fut.exception() is None:
            fut.result().close()


class KernelWebsocketHandler(StoreErrors, StockWebsocket):
    """``/api/kernels/<kernel_id>/channels``."""

    @property
    def kernel_websocket_connection_class(self) -> Any:
        """The class that the user has configured, or this package's."""
        chosen = super().kernel_websocket_connection_class
        return KernelWebsocket if chosen is GatewayWebSocketConnection else chosen

    async def pre_get(self) -> None:
        """Attach to the kernel, for a user who may execute; the stock method asks that again."""
        user: Any = self.current_user
        authorizer: Any = self.authorizer
        if await ensure_async(authorizer.is_authorized(self, user, "execute", "kernels")):
            with self.store_errors():
                await self.manager.sessions.attacher.attach(self.kernel_id)
        await super().pre_get()  # type: ignore[no-untyped-call]


default_handlers = [
    (r"/api/kernels", MainKernelHandler),
    (rf"/api/kernels/{stock._kernel_id_regex}", KernelHandler),
    (rf"/api/kernels/{stock._kernel_id_regex}/{stock._kernel_action_regex}", KernelActionHandler),
    (rf"/api/kernels/{stock._kernel_id_regex}/channels", KernelWebsocketHandler),
]
