"""A naive port to SQLAlchemy: an ORM session, a transaction and a pre-ping an operation.

Otherwise it is well written: the package's own model with its keys, no lazy
loads, no reload after a commit, and the database off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from sqlalchemy import Engine, Select, create_engine, delete, event, select
from sqlalchemy.orm import Session as ORMSession
from sqlalchemy.orm import sessionmaker
from tornado import web

from jupyter_session_store.paths import claim_of, digest
from jupyter_session_store.sql.models import Session

from .ported import SCOPE, PortedSessionManager, values_of
from .worker import Worker

T = TypeVar("T")


def naive_engine(url: str) -> Engine:
    """Return an engine with the settings that every tutorial recommends."""
    engine = create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _set_pragmas(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def in_scope() -> Select[Any]:
    """Return the query of the sessions that are measured."""
    return (
        select(Session)
        .where(Session.namespace == SCOPE.namespace, Session.authority == SCOPE.authority)
        .order_by(Session.created_at, Session.session_id)
    )


class NaiveSessionManager(PortedSessionManager):
    """The naive port."""

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._engine = naive_engine(url)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        self.worker = Worker()

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._engine.dispose()

    async def _run(self, work: Callable[[ORMSession], T]) -> T:
        def job() -> T:
            with self._sessions.begin() as session:
                return work(session)

        assert self.worker is not None
        return await self.worker.run(job)

    def _model(self, row: Session) -> dict[str, Any]:
        assert row.kernel_id is not None
        return self.rest_model(row.session_id, row.path, row.name, row.type, row.kernel_id)

    async def session_exists(self, path: str) -> bool:
        """Say whether a session is on the path."""
        query = in_scope().where(Session.path_digest == digest(path), Session.path == path)
        row = await self._run(lambda session: session.scalars(query).first())
        return row is not None and row.kernel_id in self.kernel_manager

    async def get_session(self, *, session_id: str) -> dict[str, Any]:
        """Return the model of a session."""
        query = in_scope().where(Session.session_id == session_id)
        row = await self._run(lambda session: session.scalars(query).first())
        if row is None:
            raise web.HTTPError(404, f"Session not found: {session_id}")
        return self._model(row)

    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions."""
        rows = await self._run(lambda session: session.scalars(in_scope()).all())
        return [self._model(row) for row in rows if row.kernel_id in self.kernel_manager]

    async def save_session(
        self,
        session_id: str,
        path: str,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str = "",
    ) -> dict[str, Any]:
        """Add a session."""
        kernel = self.kernel_manager.kernel_model(kernel_id)
        row = Session(**values_of(SCOPE, session_id, path, name, type, kernel_id, kernel))
        await self._run(lambda session: session.add(row))
        return self._model(row)

    async def update_session(self, session_id: str, *, path: str, name: str) -> None:
        """Move a session to another path."""

        def rename(session: ORMSession) -> Session:
            row: Session = session.scalars(in_scope().where(Session.session_id == session_id)).one()
            row.path = path
            row.path_digest = digest(path)
            row.name = name
            row.claim = claim_of(SCOPE, path)
            row.updated_at = datetime.now(timezone.utc)
            return row

        row = await self._run(rename)
        self.tell_kernel(row.kernel_id, path, name)

    async def delete_session(self, session_id: str) -> None:
        """Shut the kernel down if nobody else uses it, and remove the session."""

        def begin(session: ORMSession) -> tuple[Session, bool]:
            row: Session = session.scalars(in_scope().where(Session.session_id == session_id)).one()
            others = in_scope().where(
                Session.kernel_id == row.kernel_id,
                Session.session_id != session_id,
                Session.state != "closing",
            )
            row.state = "closing"
            return row, session.scalars(others).first() is None

        row, last = await self._run(begin)
        if last:
            await self.kernel_manager.shutdown_kernel(row.kernel_id)
        await self._run(
            lambda session: session.execute(
                delete(Session).where(
                    Session.namespace == SCOPE.namespace,
                    Session.session_id == session_id,
                    Session.kernel_id == row.kernel_id,
                )
            )
        )
