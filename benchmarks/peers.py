"""The peers: each opens a manager over a table of a known size."""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server.services.sessions.sessionmanager import SessionManager
from sqlalchemy import create_engine, insert
from sqlalchemy.pool import NullPool

from jupyter_session_store import PersistentSessionManager
from jupyter_session_store.records import Scope
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.tables import METADATA

from .bare import BareSessionManager
from .databases import Place
from .kernels import DummyKernelManager
from .naive import NaiveSessionManager
from .ported import SCOPE, values_of

#: As many sessions as each namespace of a filled table has.
NAMESPACE_ROWS: Final = 100

STOCK: Final = "stock"
OURS: Final = "ours"
NAIVE: Final = "naive"
BARE: Final = "bare"


@dataclass(frozen=True)
class Peer:
    """Something to compare.

    Parameters
    ----------
    kind : str
        ``stock``, ``ours``, ``naive`` or ``bare``.
    database : str
        ``sqlite``, ``postgresql`` or ``mysql``.
    """

    kind: str
    database: str

    def open(self, place: Place) -> Bench:
        """Open a manager over an empty database."""
        kernels = DummyKernelManager()
        contents = AsyncLargeFileManager(root_dir="/")
        shared: dict[str, Any] = {"kernel_manager": kernels, "contents_manager": contents}
        manager: Any
        if self.kind == STOCK:
            stock: Any = SessionManager
            manager = stock(database_filepath=place.text, **shared)
        elif self.kind == OURS:
            manager = PersistentSessionManager(
                database_filepath=place.text, namespace=SCOPE.namespace, **shared
            )
        else:
            engine = create_engine(place.url, poolclass=NullPool)
            METADATA.create_all(engine)
            if self.kind == NAIVE:
                manager = NaiveSessionManager(place.url, **shared)
            else:
                manager = BareSessionManager(self.database, place.url, **shared)
        return Bench(self, place, manager, kernels)


def peers(databases: tuple[str, ...]) -> list[Peer]:
    """Return every peer on `databases`; the stock manager has but SQLite."""
    stock = [Peer(STOCK, "sqlite")] if "sqlite" in databases else []
    return stock + [Peer(kind, name) for name in databases for kind in (OURS, NAIVE, BARE)]


@dataclass
class Bench:
    """A manager over a table that can grow."""

    peer: Peer
    place: Place
    manager: Any
    kernels: DummyKernelManager
    #: Identifier and path of each session that the manager lists.
    sessions: list[tuple[str, str]] = field(default_factory=list)
    #: Rows in the table, of all namespaces.
    rows: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    async def fill(self, rows: int, *, own: int) -> None:
        """Let the table grow to `rows`, `own` of which are in the manager's namespace.

        The others lie in namespaces of :data:`NAMESPACE_ROWS`. The stock
        manager knows no namespaces: all are its own.
        """
        mine = own - len(self.sessions)
        others = rows - self.rows - mine
        if self.peer.kind == STOCK:
            self._fill_stock(mine + others)
        else:
            await self._fill(mine, others)
        self.rows = rows

    def close(self) -> None:
        """Close the manager."""
        self.manager.close()

    def pick(self) -> tuple[str, str]:
        """Return the identifier and path of any session."""
        return self._random.choice(self.sessions)

    def _new(self, count: int) -> Iterator[tuple[str, str, str, str]]:
        for _ in range(count):
            session_id, kernel_id = (
                str(uuid.UUID(int=self._random.getrandbits(128), version=4)) for _ in range(2)
            )
            name = f"notebook-{session_id[:13]}.ipynb"
            yield session_id, f"work/analysis/{name}", name, kernel_id

    def _fill_stock(self, count: int) -> None:
        self.manager.cursor  # noqa: B018  # creates the table
        new = list(self._new(count))
        connection = sqlite3.connect(self.place.text)
        with connection:
            connection.executemany(
                "INSERT INTO session VALUES (?, ?, ?, 'notebook', ?)",
                [(session_id, path, name, kernel) for session_id, path, name, kernel in new],
            )
        connection.close()
        self.kernels.register(kernel for *_, kernel in new)
        self.sessions += [(session_id, path) for session_id, path, _, _ in new]

    async def _fill(self, mine: int, others: int) -> None:
        scope, server_id = SCOPE, SCOPE.authority
        engine = create_engine(self.place.url, poolclass=NullPool)
        new = list(self._new(mine))
        self.kernels.register(kernel for *_, kernel in new)
        self.sessions += [(session_id, path) for session_id, path, _, _ in new]
        rows = [(scope, *session) for session in new]
        if self.peer.kind == OURS:
            # The truth about sessions on a server's own kernels is in its memory.
            for session_id, path, name, kernel_id in new:
                await self.manager.save_session(
                    session_id, path=path, name=name, type="notebook", kernel_id=kernel_id
                )
            rows = []
        first = (self.rows - len(self.sessions) + mine) // NAMESPACE_ROWS
        for index, session in enumerate(self._new(others)):
            namespace = f"tenant-{first + index // NAMESPACE_ROWS}"
            rows.append((Scope(namespace, scope.authority), *session))
        model = {
            "id": "",
            "name": "python3",
            "last_activity": "2025-01-01T00:00:00.000000Z",
            "execution_state": "idle",
            "connections": 1,
        }
        with engine.begin() as connection:
            for start in range(0, len(rows), 5000):
                connection.execute(
                    insert(Session),
                    [
                        values_of(
                            row_scope,
                            session_id,
                            path,
                            name,
                            "notebook",
                            kernel_id,
                            {**model, "id": kernel_id},
                            server_id,
                        )
                        for row_scope, session_id, path, name, kernel_id in rows[
                            start : start + 5000
                        ]
                    ],
                )
        if others and self.peer.database != "sqlite":
            # What a server's own housekeeping would do within a minute.
            analyze = "ANALYZE jupyter_sessions"
            if self.peer.database == "mysql":
                analyze = "ANALYZE TABLE jupyter_sessions"
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(analyze)
