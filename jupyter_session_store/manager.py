"""The session manager: Jupyter Server's interface, over a repository."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

from jupyter_server.services.sessions.sessionmanager import KernelSessionRecord
from tornado import web
from traitlets import TraitError

from .errors import ConfigurationError, SchemaMismatch, SessionStoreError
from .kernels.authority import GatewayKernels, LocalKernels, is_gateway, server_id_of
from .kernels.usage import KernelUses
from .records import Closing, Departure, Scope, SessionRecord
from .sessions.finishing import Leftover
from .sessions.moving import SessionMover, is_storable
from .telemetry.events import CLOSED, SessionEvents
from .telemetry.metered import MeteredRepository

T = TypeVar("T")

HANDLERS: Final = "jupyter_session_store.web.handlers"
KERNEL_HANDLERS: Final = "jupyter_session_store.web.kernel_handlers"

_WITHOUT_ATTACHING: Final = (
    "The kernels are a gateway's, and the kernel manager is Jupyter Server's own: it cannot use a "
    "kernel that another server, or this one before its last start, has started, and shuts "
    "its kernels down when the server stops. Set c.ServerApp.kernel_manager_class = "
    "'jupyter_session_store.gateway.PersistentGatewayKernelManager'."
)

#: Seconds that the constructor waits for the schema's check.
OPEN_TIMEOUT: Final = 5.0
#: Seconds that :meth:`PersistentSessionManager.close` waits.
CLOSE_TIMEOUT: Final = 2.0
#: Seconds that it waits for the heartbeat then.
_HEARTBEAT_END: Final = 0.5


class SchemaRefused(SchemaMismatch, TraitError):
    """A :class:`.SchemaMismatch` at start, which Jupyter Server shows without a traceback."""


class PersistentSessionManager(SessionMover):
    """A drop-in :class:`~jupyter_server.services.sessions.sessionmanager.SessionManager`.

    Its sessions live where ``database_filepath`` says, in the namespace, and
    under the authority that alone can say that their kernels are gone. For the
    tasks of one event loop, which it never blocks.

    Every method that stores something raises :class:`.InvalidValue` for what
    cannot be stored, and every method :class:`.StoreUnavailable` while the
    store cannot be asked; then no row and no kernel has changed.

    Raises
    ------
    TraitError
        If a setting is wrong or the database's schema does not fit. A database
        that cannot be reached is no error: sessions answer 503 until it is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        if is_gateway(self.kernel_manager):
            self._kernels = GatewayKernels(self.kernel_manager, self.gateway_name)
            if not self._kernels.attaches:
                self.log.warning(_WITHOUT_ATTACHING)
        else:
            self._kernels = LocalKernels(self.kernel_manager)
        # Once more: traitlets does not validate a value that equals the static default.
        namespace = self._checked_namespace(self.namespace)
        self.scope = Scope(namespace, self._kernels.authority)
        self.server_id = server_id_of(self.kernel_manager)
        self._uses = KernelUses()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._creating: dict[str, tuple[object, asyncio.Task[dict[str, Any]]]] = {}
        self._gone: dict[str, SessionRecord] = {}
        self._odd: set[str] = set()
        self._unsure: set[str] = set()
        self._held: dict[str, SessionRecord] = {}
        self._leftovers: dict[str, Leftover] = {}
        self._starting: set[str] = set()
        self._unended: set[str] = set()
        event_logger = getattr(self.parent, "event_logger", None)
        self._events = SessionEvents(event_logger, namespace, self.log)
        self._open()
        self._kernels.ask_before_the_end(self._named_by_sessions)
        self._put_handlers_first()

    def _open(self) -> None:
        try:
            repository = MeteredRepository(
                self.repository_class()(
                    self.database_filepath,
                    options=self.engine_options,
                    auto_upgrade=self.auto_upgrade,
                    log=self.log,
                )
            )
        except ConfigurationError as error:
            raise TraitError(str(error)) from None
        self._repository = repository
        heartbeat = self._hold_lease(repository)
        try:
            repository.open(self.scope, heartbeat.server, timeout=OPEN_TIMEOUT)
        except SchemaMismatch as error:
            raise SchemaRefused(str(error)) from None
        self._heartbeat = heartbeat
        heartbeat.start()
        self.log.info(
            "The session store is %s; the namespace is %r.",
            repository.describe().backend,
            self.scope.namespace,
        )

    def _put_handlers_first(self) -> None:
        app: Any = self.parent
        services = getattr(app, "extra_services", None)
        ours = [HANDLERS, *([KERNEL_HANDLERS] if self._kernels.attaches else [])]
        if services is not None:
            app.extra_services = [*services, *(one for one in ours if one not in services)]

    @property
    def cursor(self) -> NoReturn:
        """Refuse: there is no SQLite cursor."""
        raise AttributeError(
            "PersistentSessionManager has no SQLite cursor; use its methods (list_sessions, "
            "get_session, create_session, update_session, delete_session)."
        )

    @property
    def connection(self) -> NoReturn:
        """Refuse: there is no SQLite connection."""
        raise AttributeError(
            "PersistentSessionManager has no SQLite connection; use its methods, or "
            "jupyter_session_store.sql.engine.factory.create(...) for a connection of your own."
        )

    def close(self) -> None:
        """Remove the sessions whose kernels were shut down, and let go of the store.

        Waits 2 s at most, leaves neither a thread nor a connection, and may be
        called again.
        """
        repository, self._repository = self._repository, None
        if repository is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        departure = Departure(self.scope, self.server_id, self._kernels.running())
        repository.close(departure, timeout=CLOSE_TIMEOUT)
        if self._heartbeat is not None:
            # What it does now ends with the store.
            self._heartbeat.join(_HEARTBEAT_END)

    def __del__(self) -> None:
        """Close, if nobody did."""
        if not sys.is_finalizing():
            self.close()

    async def delete_session(self, session_id: str) -> None:
        """Delete a session, and shut its kernel down if no other session uses it.

        Raises
        ------
        tornado.web.HTTPError
            404 if there is no such session, or its kernel is gone.
        StoreUnavailable
            If the kernel cannot be reached; the session stays.
        """
        pending = KernelSessionRecord(session_id=session_id)
        self._pending_sessions.update(pending)
        try:
            await asyncio.shield(self._spawn(self._delete(session_id)))
        finally:
            self._forget_pending(pending)

    async def _delete(self, session_id: str) -> None:
        ending = None
        async with self._uses.counting():
            closing = await self._begin_close(session_id)
            if closing is None:
                raise web.HTTPError(404, f"Session not found: session_id={session_id!r}")
            record = closing.record
            kernel_id = record.kernel_id
            # Who attached on another server since the mark was made has seen it, or is seen now.
            attached = (
                closing.last
                and self._kernels.shared
                and await self._or_unsure(session_id, self._has_users(str(kernel_id)))
            )
            if closing.last and kernel_id is not None and not attached:
                ending = self._uses.end(kernel_id)
            else:
                # The kernel goes on, and if this fails, the session does too.
                await self._or_unsure(session_id, self._remove(record))
        if ending is None:
            gone = await self._is_gone(record)
        else:
            try:
                gone = await self._is_gone(record)
                if not gone:
                    await self._shut_down_for(record)
                await self._remove(record)
            finally:
                ending.set_result(None)
        self._let_go([record])
        if gone:
            raise web.HTTPError(404, f"Session not found: its kernel {kernel_id!r} is gone")

    async def _remove(self, record: SessionRecord) -> None:
        # Another request for the same may have been faster.
        if await self.store.remove(self.scope, [record]):
            self._tell(CLOSED, [record])

    async def _begin_close(self, session_id: str) -> Closing | None:
        if not is_storable(session_id):
            return None
        store = await self._current_store()
        await self._take_marks_back()
        return await self._or_unsure(
            session_id, store.begin_close(self.scope, session_id, self.server_id)
        )

    async def _or_unsure(self, session_id: str, step: Awaitable[T]) -> T:
        """Take a step of a delete; if it fails, nobody stands by the session's mark."""
        try:
            return await step
        except BaseException:
            self._unsure.add(session_id)
            raise

    async def _shut_down_for(self, record: SessionRecord) -> None:
        """Shut down the kernel of a closing session, or make the session ready again."""
        assert record.kernel_id is not None
        try:
            await self._shut_down(record.kernel_id)
        except BaseException:
            # If that fails too, it is tried after the next renewal; the session is shown, and
            # can be deleted again.
            self._unsure.add(record.session_id)
            with suppress(SessionStoreError):
                async with self._uses.counting():
                    await self._take_marks_back()
            raise
