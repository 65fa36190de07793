"""What copy and import cost beside a plain loop that reads the same rows and inserts them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert

from jupyter_session_store.paths import claim_of, digest
from jupyter_session_store.records import READY, Scope, SessionRecord
from jupyter_session_store.sql.admin import admin_connection, copying, importing
from jupyter_session_store.sql.admin.bulk_insert import NAMES
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.transactions import transaction
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating, stock
from jupyter_session_store.testing import record

from .databases import Databases, Place
from .peers import BARE, OURS
from .results import Results

ROWS: Final = 100_000
_EACH: Final = 100
_BATCH: Final = 1000
_ROUNDS: Final = 3
_SCOPE: Final = Scope("hub:alice/", "gateway:https://gateway.example.org:443")
_READ: Final = f"SELECT session_id, path, name, type, kernel_id FROM {stock.TABLE}"


def run_transfer(databases: Databases, results: Results, *, quick: bool) -> None:
    """Measure both, in turn, from SQLite to each database and back, and from a stock file."""
    rows = ROWS // 10 if quick else ROWS
    file = databases.place("sqlite")
    with _opened(file) as connection:
        _fill(connection, rows)
    stock_file = databases.directory / "stock.db"
    _fill_stock(stock_file, rows)
    for name in databases.names:
        results.say(f"transfer: {rows:,} sessions to and from {name}")
        full = databases.place(name)
        with _opened(full) as connection:
            _fill(connection, rows)
        for _ in range(1 if quick else _ROUNDS):
            for measure, source, target in (
                ("from SQLite", file, name),
                ("to SQLite", full, "sqlite"),
            ):
                for kind, run in ((OURS, _copy), (BARE, _plain)):
                    taken = _timed(run, source, databases.place(target))
                    results.add("transfer", kind, name, f"copy {measure}", [taken], rows)
            for kind, take in ((OURS, _import), (BARE, _plain_import)):
                with _opened(databases.place(name)) as connection:
                    began = time.perf_counter()
                    take(stock_file, connection)
                    taken = (time.perf_counter() - began) * 1e6
                results.add("transfer", kind, name, "import", [taken], rows)


@contextmanager
def _opened(place: Place) -> Iterator[Connection]:
    """Yield a connection to a place with its tables."""
    engine = engines.create(place.text)
    try:
        migrating.upgrade(engine)
        with admin_connection.connected(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _timed(run: Callable[[Connection, Connection], None], source: Place, target: Place) -> float:
    with _opened(source) as reader, _opened(target) as writer:
        began = time.perf_counter()
        run(reader, writer)
        return (time.perf_counter() - began) * 1e6


def _copy(source: Connection, target: Connection) -> None:
    copying.copy(source, target, advance=_ignore, tell=_ignore)


def _import(file: Path, target: Connection) -> None:
    with importing.open_file(file) as raw:
        importing.take_over(raw, target, _SCOPE, advance=_ignore, tell=_ignore)


def _ignore(_: object) -> None:
    """Show nobody how far it is."""


def _plain(source: Connection, target: Connection) -> None:
    """Do what somebody writes who has a source that fits, and an empty target."""
    cursor = _raw(source).cursor()
    cursor.execute(f"SELECT {', '.join(NAMES)} FROM jupyter_sessions")
    date = _date(source.dialect.name, target.dialect.name)
    created, updated = NAMES.index("created_at"), NAMES.index("updated_at")

    def rows() -> Iterator[tuple[Any, ...]]:
        while found := cursor.fetchmany(_BATCH):
            for row in found:
                yield (
                    (*row[:created], date(row[created]), date(row[updated]), *row[updated + 1 :])
                    if date
                    else tuple(row)
                )

    _execute_many(target, rows())


def _date(source: str, target: str) -> Callable[[Any], Any] | None:
    """Return what makes of the source's date one that the target takes, if it does not."""
    if target in (source, "postgresql"):
        return None
    # SQLite's is a text that ends with +00:00.
    return str if target == "sqlite" else itemgetter(slice(-6))


def _plain_import(file: Path, target: Connection) -> None:
    now = datetime.now(timezone.utc)
    moment = now.replace(tzinfo=None).isoformat(" ") if target.dialect.name == "sqlite" else now

    def rows() -> Iterator[tuple[Any, ...]]:
        with closing(sqlite3.connect(file)) as raw:
            for session_id, path, name, kind, kernel_id in raw.execute(_READ):
                yield (
                    *(_SCOPE.namespace, session_id, path, digest(path), name, kind, kernel_id),
                    *(None, None, _SCOPE.authority, None, READY, claim_of(_SCOPE, path)),
                    *(moment, moment, 1),
                )

    _execute_many(target, rows())


def _execute_many(target: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    mark = "?" if target.dialect.name == "sqlite" else "%s"
    statement = (
        f"INSERT INTO jupyter_sessions ({', '.join(NAMES)}) "
        f"VALUES ({', '.join([mark] * len(NAMES))})"
    )
    raw = _raw(target)
    cursor = raw.cursor()
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        cursor.execute("BEGIN")
        cursor.executemany(statement, batch)
        cursor.execute("COMMIT")


def _raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def _fill(connection: Connection, rows: int) -> None:
    began = datetime(2026, 11, 25, tzinfo=timezone.utc)

    def sessions() -> Iterator[SessionRecord]:
        for number in range(rows):
            made = began + timedelta(seconds=number)
            # Every second one was changed later.
            changed = made + timedelta(hours=number % 2)
            one = record(_id(number), created_at=made, updated_at=changed)
            yield one.replace(namespace=f"user-{number // _EACH:06}")

    remaining = map(to_row, sessions())
    while batch := list(islice(remaining, _BATCH)):
        with transaction(connection):
            connection.execute(insert(Session), batch)


def _fill_stock(file: Path, rows: int) -> None:
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute(f"CREATE TABLE {stock.TABLE} (session_id, path, name, type, kernel_id)")
        raw.executemany(
            f"INSERT INTO {stock.TABLE} VALUES (?, ?, ?, ?, ?)",
            ((_id(n), f"{n}.ipynb", "", "notebook", f"kernel-{n}") for n in range(rows)),
        )


def _id(number: int) -> str:
    return f"session-{number:08}"
