"""Each repository passes the conformance suite, on each database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sql import repository
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import PersistentRepositoryContract, RepositoryContract
from jupyter_session_store.testing.outages import Unreachable
from tests.databases.database import Database
from tests.system.faults import Outage

MakeRepository = Callable[[], SessionRepository]
SETTINGS: dict[str, Any] = {
    "options": {},
    "auto_upgrade": "safe",
    "log": logging.getLogger("tests"),
}


@contextmanager
def briefly(unreachable: Unreachable) -> Iterator[None]:
    """Have nobody wait long for the lock of a SQLite file, which one takes after the other.

    Only while the store is away: a busy machine may need longer for an answer that comes.
    """
    with pytest.MonkeyPatch.context() as patch, unreachable():
        patch.setattr(timeouts, "BUSY_TIMEOUT", 0.2)
        patch.setattr(timeouts, "STATEMENT_TIMEOUT", 1)
        patch.setattr(repository, "REQUEST_TIMEOUT", 2)
        yield


class TestMemory(RepositoryContract):
    @pytest.fixture
    def make_repository(self) -> MakeRepository:
        return lambda: MemorySessionRepository(":memory:", **SETTINGS)


class TestSQLAlchemy(PersistentRepositoryContract):
    @pytest.fixture
    def outage(self, database: Database) -> Iterator[Outage]:
        with Outage(database) as outage:
            yield outage

    @pytest.fixture
    def make_repository(self, outage: Outage) -> MakeRepository:
        return lambda: SQLAlchemySessionRepository(outage.url, **SETTINGS)

    @pytest.fixture
    def unreachable(self, outage: Outage) -> Unreachable:
        return partial(briefly, outage.running)


class TestSQLAlchemyInMemory(RepositoryContract):
    @pytest.fixture
    def make_repository(self) -> MakeRepository:
        return lambda: SQLAlchemySessionRepository(":memory:", **SETTINGS)


class TestSQLiteWithoutReturning(PersistentRepositoryContract):
    """SQLite before 3.35, which enterprise distributions still ship."""

    @pytest.fixture
    def make_repository(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> MakeRepository:
        from sqlalchemy.dialects.sqlite.base import SQLiteDialect

        initialize = SQLiteDialect.__init__

        def without_returning(dialect: Any, *args: Any, **kwargs: Any) -> None:
            initialize(dialect, *args, **kwargs)
            dialect.update_returning = False

        monkeypatch.setattr(SQLiteDialect, "__init__", without_returning)
        return lambda: SQLAlchemySessionRepository(str(tmp_path / "old.db"), **SETTINGS)

    @pytest.fixture
    def unreachable(self, tmp_path: Any) -> Unreachable:
        outage = Outage(Database("sqlite", f"sqlite:///{tmp_path}/old.db"))
        return partial(briefly, outage.running)
