"""Copying all that a database holds into another one, which may hold some of it already.

The source is only read, a batch at a time. Each batch is a transaction of the
target, so that a copy which was cut off is gone on with by another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any, Final, cast

from sqlalchemy import Connection, Dialect, MetaData, Select, func, insert, select
from sqlalchemy.exc import IntegrityError

from ..engine.backend import backend_of
from ..engine.url import sqlite_file
from ..schema import versions
from ..tables import META, SERVERS, SESSIONS, UTCDateTime, to_utc
from .admin_connection import translate_errors
from .bulk_insert import (
    COLUMNS,
    DATES,
    KEY,
    NAMES,
    Counts,
    Key,
    Row,
    Target,
    count_absent,
    find,
    spans,
)
from .listing import BATCH, pages, servers

#: The sessions of a SQLite file that is read through another's connection.
_ATTACHED: Final = SESSIONS.to_metadata(MetaData(schema="source"))
_TEXTS: Final = frozenset({str, type(None)})
_VERSION: Final = NAMES.index("version")


def is_same(source: Connection, target: Connection) -> bool:
    """Return whether two connections lead to one database, as far as that can be told."""
    files = sqlite_file(source.engine.url), sqlite_file(target.engine.url)
    if any(files):
        return None not in files and os.path.samefile(*cast("tuple[str, str]", files))
    identity = backend_of(source).identity
    if identity is None or identity != backend_of(target).identity:
        return False
    found = [connection.exec_driver_sql(identity).all() for connection in (source, target)]
    return found[0] == found[1]


def count(source: Connection) -> tuple[int, int]:
    """Return how many sessions and servers there are."""
    with translate_errors(source.engine):
        sessions, registered = (
            source.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (SESSIONS, SERVERS)
        )
    return sessions, registered


def copy(
    source: Connection,
    target: Connection,
    *,
    advance: Callable[[int], None],
    tell: Callable[[str], None],
    dry_run: bool = False,
) -> tuple[Counts, Counts]:
    """Copy servers, sessions and what is said of adoption; count the sessions and the servers.

    `advance` is told of so many sessions after each batch, `tell` of the first few that are left
    out. Only errors of the source are translated. What was copied until then stays.
    """
    # Before their sessions: an eviction removes those of unregistered servers.
    copied = _copy_servers(source, target, dry_run)
    adding = Target(target, tell, dry_run=dry_run)
    both_files = all(sqlite_file(connection.engine.url) for connection in (source, target))
    read = _read_attached if both_files and not dry_run else _read
    for size in read(source, target, adding):
        adding.counts.read += size
        advance(size)
    # No other has such a table, and the role of a server may not write that it had.
    if not dry_run and backend_of(target).may_hold_stock_table:
        _copy_adoption(source, target)
    return adding.counts, copied


def _copy_servers(source: Connection, target: Connection, dry_run: bool) -> Counts:
    counts = Counts()
    with translate_errors(source.engine):
        found = servers(source)
    there = {server.key: server for server in servers(target)}
    for server in found:
        counts.read += 1
        known = there.get(server.key)
        if known is None:
            counts.added += 1
            if not dry_run:
                # One that is registered now has been copied at the same time.
                with suppress(IntegrityError):
                    target.execute(insert(SERVERS).values(asdict(server)))
        else:
            counts.there_already += 1
            counts.different += known != server
    return counts


def _copy_adoption(source: Connection, target: Connection) -> None:
    """Let it stay known that a stock table's sessions were taken over, which is done once."""
    adopted = select(META.c.name, META.c.value).where(META.c.name == versions.STOCK_ADOPTED)
    with translate_errors(source.engine):
        found = source.execute(adopted).first()
    if found is not None and target.execute(adopted).first() is None:
        with suppress(IntegrityError):
            target.execute(insert(META).values(name=found.name, value=found.value))


def _pages(
    source: Connection, statement: Select[Any], *, batch: int = BATCH
) -> Iterator[list[Row]]:
    with translate_errors(source.engine):
        yield from pages(source, statement, batch=batch)


def _read(source: Connection, target: Connection, adding: Target) -> Iterator[int]:
    storable = _converter(source.dialect, target.dialect, adding)
    # PostgreSQL, until it has looked at how many rows a new table has, reads all that follow for
    # each page. So a page is large; a transaction of the target, which others wait for, is not.
    for page in _pages(source, select(*COLUMNS), batch=2 * BATCH):
        for start in range(0, len(page), BATCH):
            rows = page[start : start + BATCH]
            adding.add(storable(rows))
            yield len(rows)


def _converter(
    source: Dialect, target: Dialect, adding: Target
) -> Callable[[list[Row]], list[Row]]:
    """Return what makes of the source's rows some that the target's driver takes."""
    is_typed = backend_of(source).is_typed
    if not is_typed and not backend_of(target).is_typed:
        return lambda rows: rows
    bind = partial(UTCDateTime().process_bind_param, dialect=target)

    # Most sessions are never changed after they were made, and many are made at once.
    @lru_cache(maxsize=2)
    def date(value: Any) -> Any:
        return bind(to_utc(value))

    def convert_dates(row: Row) -> Row:
        values = list(row)
        for index in DATES:
            values[index] = date(values[index])
        return tuple(values)

    def convert(rows: list[Row]) -> list[Row]:
        if not is_typed:
            rows = [row for row in rows if _has_types(row, adding)]
        return [convert_dates(row) for row in rows]

    return convert


def _has_types(row: Row, adding: Target) -> bool:
    texts = (*row[:_VERSION], *row[_VERSION + 1 :])
    if type(row[_VERSION]) is int and _TEXTS.issuperset(map(type, texts)):
        return True
    # Other databases would store something else in its place.
    adding.leave_out(row, "it holds a value that is not of its column's type")
    return False


def _read_attached(source: Connection, target: Connection, adding: Target) -> Iterator[int]:
    """Copy from one SQLite file to another inside SQLite, which takes less than half as long."""
    file = str(sqlite_file(source.engine.url))
    target.exec_driver_sql(f"ATTACH DATABASE ? AS {_ATTACHED.schema}", (file,))

    def add(first: Key, last: Key) -> None:
        for span in spans(first, last, _ATTACHED):
            # In the order of the key, for the sake of its index.
            rows = select(_ATTACHED).where(span).order_by(*_ATTACHED.primary_key)
            target.execute(insert(SESSIONS).from_select(NAMES, rows))

    for keys in _pages(source, select(*KEY)):
        if not adding.add_blindly(len(keys), partial(add, keys[0], keys[-1])):
            with translate_errors(source.engine):
                rows = list(find(source, COLUMNS, set(keys)))
            adding.add(rows)
        yield len(keys)


def verify(
    source: Connection, target: Connection, *, advance: Callable[[int], None]
) -> tuple[int, int]:
    """Return how many keys the source has, and how many of them the target has not."""
    with translate_errors(source.engine):
        registered = {server.key for server in servers(source)}
    number = len(registered)
    missing = len(registered - {server.key for server in servers(target)})
    for keys in _pages(source, select(*KEY)):
        number += len(keys)
        missing += count_absent(target, set(keys))
        advance(len(keys))
    return number, missing
