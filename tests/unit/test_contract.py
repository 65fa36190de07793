"""Each repository passes the conformance suite, on each database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import PersistentRepositoryContract, RepositoryContract
from tests.databases.database import Database

MakeRepository = Callable[[], SessionRepository]
SETTINGS: dict[str, Any] = {
    "options": {},
    "auto_upgrade": "safe",
    "log": logging.getLogger("tests"),
}


class TestMemory(RepositoryContract):
    @pytest.fixture
    def make_repository(self) -> MakeRepository:
        return lambda: MemorySessionRepository(":memory:", **SETTINGS)


class TestSQLAlchemy(PersistentRepositoryContract):
    @pytest.fixture
    def make_repository(self, database: Database) -> MakeRepository:
        return lambda: SQLAlchemySessionRepository(database.url, **SETTINGS)


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
