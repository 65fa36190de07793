"""What a store that is no database holds, in a database in memory: for commands that only read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sqlalchemy import Connection, insert

from ...records import StoreContents
from ..engine import factory as engines
from ..queries.rows import to_row
from ..schema import starting
from ..tables import SERVERS, SESSIONS


@contextmanager
def connected(contents: StoreContents) -> Iterator[Connection]:
    """Yield a connection to a database that holds the contents of a store, and ends with it."""
    engine = engines.create(":memory:")
    try:
        starting.create(engine, logging.getLogger(__name__))
        with engine.connect() as connection:
            for table, rows in (
                (SESSIONS, [to_row(one) for one in contents.sessions]),
                (SERVERS, [asdict(one) for one in contents.servers]),
            ):
                if rows:
                    connection.execute(insert(table), rows)
            yield connection
    finally:
        engine.dispose()
