"""A database as the migrations find it, and as they leave it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from jupyter_session_store.sql.schema import migrating

from ..databases import Database
from .support import engine_of


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """The engine of an empty database."""
    with engine_of(database.url) as engine:
        yield engine


@pytest.fixture
def at_head(engine: Engine) -> Engine:
    """The engine of a database at the newest revision."""
    migrating.upgrade(engine)
    return engine
