"""The migration lock: one process at a time changes a database's schema."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ...errors import StoreUnavailable
from ..engine.transactions import begin_immediate, ending

#: Seconds to wait for another process's migration.
LOCK_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.1
#: Alembic keeps its environment in globals of its own; the thread that upgrades locks twice.
process_lock: Final = threading.RLock()


@contextmanager
def migration_lock(
    connection: Connection, *, timeout: float = LOCK_TIMEOUT, log: logging.Logger | None = None
) -> Iterator[None]:
    """Hold the lock under which alone a schema changes.

    It excludes the other processes of this database and the other threads of
    this process. Polled, because a blocking ``pg_advisory_lock`` deadlocks
    with ``CREATE INDEX CONCURRENTLY``; of the session, because a transaction's
    would be lost at the first commit. On SQLite the lock is the write
    transaction itself, which is committed at the end or, on an error, rolled
    back. Databases without such a lock (CockroachDB, SQL Server) are not
    locked: upgrade them from one job.

    Parameters
    ----------
    connection : Connection
        The migration's own.
    timeout : float
        Seconds to wait at most.
    log : logging.Logger, optional
        Where it is said that there is a wait; by default this package's own.

    Raises
    ------
    StoreUnavailable
        When the time is over.
    """
    deadline = time.monotonic() + timeout
    attempts = _poll(deadline, timeout, log or logging.getLogger("jupyter_session_store"))
    if not process_lock.acquire(timeout=timeout):
        raise _lock_not_had(timeout)
    try:
        with _LOCKS.get(connection.dialect.name, _no_lock)(connection, attempts):
            yield
    finally:
        process_lock.release()


def _lock_not_had(timeout: float) -> StoreUnavailable:
    return StoreUnavailable(
        f"another process has held the migration lock for {timeout:g} s; expected it to "
        "finish its upgrade. Look for a hanging alembic or jupyter server, then start again"
    )


def _poll(deadline: float, timeout: float, log: logging.Logger) -> Iterator[None]:
    """Yield once an attempt, until the time is over; say once that there is a wait."""
    yield
    log.info("Waiting for the migration lock, which another process holds.")
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        yield
    raise _lock_not_had(timeout)


@contextmanager
def _sqlite_lock(connection: Connection, attempts: Iterator[None]) -> Iterator[None]:
    busy = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        for _attempt in attempts:
            try:
                begin_immediate(connection)
                break
            except DBAPIError as error:
                if "locked" not in str(error.orig):
                    raise
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(busy)}")
    with ending(connection):
        yield


@contextmanager
def _postgresql_lock(connection: Connection, attempts: Iterator[None]) -> Iterator[None]:
    # Two 32-bit keys: the package, and the schema that the tables are in.
    package = int.from_bytes(hashlib.sha256(b"jupyter_session_store").digest()[:4], "big")
    keys = "CAST(:package AS int), hashtext(coalesce(current_schema(), ''))"
    with _named_lock(
        connection,
        attempts,
        take=f"SELECT pg_try_advisory_lock({keys})",
        release=f"SELECT pg_advisory_unlock({keys})",
        values={"package": package - 2**31},
    ):
        yield


@contextmanager
def _mysql_lock(connection: Connection, attempts: Iterator[None]) -> Iterator[None]:
    # Locks are the server's, not the database's, and their names short.
    database = connection.execute(text("SELECT database()")).scalar_one()
    with _named_lock(
        connection,
        attempts,
        take="SELECT GET_LOCK(:name, 0)",
        release="SELECT RELEASE_LOCK(:name)",
        values={"name": "jss-" + hashlib.sha256(str(database).encode()).hexdigest()[:32]},
    ):
        yield


@contextmanager
def _named_lock(
    connection: Connection,
    attempts: Iterator[None],
    *,
    take: str,
    release: str,
    values: dict[str, Any],
) -> Iterator[None]:
    for _attempt in attempts:
        held = connection.execute(text(take), values).scalar_one()
        # Between two polls, and during the migrations, no transaction stays open.
        connection.commit()
        if held:
            break
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text(release), values)
        connection.commit()


@contextmanager
def _no_lock(_connection: Connection, _attempts: Iterator[None]) -> Iterator[None]:
    yield


_LOCKS: Final = {
    "sqlite": _sqlite_lock,
    "postgresql": _postgresql_lock,
    "mysql": _mysql_lock,
    "mariadb": _mysql_lock,
}
