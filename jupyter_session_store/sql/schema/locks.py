"""The migration lock: one process at a time changes a database's schema."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

from sqlalchemy import Connection

from ...errors import StoreUnavailable
from ..engine.backend import ask_cluster_node, backend_of
from .row_lock import Watch, row_lock

#: Seconds to wait for another process's migration.
LOCK_TIMEOUT: Final = 60.0
_POLL_SECONDS: Final = 0.1
#: Alembic keeps its environment in globals of its own; the thread that upgrades locks twice.
process_lock: Final = threading.RLock()


@contextmanager
def migration_lock(
    connection: Connection,
    *,
    timeout: float = LOCK_TIMEOUT,
    log: logging.Logger | None = None,
    changes: bool = True,
) -> Iterator[Callable[[], None]]:
    """Hold the lock under which alone a schema changes, or fail after `timeout` seconds.

    It excludes the other processes of this database and the other threads of
    this process. Polled, because a blocking ``pg_advisory_lock`` deadlocks
    with ``CREATE INDEX CONCURRENTLY``; of the session, because a transaction's
    would be lost at the first commit. On SQLite the lock is the write
    transaction itself, which is committed at the end or, on an error, rolled
    back. On a cluster whose nodes all take writes that lock is one node's own: a row is the
    lock there, as :mod:`.row_lock` has it, and the other one keeps out older code.
    Who `changes` nothing does not take that one. Yields what raises StoreUnavailable if
    the lock has been lost meanwhile: see there.
    Databases without such a lock (CockroachDB, SQL Server) are not
    locked: upgrade them from one job.
    """
    deadline = time.monotonic() + timeout
    attempts = _poll(deadline, timeout, log or logging.getLogger("jupyter_session_store"))
    if not process_lock.acquire(timeout=timeout):
        raise _lock_unavailable(timeout)
    try:
        with backend_of(connection).migration_lock(connection, attempts):
            on_cluster_node = changes and ask_cluster_node(connection)
            if not backend_of(connection).is_embedded:
                connection.commit()
            with row_lock(connection, attempts) if on_cluster_node else nullcontext(_held) as check:
                yield check
    finally:
        process_lock.release()


def wait_for_migration(
    connection: Connection, *, timeout: float = LOCK_TIMEOUT, log: logging.Logger | None = None
) -> None:
    """Wait until nobody holds the lock, without taking it, or fail after `timeout` seconds.

    Not on SQLite, where nobody sees a migration half way.
    """
    deadline = time.monotonic() + timeout
    watch = Watch(connection) if ask_cluster_node(connection) else None
    for _attempt in _poll(deadline, timeout, log or logging.getLogger("jupyter_session_store")):
        held = backend_of(connection).is_migrating(connection)
        if not held and (watch is None or not watch.is_held()):
            return


def _held() -> None:
    """Do nothing: the lock of a database is held for as long as its connection lives."""


def _lock_unavailable(timeout: float) -> StoreUnavailable:
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
    raise _lock_unavailable(timeout)
