"""A statement that is compiled once keeps no engine alive, and refuses what cannot be stored."""

from __future__ import annotations

import gc
import weakref
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.exc import StatementError

from jupyter_session_store.sql.queries.rows import COLUMNS, to_record, to_row
from jupyter_session_store.sql.queries.session_queries import add
from jupyter_session_store.sql.tables import METADATA, SESSIONS
from jupyter_session_store.testing import record


def test_an_engine_is_freed_with_its_dialect() -> None:
    dialects = []
    for _ in range(3):
        engine = create_engine("sqlite://")
        METADATA.create_all(engine)
        with engine.begin() as connection:
            stored = record("a")
            add(connection, stored)
            assert to_record(connection.execute(select(*COLUMNS)).one()) == stored
        dialects.append(weakref.ref(engine.dialect))
        engine.dispose()
        del engine, connection
    gc.collect()
    assert [reference() for reference in dialects] == [None] * 3


@pytest.mark.parametrize(
    "value", [datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "yesterday"]
)
def test_a_value_that_cannot_be_stored_is_an_error_of_sqlalchemy(value: Any) -> None:
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    refused = record("a")._replace(created_at=value)
    with engine.begin() as connection:
        with pytest.raises(StatementError, match="created_at cannot be stored"):
            add(connection, refused)
        with pytest.raises(StatementError):
            connection.execute(SESSIONS.insert(), to_row(refused))
    engine.dispose()
