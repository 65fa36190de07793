"""A front end's websocket to a kernel on a gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection


class KernelWebsocket(GatewayWebSocketConnection):
    """A front end's websocket, passed on to the gateway: at most one of a front end at a time.

    A kernel tells its clients apart by the session id that the front end chose. Of
    two connections with one id each takes the kernel away from the other, and the
    messages of either may be lost.
    """

    _connecting: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Connect with the gateway, or wait for a first message.

        A browser gives a websocket up at once if it offered protocols of which the
        server chose none, as with a gateway, and JupyterLab comes again without:
        the gateway is not to know of the first.
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
