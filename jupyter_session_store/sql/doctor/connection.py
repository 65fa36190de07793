"""Whether a database can be reached, and why not."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from sqlalchemy import Connection, Engine, literal, select

from ..engine import cutting
from ..engine.backend import backend_of
from ..engine.cures import cure_of
from ..engine.url import sqlite_file
from .findings import Outcome, failed, ok, reason

_ANYTHING_ELSE: Final = "Look into the server's log."


def connect(engine: Engine) -> Outcome:
    """Connect, and say how long it took or what prevents it.

    A SQLite file that is not there is not made.
    """
    file = sqlite_file(engine.url)
    if file is not None and not file.exists():
        return failed(
            "The file is not there; expected one that a server or this command has made.",
            "jupyter session-store upgrade",
        )
    begin = time.perf_counter()
    try:
        with cutting.connected(engine) as connection:
            connected = time.perf_counter()
            connection.execute(select(literal(1)))
            answered = time.perf_counter()
            place = _place(connection)
    except Exception as error:
        return failed(reason(error, engine.url), cure_of(error, engine) or _ANYTHING_ELSE)
    return ok(
        f"Connected{place} in {_milliseconds(connected - begin)}; "
        f"a statement takes {_milliseconds(answered - connected)}."
    )


def _place(connection: Connection) -> str:
    """Return where the server is that answers, in words; nothing if that is not known."""
    place = None
    # The connection that an option makes may be anything.
    with suppress(Exception):
        place = backend_of(connection).driver.place(connection.connection.dbapi_connection)
    return f" to {place}" if place else ""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
