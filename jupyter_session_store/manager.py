"""The session manager: Jupyter Server's interface, over a repository."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jupyter_core.utils import ensure_async
from jupyter_server.services.sessions.sessionmanager import (
    KernelName,
    KernelSessionRecord,
    ModelName,
)
from tornado import web
from traitlets import TraitError

from .config.traits import StoreSettings
from .errors import ConfigurationError, SchemaMismatch, SessionStoreError
from .kernels.authority import server_id_of
from .kernels.choose_authority import authority_for
from .kernels.usage import usage_of
from .records import Scope, SessionRecord
from .repository import SessionRepository
from .servers.heartbeat import Heartbeat, this_server
from .servers.neighbours import NeighbourWatch
from .servers.registered_store import RegisteredStore
from .sessions.claims import PathLeaders, SessionCreator
from .sessions.context import BackgroundTasks, NewSession, SessionContext, Store, check_texts
from .sessions.hooks import Hooks
from .sessions.http_errors import raises_http
from .sessions.interface import Sessions
from .sessions.local import LocalSessions
from .sessions.local_store import LocalStore
from .sessions.mirror import mirror_of
from .sessions.reading import check_columns
from .sessions.recorded import RecordedSessions
from .sessions.shared import SharedSessions
from .sessions.shared_store import SharedStore
from .telemetry.events import CREATED, SessionEvents
from .telemetry.metered import MeteredRepository


class SchemaRefused(SchemaMismatch, TraitError):
    """A :class:`.SchemaMismatch` at start, which Jupyter Server shows without a traceback."""


class PersistentSessionManager(StoreSettings):
    """A drop-in :class:`~jupyter_server.services.sessions.sessionmanager.SessionManager`.

    For the tasks of one event loop, which it never blocks. A method for one
    session raises :class:`tornado.web.HTTPError`, a 404, if there is none or its
    kernel is gone. One that stores something raises :class:`.InvalidValue` for
    what cannot be stored. Where the kernels are a gateway's, each raises
    :class:`.StoreUnavailable` while the store cannot be asked; then no row and no
    kernel has changed. Each error of this package that a method for sessions raises
    is a :class:`tornado.web.HTTPError` too, so that any handler may let it pass.

    Raises
    ------
    TraitError
        If a setting is wrong or the database's schema does not fit. A database
        that cannot be reached is no error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._authority = authority = authority_for(self.kernel_manager, self)
        if authority.limitation is not None:
            self.log.warning(authority.limitation)
        # Once more: traitlets does not validate a value that equals the static default.
        namespace = self._checked_namespace(self.namespace)
        #: The namespace, and the authority over the kernels.
        self.scope = Scope(namespace, authority.name)
        #: The id of this server in the store.
        self.server_id = server_id_of(self.kernel_manager)
        server = this_server(namespace, self.server_id, self.lease_seconds)
        repository = self._make_repository()
        if self.has_default_namespace and authority.is_shared:
            repository.on_servers = NeighbourWatch(server, self.log).look
        self._store = RegisteredStore(repository, self.scope, server, self.log)
        self.tasks = BackgroundTasks(self.parent)
        store: Store
        mirror = None
        if authority.is_shared:
            store = SharedStore(self._store, authority, self.log)
        else:
            mirror = mirror_of(self.kernel_manager, self.scope, repository.identity, self.log)
            store = LocalStore(self._store, mirror)
        self._context = context = SessionContext(
            scope=self.scope,
            server_id=self.server_id,
            store=store,
            kernel_manager=self.kernel_manager,
            authority=authority,
            usage=usage_of(self.kernel_manager),
            events=SessionEvents(getattr(self.parent, "event_logger", None), namespace, self.log),
            tasks=self.tasks,
            hooks=Hooks(self, PersistentSessionManager),
            claim_timeout=self.claim_timeout,
            log=self.log,
            records=None if mirror is None else mirror.records,
        )
        leaders = PathLeaders(context.hooks)
        self.sessions: Sessions
        if mirror is None:
            self.sessions = SharedSessions(context, leaders)
        else:
            self.sessions = LocalSessions(context, leaders, mirror, self._store)
        repository.count(self.sessions)
        self._creator = SessionCreator(context, self.sessions.reader, leaders)
        self._open()
        if mirror is not None:
            self._recorded = RecordedSessions(context, mirror, self.lease)
            self._recorded.begin()
        authority.set_in_use_check(self.sessions.kernels.in_use)
        self._put_handlers_first()

    def _make_repository(self) -> MeteredRepository:
        try:
            repository = self.repository_class()(
                self.database_filepath,
                options=self.engine_options,
                auto_upgrade=self.auto_upgrade,
                log=self.log,
            )
        except ConfigurationError as error:
            raise TraitError(str(error)) from None
        repository.connection_idle_seconds = self.connection_idle_seconds
        return MeteredRepository(repository)

    def _open(self) -> None:
        sessions = self.sessions
        try:
            self._store.open(
                local_sessions=sessions.live_local_sessions, on_renewed=sessions.on_renewed
            )
        except SchemaMismatch as error:
            raise SchemaRefused(str(error)) from None
        except ConfigurationError as error:
            raise TraitError(str(error)) from None
        store = self.store.describe()
        answering = f", and {store.host} answers" if store.host else ""
        self.log.info(
            "The session store is %s%s; the namespace is %r.",
            store.backend,
            answering,
            self.scope.namespace,
        )

    def _put_handlers_first(self) -> None:
        app: Any = self.parent
        services = getattr(app, "extra_services", None)
        ours = ["jupyter_session_store.web.handlers"]
        if self._authority.can_attach:
            ours.append("jupyter_session_store.web.kernel_handlers")
        elif self._authority.is_shared:
            ours.append("jupyter_session_store.web.stock_kernel_handlers")
        if services is not None:
            app.extra_services = [*services, *(one for one in ours if one not in services)]

    @property
    def store(self) -> SessionRepository:
        """The repository; raises :class:`.StoreUnavailable` once the manager has been closed."""
        return self._store.repository

    @property
    def lease(self) -> Heartbeat:
        """The lease of this server."""
        return self._store.lease

    @property
    def works_without_store(self) -> bool:
        """Whether requests for sessions are answered while the store is away."""
        return not (self._authority.is_shared or self._store.is_closed)

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
            "jupyter_session_store.sql.engine.create(...) for a connection of your own."
        )

    def close(self) -> None:
        """Remove the sessions whose kernels were shut down, and give up the store.

        Waits 2 s at most, leaves neither a thread nor a connection, and may be
        called again.
        """
        self._store.close(self._authority.local_kernel_ids())

    def __del__(self) -> None:
        """Close, if that was not done. A constructor that failed has left nothing open."""
        if not sys.is_finalizing() and hasattr(self, "_store"):
            self.close()

    async def ask_store(self) -> None:
        """Ask the store as a request for one session does, and whether it can be written."""
        await self._store.check()

    @raises_http
    async def session_exists(self, path: str) -> bool:
        """Return whether a session with this path, and a kernel, is there."""
        return await self.sessions.reader.session_at(path) is not None

    @raises_http
    async def get_session(self, **kwargs: Any) -> dict[str, Any]:
        """Return the model of the session that equals every keyword.

        Parameters
        ----------
        **kwargs : str
            At least one of session_id, path, name, type and kernel_id.

        Raises
        ------
        TypeError
            If there is no keyword, or an unknown one.
        """
        return await self.sessions.reader.get(**kwargs)

    @raises_http
    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions whose kernels are not gone, the oldest first."""
        return await self.sessions.reader.list()

    @raises_http
    async def count_sessions(self) -> dict[str, int]:
        """Return how many sessions there are, by their state."""
        return await self.sessions.reader.count()

    async def kernel_culled(self, kernel_id: str) -> bool:
        """Return whether this server's kernel manager does not hold a kernel.

        That alone is no reason to remove a session: its authority is asked.
        """
        return kernel_id not in self.kernel_manager

    @raises_http
    async def row_to_model(
        self, row: SessionRecord, tolerate_culled: bool = False
    ) -> dict[str, Any] | None:
        """Return the model of a session.

        Parameters
        ----------
        row : SessionRecord
        tolerate_culled : bool
            Whether to return ``None`` for a session whose kernel is gone.

        Raises
        ------
        KeyError
            If the kernel is gone and that is not tolerated. The session is
            removed soon after.
        """
        return await self.sessions.reader.own_model_of(row, tolerate_culled=tolerate_culled)

    @raises_http
    async def get_or_create_session(
        self,
        path: str,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Return the session at a path, and create it if there is none.

        However many ask at once for one path, one session is created, and all
        get it. A caller who goes away changes nothing. The parameters are those
        of :meth:`create_session`.
        """
        wanted = NewSession(path, name, type, kernel_name, kernel_id or None)
        wanted.check()
        return await self._creator.get_or_create(wanted)

    @raises_http
    async def create_session(
        self,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Create a session, with a new kernel or on one that is there, and return its model.

        A second session on a path is allowed, as in the stock manager; the
        first holds the claim.

        Parameters
        ----------
        path, name, type : str, optional
            As in the REST API.
        kernel_name : str, optional
            The kernel specification; the default one if not given.
        kernel_id : str, optional
            A kernel to attach to if the server holds it, else the id to start
            a new one under.

        Raises
        ------
        DuplicateKernelError
            If another create is starting a kernel under this id.
        """
        wanted = NewSession(path, name, type, kernel_name, kernel_id or None)
        wanted.check()
        session_id = self.new_session_id()
        with self._pending(session_id) as pending:
            model = await self.sessions.create(pending, wanted)
            if self._context.hooks.overrides("get_session"):
                # As the stock manager does, and here no lock is held: it may do what it likes.
                model = await self.get_session(session_id=session_id)
        self._context.events.emit(
            CREATED, session_id=session_id, path=path, kernel_id=pending.kernel_id
        )
        return model

    @raises_http
    async def save_session(
        self,
        session_id: str,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Store a session and return its model.

        It holds the claim to its path unless another session does.

        Raises
        ------
        SessionConflict
            If another session has this id.
        tornado.web.HTTPError
            404 if the kernel is gone; nothing is stored.
        """
        wanted = NewSession(path, name, type)
        return await self.sessions.save(session_id, wanted, kernel_id)

    async def start_kernel_for_session(
        self,
        session_id: str,
        path: str | None,
        name: ModelName | None,
        type: str | None,
        kernel_name: KernelName | None,
        kernel_id: str | None = None,
    ) -> str:
        """Start a kernel for a session and return its id.

        Parameters
        ----------
        kernel_id : str, optional
            The id to start it under. Jupyter Server before 2.20 does not have
            this parameter, so that its method serves only without it.
        """
        if kernel_id is None:
            started: str = await super().start_kernel_for_session(
                session_id, path, name, type, kernel_name
            )
            return started
        kernel_path = await ensure_async(self.contents_manager.get_kernel_path(path=path))
        started = await self.kernel_manager.start_kernel(
            path=kernel_path,
            kernel_name=kernel_name,
            env=self.get_kernel_env(path, name),
            kernel_id=kernel_id,
        )
        await self._authority.refuse_without_kernel(started)
        return started

    @raises_http
    async def update_session(self, session_id: str, **kwargs: Any) -> None:
        """Change columns of a session.

        Parameters
        ----------
        session_id : str
        **kwargs : str
            Of session_id, path, name, type and kernel_id. A kernel that the
            session leaves goes on running.

        Raises
        ------
        TypeError
            If there is an unknown keyword.
        """
        check_columns(kwargs)
        if kwargs:
            await self.sessions.update(session_id, kwargs)
        else:
            await self.get_session(session_id=session_id)

    @raises_http
    async def change_session(
        self, session_id: str, *, kernel_name: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Change a session as a client asks, and return its model.

        A kernel that it leaves is shut down if no other session uses it; one
        that was started for it is shut down if the change cannot be saved.

        Parameters
        ----------
        session_id : str
        kernel_name : str, optional
            Start a kernel of this specification and move the session to it.
        **kwargs : str
            As :meth:`update_session` has them; ``kernel_id`` wins over
            `kernel_name`.

        Raises
        ------
        KernelNotStarted
            With the reason as its cause; the session stays as it was.
        """
        check_columns(kwargs)
        check_texts(kwargs)
        hooks = self._context.hooks
        moves = "kernel_id" in kwargs or kernel_name is not None
        if moves or hooks.overrides("update_session"):
            # To its end, so that no client who goes away leaves a kernel behind.
            return await self.tasks.finish(self.sessions.move(session_id, kernel_name, kwargs))
        if not kwargs or hooks.overrides("get_session"):
            model = await self.get_session(session_id=session_id)
        return await self.sessions.update(session_id, kwargs) if kwargs else model

    @raises_http
    async def delete_session(self, session_id: str) -> None:
        """Delete a session, and shut its kernel down if no other session uses it.

        Raises
        ------
        StoreUnavailable
            If the kernel cannot be reached; the session stays.
        """
        with self._pending(session_id):
            if self._context.hooks.overrides("get_session", "row_to_model"):
                await self._look_before_delete(session_id)
            await self.tasks.finish(self.sessions.close(session_id))

    async def _look_before_delete(self, session_id: str) -> None:
        """Ask ``get_session``, as the stock manager does; a row without a kernel has no model."""
        try:
            await self.get_session(session_id=session_id)
        except web.HTTPError as error:
            if isinstance(error, SessionStoreError):
                raise
            found = await self._context.find(session_id=session_id)
            if not found or found[0].kernel_id:
                raise

    @contextmanager
    def _pending(self, session_id: str) -> Iterator[KernelSessionRecord]:
        """Keep a session among the stock manager's pending ones."""
        pending = KernelSessionRecord(session_id=session_id)
        self._pending_sessions.update(pending)
        try:
            yield pending
        finally:
            # By identity: records on one kernel are equal, whichever session they are of.
            records = self._pending_sessions._records
            records[:] = [other for other in records if other is not pending]
