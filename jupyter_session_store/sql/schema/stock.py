"""The table that the stock manager keeps in a SQLite file, and taking it over, once."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from ...errors import InvalidValue
from ...paths import claim_of
from ...records import READY, Scope, SessionRecord, check_text
from ..engine.transactions import transaction
from ..queries.rows import to_row
from ..tables import META, SESSIONS
from . import versions

TABLE: Final = "session"
#: Rows that are read at once.
BATCH: Final = 1000

_COLUMNS: Final = ("session_id", "path", "name", "type", "kernel_id")
#: A text that is no UTF-8 becomes one that no database takes, where it would fail the query.
_TEXT: Final[Callable[[bytes], str]] = partial(str, encoding="utf-8", errors="surrogateescape")


def is_stock_table(raw: sqlite3.Connection) -> bool:
    """Return whether a SQLite file has the table of the stock manager."""
    kind = raw.execute("SELECT type FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
    if kind != ("table",):
        return False
    # Its columns have neither types nor keys: what has is another program's.
    columns = raw.execute(f"PRAGMA table_info({TABLE})").fetchall()
    plain = all(not kind and not key for _, _, kind, _, _, key in columns)
    return plain and [name for _, name, *_ in columns] == list(_COLUMNS)


def sessions(
    raw: sqlite3.Connection, scope: Scope, server_id: str | None
) -> Iterator[list[SessionRecord | None]]:
    """Yield what the stock table holds, some rows at a time, in its order.

    The table (five untyped columns, without a key) is only read. A row without
    a session id or a kernel id, or with a value that cannot be stored, is no
    session, and comes as ``None``. Those of one id all come, of which the stock
    manager reads the first. Each is created a microsecond after the one before.
    """
    now = datetime.now(timezone.utc)
    step = timedelta(microseconds=1)
    for rows in _pages(raw):
        found: list[SessionRecord | None] = []
        for _, *values in rows:
            record = None
            if _is_session(values):
                session_id, path, name, kind, kernel_id = values
                record = SessionRecord(
                    namespace=scope.namespace,
                    authority=scope.authority,
                    session_id=session_id,
                    path=path,
                    name=name,
                    type=kind,
                    kernel_id=kernel_id,
                    kernel_name=None,
                    kernel_model=None,
                    server_id=server_id,
                    state=READY,
                    claim=claim_of(scope, path),
                    created_at=now,
                    updated_at=now,
                )
                now += step
            found.append(record)
        yield found


def _pages(raw: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    columns = f"SELECT rowid, {', '.join(_COLUMNS)} FROM {TABLE}"
    end = f"ORDER BY rowid LIMIT {BATCH}"
    rows = _fetch(raw, f"{columns} {end}")
    while rows:
        yield rows
        rows = _fetch(raw, f"{columns} WHERE rowid > ? {end}", rows[-1][0])


def _fetch(raw: sqlite3.Connection, statement: str, *values: int) -> list[tuple[Any, ...]]:
    usual = raw.text_factory
    raw.text_factory = _TEXT
    try:
        return raw.execute(statement, values).fetchall()
    finally:
        raw.text_factory = usual


def _is_session(values: list[Any]) -> bool:
    if not values[0] or not values[-1]:
        return False
    try:
        for field, value in zip(_COLUMNS, values, strict=True):
            check_text(field, value)
    except InvalidValue:
        return False
    return True


def adopt(connection: Connection, scope: Scope, server_id: str, log: logging.Logger) -> None:
    """Copy the stock manager's sessions into a scope, if that was not done before.

    The stock table stays as it is, so that going back works. What is no session
    (see :func:`sessions`) is counted and left out. Of rows with one session id
    the first comes in, as the stock manager reads it.
    """
    raw: Any = connection.connection.dbapi_connection
    try:
        if not is_stock_table(raw):
            return
        with transaction(connection):
            done = connection.execute(
                text("SELECT 1 FROM jupyter_session_store_meta WHERE name = :name"),
                {"name": versions.STOCK_ADOPTED},
            ).first()
            if done is None:
                _take_over(connection, raw, scope, server_id, log)
    except sqlite3.Error as error:
        log.warning("The table %r of the stock manager cannot be read; it is left alone.", TABLE)
        raise DBAPIError(None, None, error) from error


def _take_over(
    connection: Connection,
    raw: sqlite3.Connection,
    scope: Scope,
    server_id: str,
    log: logging.Logger,
) -> None:
    ids = set(_existing(connection, scope, "session_id"))
    claims = set(_existing(connection, scope, "claim"))
    taken = left_out = 0
    for found in sessions(raw, scope, server_id):
        records: list[SessionRecord] = []
        for record in found:
            if record is None or record.session_id in ids:
                left_out += 1
                continue
            ids.add(record.session_id)
            # The first session of a path holds it.
            records.append(record.replace(claim=None) if record.claim in claims else record)
            if record.claim is not None:
                claims.add(record.claim)
        if records:
            connection.execute(insert(SESSIONS), [to_row(record) for record in records])
        taken += len(records)
    now = datetime.now(timezone.utc).isoformat()
    connection.execute(insert(META).values(name=versions.STOCK_ADOPTED, value=now))
    log.info(
        "Took over %d sessions of Jupyter Server's own session manager; left out %d rows that "
        "are no sessions (without an id or a kernel, doubled, or not text). Its table stays.",
        taken,
        left_out,
    )


def _existing(connection: Connection, scope: Scope, column: str) -> list[str]:
    statement = text(f"SELECT {column} FROM jupyter_sessions WHERE namespace = :namespace")
    return list(connection.execute(statement, {"namespace": scope.namespace}).scalars())
