"""Serve a page that shows who runs what where."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from traitlets import Int, Unicode

from ..errors import ConfigurationError
from .command import ExitCode, StoreCommand

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer
    from tornado.web import Application

    from ..web.pages.reading import StoreReader

#: Where an operator may keep the token, so that it stays from one start to the next.
TOKEN_VARIABLE: Final = "JUPYTER_SESSION_STORE_PAGE_TOKEN"  # noqa: S105
_PREFIX: Final = "JUPYTERHUB_SERVICE_PREFIX"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Serve(StoreCommand):
    name = "jupyter-session-store serve"
    description = """
    Serve a page that shows who runs what where: namespaces, servers, sessions.

    The page only reads. Alone it is on a loopback address of this machine, for
    whoever has the token that is printed. As a service of a JupyterHub, which
    starts it, it shows users their own sessions, and everything to those who
    have the scope read:servers for all users.
    """
    examples = """
    jupyter session-store serve
    jupyter session-store serve --port 9000
    """
    aliases = {**StoreCommand.aliases, "port": "Serve.port", "ip": "Serve.ip"}

    ip = Unicode("127.0.0.1", help="The loopback address to listen at.").tag(config=True)
    port = Int(8890, min=0, max=65535, help="The port to listen at; 0: any free one.").tag(
        config=True
    )

    def run(self) -> ExitCode:
        with self.database(statement_timeout=True, writes=False) as engine:
            from ..sql.admin.admin_connection import connected

            with connected(engine) as connection:
                self.require_usable(connection, None)
            from ..web.pages.reading import StoreReader

            hub_url = os.environ.get("JUPYTERHUB_BASE_URL", "/")
            reader = StoreReader(engine, hub_url if os.environ.get(_PREFIX) else None, self.log)
            try:
                asyncio.run(self._serve(reader))
            finally:
                reader.close()
        return ExitCode.DONE

    async def _serve(self, reader: StoreReader) -> None:
        from ..web.pages.app import watch
        from ..web.pages.watch import INTERVAL

        server, address = self._listen(reader)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        watching = loop.create_task(watch(reader, INTERVAL))
        self.say_where(address)
        await ended.wait()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        server.stop()
        await server.close_all_connections()
        self.note("The page is not served any more. Nothing was changed.")

    def say_where(self, address: str) -> None:
        """Say which database is shown, and where."""
        self.note(f"Shows {self.database_name} at {address} (Ctrl-C ends it).")

    def _listen(self, reader: StoreReader) -> tuple[HTTPServer, str]:
        prefix = os.environ.get(_PREFIX)
        return self._listen_alone(reader) if prefix is None else self._listen_at_hub(reader, prefix)

    def _listen_alone(self, reader: StoreReader) -> tuple[HTTPServer, str]:
        from ..web.pages.access import TokenAccess
        from ..web.pages.app import Pages, application

        if self.ip not in _LOOPBACK:
            raise ConfigurationError(
                f"--ip is {self.ip!r}; expected a loopback address (127.0.0.1, ::1 or localhost). "
                "To see the page from elsewhere, serve it as a service of the hub, or forward the "
                f"port: ssh -L {self.port}:127.0.0.1:{self.port} THIS-MACHINE"
            )
        token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
        pages = Pages(reader, "/", TokenAccess(token, "/").viewer_of, _HOSTS)
        server = self._bind(application(pages), self.port, self.ip)
        [port, *_] = {one.getsockname()[1] for one in _sockets_of(server)}
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        address = f"http://{host}:{port}/"
        shown = f"{address}?token={token}" if TOKEN_VARIABLE not in os.environ else address
        return server, shown

    def _listen_at_hub(self, reader: StoreReader, prefix: str) -> tuple[HTTPServer, str]:
        from ..web.pages.access import hub_access
        from ..web.pages.app import Pages, application

        address = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
        if address.port is None:
            raise ConfigurationError(
                "The hub has given the service no address; expected a url in its entry in "
                "c.JupyterHub.services, such as 'http://127.0.0.1:8890'."
            )
        try:
            viewer_of, kind, more = hub_access(prefix)
        except ImportError:
            raise ConfigurationError(
                "jupyterhub is not installed here, and the page is to be its service. "
                "Run: pip install jupyterhub"
            ) from None
        pages = Pages(reader, prefix, viewer_of)
        made = application(pages, kind, more)
        return self._bind(made, address.port, address.hostname or ""), prefix

    def _bind(self, made: Application, port: int, ip: str) -> HTTPServer:
        try:
            return made.listen(port, ip)
        except OSError as error:
            raise ConfigurationError(
                f"The port {port} of {ip} cannot be listened at ({error.strerror}); expected a "
                "free one: --port 0 takes any."
            ) from None


#: As a browser names them.
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def _sockets_of(server: HTTPServer) -> list[Any]:
    # It has no public way to tell where it listens.
    return list(server._sockets.values())
