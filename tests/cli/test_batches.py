"""What prune removes at once: no more than any database takes in a statement."""

from __future__ import annotations

import sqlite3
import sys
from datetime import datetime, timezone
from typing import Any, Final

import pytest
from sqlalchemy import event

from jupyter_session_store.sql.admin import listing, pruning

from ..databases import Database
from ..migrations.support import engine_of
from .cleaning_support import aged, local, numbers
from .support import fill

#: Of each namespace, so that a statement names both many sessions and many namespaces.
_EACH: Final = 7


def test_no_statement_has_too_many_parameters(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite before 3.32 takes 999."""
    monkeypatch.setattr(pruning, "_HOLD", 1e9)
    count = 2500
    fill(
        database.url,
        (local(f"user-{n // _EACH:04}", n, "gone", **aged()) for n in range(count)),
    )
    criteria = listing.Criteria(unchanged_since=datetime.now(timezone.utc), state="ready")
    selection = pruning.Selection(criteria, dead_servers=True, living=[], vacated=True)
    parameters: list[int] = []

    def note(_connection: Any, _cursor: Any, _statement: str, values: Any, *_: Any) -> None:
        parameters.append(len(values))

    with engine_of(database.url) as engine, engine.connect() as connection:
        if database.kind == "sqlite" and sys.version_info >= (3, 11):
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        event.listen(engine, "before_cursor_execute", note)
        *_, removed = pruning.remove(connection, selection)
    assert removed == (count, -(-count // _EACH))
    assert numbers(database) == []
    assert 700 < max(parameters) <= 800
