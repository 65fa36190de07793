"""The REST handlers: POST as get-or-create, and domain errors as HTTP, in one place.

The manager puts them before Jupyter Server's own, which they subclass. Each
method says itself that it needs authentication, although the one that it calls
says so too: a server that allows no unauthenticated access looks for that, and
does not start without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.sessions import handlers as stock
from tornado import web

from ..errors import KernelNotStarted, SessionStoreError
from ..manager import PersistentSessionManager
from ..records import check_given, printable
from ..sessions.http_errors import HTTPStoreError, as_http, http_errors, public_text
from .outages import fault_of


class StoreErrors(JupyterHandler):
    """What the handlers of sessions, and of their kernels, share."""

    @property
    def manager(self) -> PersistentSessionManager:
        """The session manager of the server."""
        manager: PersistentSessionManager = self.settings["session_manager"]
        return manager

    @contextmanager
    def store_errors(self) -> Iterator[None]:
        """Turn domain errors into HTTP errors, and unpack those that a stock method has wrapped."""
        try:
            with http_errors():
                yield
        except HTTPStoreError:
            raise
        except web.HTTPError as error:
            # Jupyter Server's POST turns whatever a create raises into a 500.
            cause = error.__cause__
            if isinstance(cause, SessionStoreError):
                raise as_http(cause) from cause.__cause__
            if error.status_code == 500 and isinstance(cause, web.HTTPError):
                raise cause from None
            raise

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write the error; for a 503 of the store, say when to come back and log nothing.

        Jupyter Server's own method logs each, in older releases with a traceback.
        """
        fault = fault_of(kwargs.get("exc_info", (None, None))[1])
        if fault is None:
            super().write_error(status_code, **kwargs)
            return
        self.set_header("Content-Type", "application/json")
        self.set_header("Retry-After", str(fault.retry_after))
        self.finish(json.dumps({"message": str(fault), "reason": None}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log no line for a 503 of the store, which says once when it goes and comes back.

        What a client has sent may be in the text of any other: it begins no line of its own.
        """
        if fault_of(value) is not None:
            return
        if isinstance(value, web.HTTPError) and value.log_message:
            value = web.HTTPError(value.status_code, printable(value.log_message % value.args))
        super().log_exception(typ, value, tb)


class _SessionBody(StoreErrors, stock.SessionsAPIHandler):
    """What both handlers of sessions share."""

    def body_with_texts(self) -> dict[str, Any] | None:
        """Return the request's JSON object, each field of the right type; else raise a 400."""
        try:
            body = self.get_json_body()
        except UnicodeDecodeError:
            raise web.HTTPError(400, "Invalid JSON data: expected UTF-8") from None
        if body is None:
            return None
        if not isinstance(body, dict):
            raise web.HTTPError(400, "Invalid JSON data: expected an object")
        for part in ("kernel", "notebook"):
            if body.get(part) is None:
                body.pop(part, None)
            elif not isinstance(body[part], dict):
                raise web.HTTPError(400, f"Invalid {part}: expected an object")
        notebook, kernel = body.get("notebook", {}), body.get("kernel", {})
        for field, value in (
            *((name, body.get(name)) for name in ("path", "name", "type")),
            *(("path", notebook.get(name)) for name in ("path", "name")),
            # An empty one is none to Jupyter Server, where a session is created.
            ("kernel_id", None if kernel.get("id") == "" else kernel.get("id")),
            ("kernel_name", kernel.get("name")),
        ):
            with http_errors():
                check_given(field, value)
        for fields, field in ((body, "path"), (notebook, "path"), (notebook, "name")):
            if field in fields and fields[field] is None:
                raise web.HTTPError(400, "Invalid path: it is null; expected a string")
        return body


async def answer(method: Any) -> None:
    """Await a stock method, which tornado's decorators type as if it need not be awaited."""
    if method is not None:
        await method


class _GetOrCreate:
    """What Jupyter Server's POST sees as the session manager.

    It asks whether a session exists and then creates one; between the two
    another request creates it too.
    """

    def __init__(self, manager: PersistentSessionManager) -> None:
        self._manager = manager

    async def session_exists(self, path: str) -> bool:
        """Leave the question to :meth:`create_session`."""
        return False

    async def create_session(self, **kwargs: Any) -> dict[str, Any]:
        """Return the session at the path, created if there was none."""
        return await self._manager.get_or_create_session(**kwargs)


class SessionRootHandler(_SessionBody, stock.SessionRootHandler):
    """``/api/sessions``."""

    @property
    def session_manager(self) -> Any:
        """The manager, as the method of this request sees it."""
        if self.request.method == "POST":
            return _GetOrCreate(self.manager)
        return self.manager

    @web.authenticated
    async def get(self) -> None:
        """List the sessions."""
        with self.store_errors():
            await answer(super().get())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Return the session at a path; create it if there is none."""
        body = self.body_with_texts()
        self.get_json_body = lambda: body  # type: ignore[method-assign]
        with self.store_errors():
            await answer(super().post())


class SessionHandler(_SessionBody, stock.SessionHandler):
    """``/api/sessions/<session_id>``."""

    @web.authenticated
    async def get(self, session_id: str) -> None:
        """Return the session."""
        with self.store_errors():
            await answer(super().get(session_id))

    @web.authenticated
    @authorized
    async def patch(self, session_id: str) -> None:
        """Rename a session or move it to another kernel.

        Jupyter Server's own method shuts the old kernel down itself, whoever
        else uses it; here that is the manager's to decide.
        """
        body = self.body_with_texts()
        if body is None:
            raise web.HTTPError(400, "No JSON data provided")
        if "path" in body.get("notebook", {}):
            self.log.warning("Sessions API changed, see updated swagger docs")
            body["path"] = body["notebook"]["path"]
            body["type"] = "notebook"
        changes: dict[str, Any] = {
            field: body[field] for field in ("path", "name", "type") if field in body
        }
        kernel = body.get("kernel", {})
        if kernel.get("id") is not None:
            changes["kernel_id"] = kernel["id"]
        kernel_name = kernel.get("name")
        with self.store_errors():
            try:
                model = await self.manager.change_session(
                    session_id, kernel_name=kernel_name, **changes
                )
            except KernelNotStarted as error:
                # As in Jupyter Server: its text may hold what a client should not see.
                self.log.error("Error starting kernel: %s", kernel_name)
                self.set_status(501)
                cause = error.__cause__
                reason = public_text(cause) if isinstance(cause, SessionStoreError) else str(cause)
                message = f"The '{kernel_name}' kernel could not be started: {reason!r}"
                short = f"Error starting kernel {kernel_name}"
                self.finish(json.dumps({"message": message, "short_message": short}))
                return
        self.finish(json.dumps(model, default=json_default))

    @web.authenticated
    async def delete(self, session_id: str) -> None:
        """Delete the session."""
        with self.store_errors():
            await answer(super().delete(session_id))


default_handlers = [
    (rf"/api/sessions/{stock._session_id_regex}", SessionHandler),
    (r"/api/sessions", SessionRootHandler),
]
