"""Taking over the sessions that the stock manager left in a SQLite file, once."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from ..errors import InvalidValue
from ..records import READY, Scope, SessionRecord, claim_of
from . import schema
from .models import Meta, Session
from .rows import to_row
from .transactions import begin_immediate, ending

TABLE: Final = "session"
_COLUMNS: Final = ("session_id", "path", "name", "type", "kernel_id")


def adopt(connection: Connection, scope: Scope, server_id: str, log: logging.Logger) -> None:
    """Copy the stock manager's sessions into a scope, if that was not done before.

    The stock table (five untyped columns, without a key) stays as it is, so
    that going back works. A row without a session id or a kernel id, or with a
    value that cannot be stored, is no session: it is counted and left out. Of
    rows with one session id the first comes in, as the stock manager reads it.

    Parameters
    ----------
    connection : Connection
        To a SQLite file at the newest revision.
    scope : Scope
    server_id : str
    log : logging.Logger
        Where it is said what was taken over, and what was left out.
    """
    if not _is_stock_table(connection):
        return
    begin_immediate(connection)
    with ending(connection):
        done = connection.execute(
            text("SELECT 1 FROM jupyter_session_store_meta WHERE name = :name"),
            {"name": schema.STOCK_ADOPTED},
        ).first()
        if done is None:
            _copy(connection, scope, server_id, log)


def _is_stock_table(connection: Connection) -> bool:
    kind = connection.execute(
        text("SELECT type FROM sqlite_master WHERE name = :name"), {"name": TABLE}
    ).scalar()
    if kind != "table":
        return False
    # Its columns have neither types nor keys: what has is another program's.
    columns = connection.exec_driver_sql(f"PRAGMA table_info({TABLE})").all()
    plain = all(not column.type and not column.pk for column in columns)
    return plain and [column.name for column in columns] == list(_COLUMNS)


def _copy(connection: Connection, scope: Scope, server_id: str, log: logging.Logger) -> None:
    now = datetime.now(timezone.utc)
    seen_ids = set(_existing(connection, scope, "session_id"))
    claims = set(_existing(connection, scope, "claim"))
    left_out = 0
    records: list[SessionRecord] = []
    for row in _stock_rows(connection, log):
        record = _record(row, scope, server_id, now + timedelta(microseconds=len(records)))
        if record is None or record.session_id in seen_ids:
            left_out += 1
            continue
        seen_ids.add(record.session_id)
        if record.path is not None:
            claim = claim_of(scope, record.path)
            if claim not in claims:
                claims.add(claim)
                record = record.replace(claim=claim)
        records.append(record)
    if records:
        connection.execute(insert(Session), [to_row(record) for record in records])
    connection.execute(insert(Meta).values(name=schema.STOCK_ADOPTED, value=now.isoformat()))
    log.info(
        "Took over %d sessions of Jupyter Server's own session manager; left out %d rows that "
        "are no sessions (without an id or a kernel, doubled, or not text). Its table stays.",
        len(records),
        left_out,
    )


def _existing(connection: Connection, scope: Scope, column: str) -> list[str]:
    statement = text(f"SELECT {column} FROM jupyter_sessions WHERE namespace = :namespace")
    return list(connection.execute(statement, {"namespace": scope.namespace}).scalars())


def _stock_rows(connection: Connection, log: logging.Logger) -> list[tuple[Any, ...]]:
    # Bytes, because a TEXT that is not UTF-8 would fail the whole query; the type says which.
    columns = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in _COLUMNS)
    try:
        rows = connection.exec_driver_sql(f"SELECT {columns} FROM {TABLE} ORDER BY rowid")
        return [tuple(row) for row in rows]
    except DBAPIError:
        log.warning("The table %r of the stock manager cannot be read; it is left alone.", TABLE)
        raise


def _record(
    row: tuple[Any, ...], scope: Scope, server_id: str, created_at: datetime
) -> SessionRecord | None:
    values: dict[str, str | None] = {}
    for position, name in enumerate(_COLUMNS):
        kind, raw = row[2 * position], row[2 * position + 1]
        if kind == "null":
            values[name] = None
        elif kind == "text":
            try:
                values[name] = bytes(raw or b"").decode()
            except UnicodeDecodeError:
                return None
        else:
            return None
    session_id = values.pop("session_id")
    if not session_id or not values["kernel_id"]:
        return None
    record = SessionRecord(
        namespace=scope.namespace,
        authority=scope.authority,
        session_id=session_id,
        path=values["path"],
        name=values["name"],
        type=values["type"],
        kernel_id=values["kernel_id"],
        kernel_name=None,
        kernel_model=None,
        server_id=server_id,
        state=READY,
        claim=None,
        created_at=created_at,
        updated_at=created_at,
    )
    try:
        record.check()
    except InvalidValue:
        return None
    return record
