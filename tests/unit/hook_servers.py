"""Real servers in process, whose session manager a test overrides methods of."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from jupyter_server.gateway.managers import GatewayMappingKernelManager, GatewaySessionManager
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.sessions.sessionmanager import SessionManager
from jupyter_server.utils import url_path_join
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from traitlets.config import Config

from jupyter_session_store.gateway import PersistentGatewayKernelManager
from jupyter_session_store.manager import PersistentSessionManager
from tests.unit.dummies import DummyKernelManager
from tests.unit.fake_gateway import FakeGateway

#: What a test runs over: a session manager, and the kernels that it has.
STOCK: Final = "stock"
STOCK_GATEWAY: Final = "stock-gateway"
LOCAL: Final = "local"
GATEWAY: Final = "gateway"

_CLASSES: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    STOCK: (SessionManager, DummyKernelManager),
    STOCK_GATEWAY: (GatewaySessionManager, GatewayMappingKernelManager),
    LOCAL: (PersistentSessionManager, DummyKernelManager),
    GATEWAY: (PersistentSessionManager, PersistentGatewayKernelManager),
}

#: The stock manager's public methods, those of a later release included.
PUBLIC: Final = tuple(
    name
    for name, value in vars(SessionManager).items()
    if inspect.isfunction(value) and not name.startswith("_")
)


class Answer(NamedTuple):
    """What a client gets: the status, and the JSON."""

    code: int
    body: Any


class Server:
    """A running server, and what its kernels are."""

    def __init__(self, app: ServerApp, url: str, gateway: FakeGateway | None) -> None:
        self.app = app
        #: Where it answers, its base included.
        self.url = url
        self._gateway = gateway

    @property
    def manager(self) -> Any:
        """The session manager."""
        return self.app.session_manager

    def alive(self) -> set[str]:
        """Return the kernels that run."""
        if self._gateway is not None:
            return set(self._gateway.models)
        return set(self.app.kernel_manager.list_kernel_ids())

    def env_of(self, kernel_id: str) -> dict[str, str]:
        """Return the environment that a kernel was started with."""
        kernels: Any = self.app.kernel_manager if self._gateway is None else self._gateway
        env: dict[str, str] = kernels.envs[kernel_id]
        return env

    def kill(self, kernel_id: str) -> None:
        """Let a kernel die, unnoticed by the server."""
        kernels: Any = self.app.kernel_manager
        if self._gateway is not None:
            del self._gateway.models[kernel_id]
        else:
            kernels.die(kernel_id)

    async def revive(self, kernel_id: str) -> None:
        """Have a kernel run again under the id that it had."""
        if self._gateway is not None:
            self._gateway.run(kernel_id)
        else:
            await self.app.kernel_manager.start_kernel(kernel_id=kernel_id)

    async def send(self, method: str, session_id: str = "", body: Any = None) -> Answer:
        """Send a request to ``/api/sessions``."""
        try:
            response = await AsyncHTTPClient().fetch(
                url_path_join(self.url, "api", "sessions", session_id),
                method=method,
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"token {self.app.identity_provider.token}"},
                allow_nonstandard_methods=True,
            )
        except HTTPClientError as error:
            if error.response is None:
                raise
            response = error.response
        return Answer(response.code, json.loads(response.body) if response.body else None)

    async def post(self, path: str, **fields: Any) -> dict[str, Any]:
        """Create a session or get the one that is there; it must succeed."""
        body = {"path": path, "type": "notebook", "name": "n", "kernel": {"name": "python3"}}
        answer = await self.send("POST", body={**body, **fields})
        assert answer.code == 201, answer
        model: dict[str, Any] = answer.body
        return model

    async def patch(self, session_id: str, **fields: Any) -> dict[str, Any]:
        """Change a session; it must succeed."""
        answer = await self.send("PATCH", session_id, fields)
        assert answer.code == 200, answer
        model: dict[str, Any] = answer.body
        return model

    async def get(self, session_id: str) -> dict[str, Any]:
        """Get a session; it must succeed."""
        answer = await self.send("GET", session_id)
        assert answer.code == 200, answer
        model: dict[str, Any] = answer.body
        return model

    async def list(self) -> dict[str, dict[str, Any]]:
        """Return the sessions by their ids; it must succeed."""
        answer = await self.send("GET")
        assert answer.code == 200, answer
        return {model["id"]: model for model in answer.body}


#: Starts a server: what it runs over, the store, and what is overridden.
Serve = Callable[..., AbstractAsyncContextManager[Server]]


def overriding(base: type[Any], **overrides: Callable[..., Any]) -> type[Any]:
    """Return a subclass with methods overridden.

    Parameters
    ----------
    base : type
    **overrides : callable
        By the name of the method. Each is called with the inherited method, bound, and then
        with the arguments.
    """

    def method_of(name: str, override: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(override):

            async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                return await override(getattr(super(kind, self), name), *args, **kwargs)

            return method

        def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
            return override(getattr(super(kind, self), name), *args, **kwargs)

        return plain

    methods = {name: method_of(name, override) for name, override in overrides.items()}
    kind: type[Any] = types.new_class("Overriding", (base,), {}, lambda body: body.update(methods))
    return kind


def recording(calls: list[str], *names: str) -> dict[str, Callable[..., Any]]:
    """Return overrides that note that they are called, and do what the inherited method does."""

    def override_of(name: str) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(getattr(SessionManager, name)):

            async def override(inherited: Any, *args: Any, **kwargs: Any) -> Any:
                calls.append(name)
                return await inherited(*args, **kwargs)

            return override

        def plain(inherited: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return inherited(*args, **kwargs)

        return plain

    return {name: override_of(name) for name in names}


def server_factory(make_app: Callable[..., ServerApp], gateway: FakeGateway, folder: Path) -> Serve:
    """Return what starts servers, one after the other."""

    @asynccontextmanager
    async def serve(
        over: str,
        *,
        store: str = "memory",
        mixin: type[Any] | None = None,
        ours: bool = False,
        **overrides: Any,
    ) -> AsyncIterator[Server]:
        manager, kernels = _CLASSES[over]
        if ours:
            manager = PersistentSessionManager
        if mixin is not None:
            manager = types.new_class("Mixed", (mixin, manager))
        ours = issubclass(manager, PersistentSessionManager)
        config = Config(
            ServerApp={
                "session_manager_class": overriding(manager, **overrides),
                "kernel_manager_class": kernels,
                "jpserver_extensions": {},
            },
            SessionManager={
                "database_filepath": str(folder / "sessions.db")
                if store == "sqlite"
                else ":memory:"
            },
            PersistentSessionManager={
                "repository": "memory" if store == "memory" else "sqlalchemy",
                "gateway_name": "g",
            },
        )
        ServerApp.clear_instance()
        app = make_app(config=config)
        server = HTTPServer(app.web_app)
        (socket,) = bind_sockets(0, "127.0.0.1")
        server.add_socket(socket)
        url = f"http://127.0.0.1:{socket.getsockname()[1]}{app.base_url}"
        remote = issubclass(kernels, GatewayMappingKernelManager)
        try:
            yield Server(app, url, gateway if remote else None)
        finally:
            server.stop()
            await server.close_all_connections()
            await app._cleanup()
            if not ours and app.session_manager._connection is not None:
                app.session_manager._connection.close()
            app.kernel_manager.context.destroy()
            ServerApp.clear_instance()

    return serve
