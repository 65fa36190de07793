"""The handler of new kernels on a gateway, where the kernel manager is Jupyter Server's own.

That one asks the gateway about whatever id a client gives, with the server's
own token.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.services.kernels import handlers as stock
from tornado import web

from ..records import check_given
from .handlers import StoreErrors, answer


class MainKernelHandler(StoreErrors, stock.MainKernelHandler):
    """``/api/kernels``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel, under an id that leads nowhere but to a kernel."""
        self.checked_body()
        await answer(super().post())

    def checked_body(self) -> dict[str, Any]:
        """Return the request's JSON object, its texts checked; else raise a 400."""
        body = self.get_json_body()
        if body is not None and not isinstance(body, dict):
            raise web.HTTPError(400, "Invalid JSON data: expected an object")
        given: dict[str, Any] = body or {}
        with self.store_errors():
            # An empty id is none to Jupyter Server.
            check_given(
                "kernel_id", None if given.get("kernel_id") == "" else given.get("kernel_id")
            )
            check_given("kernel_name", given.get("name"))
            check_given("path", given.get("path"))
        return given


default_handlers = [(r"/api/kernels", MainKernelHandler)]
