"""A schema that is contracted under a running server: it says so, and changes nothing."""

from __future__ import annotations

import logging

import pytest

from jupyter_session_store.errors import SchemaMismatch, StoreUnavailable
from jupyter_session_store.sql.schema import versions

from ..databases import Database
from .support import SCOPE, opened, record

LOGGER = "tests.migrations.support"
TOLD = (
    f"needs code of generation 2 or later; this code is of generation {versions.CODE}. "
    "Run: pip install --upgrade jupyter_session_store"
)


def take_away(database: Database) -> None:
    database.execute("ALTER TABLE jupyter_sessions DROP COLUMN kernel_model")


def put_back(database: Database) -> None:
    database.execute("ALTER TABLE jupyter_sessions ADD COLUMN kernel_model TEXT")


def set_floor(database: Database, value: int) -> None:
    database.execute(
        f"UPDATE jupyter_session_store_meta SET value = '{value}'"
        " WHERE name = 'oldest_compatible_code'"
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == LOGGER]


async def test_the_reason_is_told_by_the_first_answer_and_once_in_the_log(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    with opened(database.url) as repository:
        await repository.add(record("a"))
        before = database.rows("SELECT session_id, path, state FROM jupyter_sessions")
        caplog.clear()
        # In the order in which a revision does it.
        set_floor(database, 2)
        take_away(database)
        for _ in range(2):
            with pytest.raises(SchemaMismatch, match="needs code of generation 2"):
                await repository.find(SCOPE)
            with pytest.raises(SchemaMismatch, match="needs code of generation 2"):
                await repository.add(record("b"))
        [told] = lines(caplog)
        assert told.startswith("The database (")
        assert TOLD in told
        assert database.rows("SELECT session_id, path, state FROM jupyter_sessions") == before
        # Whoever undoes it has the server back.
        put_back(database)
        set_floor(database, 1)
        assert [one.session_id for one in await repository.find(SCOPE)] == ["a"]
        assert "is back after" in lines(caplog)[-1]


async def test_a_reason_that_comes_later_is_told_too(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """On MySQL and MariaDB others see a revision half done."""
    caplog.set_level(logging.INFO, LOGGER)
    with opened(database.url) as repository:
        await repository.add(record("a"))
        caplog.clear()
        take_away(database)
        with pytest.raises(StoreUnavailable, match="kernel_model"):
            await repository.find(SCOPE)
        set_floor(database, 2)
        for _ in range(2):
            with pytest.raises(SchemaMismatch):
                await repository.find(SCOPE)
        first, second = lines(caplog)
        assert "kernel_model" in first
        assert TOLD in second


async def test_a_floor_above_the_code_is_refused_at_any_revision(database: Database) -> None:
    """Where a contracting revision was begun and has not ended yet."""
    with opened(database.url):
        set_floor(database, 2)
    with pytest.raises(SchemaMismatch, match="needs code of generation 2"), opened(database.url):
        pass
