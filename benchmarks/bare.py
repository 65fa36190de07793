"""The bare driver: what the same statements cost with nothing above them.

As many statements as the package needs, over the same thread hop, and the
same columns turned into the same models.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import make_url
from tornado import web

from jupyter_session_store.paths import claim_of, digest

from .ported import SCOPE, PortedSessionManager, values_of
from .worker import Worker

COLUMNS = (
    "namespace, session_id, path, name, type, kernel_id, kernel_name, kernel_model, "
    "authority, server_id, state, claim, created_at, updated_at"
)
SELECT = f"SELECT {COLUMNS} FROM jupyter_sessions WHERE namespace = ? AND authority = ?"
ORDER = " ORDER BY created_at, session_id"
KEY = "namespace = ? AND authority = ? AND session_id = ?"
INSERT = (
    "INSERT INTO jupyter_sessions (namespace, session_id, path, path_digest, name, type, "
    "kernel_id, kernel_name, kernel_model, authority, server_id, state, claim, created_at, "
    f"updated_at) VALUES ({', '.join('?' * 15)})"
)
RENAME = (
    "UPDATE jupyter_sessions SET path = ?, path_digest = ?, name = ?, updated_at = ?, "
    f"claim = ? WHERE {KEY}"
)
BEGIN_CLOSE = (
    "UPDATE jupyter_sessions SET state = 'closing', updated_at = ? "
    f"WHERE {KEY} RETURNING {COLUMNS}, NOT EXISTS (SELECT 1 FROM jupyter_sessions AS other "
    "WHERE other.namespace = jupyter_sessions.namespace "
    "AND other.authority = jupyter_sessions.authority "
    "AND other.kernel_id = jupyter_sessions.kernel_id "
    "AND other.session_id <> jupyter_sessions.session_id AND other.state <> 'closing')"
)
MYSQL_COUNT = (
    f"SELECT {', '.join('mine.' + column for column in COLUMNS.split(', '))}, "
    "NOT EXISTS (SELECT 1 FROM jupyter_sessions AS other "
    "WHERE other.namespace = mine.namespace AND other.authority = mine.authority "
    "AND other.kernel_id = mine.kernel_id "
    "AND other.session_id <> mine.session_id AND other.state <> 'closing') "
    "FROM jupyter_sessions AS mine "
    "WHERE mine.namespace = ? AND mine.authority = ? AND mine.session_id = ?"
)
CLOSE = f"UPDATE jupyter_sessions SET state = 'closing', updated_at = ? WHERE {KEY}"
REMOVE = "DELETE FROM jupyter_sessions WHERE namespace = ? AND session_id = ? AND kernel_id = ?"

Row = Sequence[Any]
Execute = Callable[[str, Sequence[Any]], Sequence[Row]]


def connect_sqlite(url: str) -> tuple[Execute, Callable[[], None]]:
    """Return a function that executes a statement, and one that disconnects."""
    connection = sqlite3.connect(
        str(make_url(url).database), isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")

    def execute(statement: str, values: Sequence[Any]) -> Sequence[Row]:
        return connection.execute(
            statement,
            [
                value.replace(tzinfo=None).isoformat(" ", "microseconds")
                if isinstance(value, datetime)
                else value
                for value in values
            ],
        ).fetchall()

    return execute, connection.close


def connect_postgresql(url: str) -> tuple[Execute, Callable[[], None]]:
    """Return a function that executes a statement, and one that disconnects."""
    import psycopg

    connection = psycopg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False),
        autocommit=True,
        prepare_threshold=None,
    )

    def execute(statement: str, values: Sequence[Any]) -> Sequence[Row]:
        cursor = connection.execute(statement.replace("?", "%s").encode(), values)
        return cursor.fetchall() if cursor.description else ()

    return execute, connection.close


def connect_mysql(url: str) -> tuple[Execute, Callable[[], None]]:
    """Return a function that executes a statement, and one that disconnects."""
    import pymysql

    where = make_url(url)
    connection = pymysql.connect(
        host=where.host or "127.0.0.1",
        port=where.port or 3306,
        user=where.username,
        password=str(where.password or ""),
        database=where.database,
        charset="utf8mb4",
        autocommit=True,
    )

    def execute(statement: str, values: Sequence[Any]) -> Sequence[Row]:
        with connection.cursor() as cursor:
            cursor.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall()

    return execute, connection.close


CONNECT = {"sqlite": connect_sqlite, "postgresql": connect_postgresql, "mysql": connect_mysql}


class BareSessionManager(PortedSessionManager):
    """The bare driver, in the shape of a session manager."""

    def __init__(self, database: str, url: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._execute, self._disconnect = CONNECT[database](url)
        self._returning = database != "mysql"
        self._kernel_ids: dict[str, str] = {}
        self.worker = Worker()

    def close(self) -> None:
        """Disconnect."""
        if self.worker is not None:
            super().close()
            self._disconnect()

    async def _run(self, statement: str, *values: Any) -> Sequence[Row]:
        assert self.worker is not None
        return await self.worker.run(lambda: self._execute(statement, values))

    def _model(self, row: Row) -> dict[str, Any]:
        return self.rest_model(row[1], row[2], row[3], row[4], row[5])

    async def session_exists(self, path: str) -> bool:
        """Say whether a session is on the path: one statement."""
        rows = await self._run(
            SELECT + " AND path_digest = ? AND path = ?" + ORDER,
            SCOPE.namespace,
            SCOPE.authority,
            digest(path),
            path,
        )
        return any(row[5] in self.kernel_manager for row in rows)

    async def get_session(self, *, session_id: str) -> dict[str, Any]:
        """Return the model of a session: one statement."""
        rows = await self._run(
            SELECT + " AND session_id = ?" + ORDER, SCOPE.namespace, SCOPE.authority, session_id
        )
        if not rows:
            raise web.HTTPError(404, f"Session not found: {session_id}")
        return self._model(rows[0])

    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return the models of all sessions: one statement."""
        rows = await self._run(SELECT + ORDER, SCOPE.namespace, SCOPE.authority)
        return [self._model(row) for row in rows if row[5] in self.kernel_manager]

    async def save_session(
        self,
        session_id: str,
        path: str,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str = "",
    ) -> dict[str, Any]:
        """Add a session: one statement."""
        kernel = self.kernel_manager.kernel_model(kernel_id)
        values = values_of(SCOPE, session_id, path, name, type, kernel_id, kernel)
        await self._run(INSERT, *values.values())
        self._kernel_ids[session_id] = kernel_id
        return self.rest_model(session_id, path, name, type, kernel_id)

    async def update_session(self, session_id: str, *, path: str, name: str) -> None:
        """Move a session to another path: one statement, whose row memory knows."""
        await self._run(
            RENAME,
            path,
            digest(path),
            name,
            datetime.now(timezone.utc),
            claim_of(SCOPE, path),
            SCOPE.namespace,
            SCOPE.authority,
            session_id,
        )
        self.tell_kernel(self._kernel_ids[session_id], path, name)

    async def delete_session(self, session_id: str) -> None:
        """Remove a session: two statements, three where RETURNING is missing."""
        key = (SCOPE.namespace, SCOPE.authority, session_id)
        now = datetime.now(timezone.utc)
        if self._returning:
            (row,) = await self._run(BEGIN_CLOSE, now, *key)
        else:
            assert self.worker is not None

            def job() -> Sequence[Row]:
                rows = self._execute(MYSQL_COUNT, key)
                self._execute(CLOSE, (now, *key))
                return rows

            (row,) = await self.worker.run(job)
        del self._kernel_ids[session_id]
        if row[-1]:
            await self.kernel_manager.shutdown_kernel(row[5])
        await self._run(REMOVE, SCOPE.namespace, session_id, row[5])
