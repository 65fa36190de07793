"""The migration lock of a cluster whose nodes all take writes: a row that each of them has.

A lock of the database itself is one node's own there. This is a committed row, with an owner
and a count that grows while the owner lives. As with a server's lease, no clock of a writer
decides. Who waits takes the lock over when the count has stood still for
:data:`LOCK_LEASE_SECONDS` on the waiter's own monotonic clock, while the waiter's own writes
were answered: a statement that changes a table holds up the writes of a whole cluster, the
owner's included.

The table of the lock is there before the first revision, so it is none of Alembic's. Like
Alembic's own table it is made under no lock, and stays.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from ...errors import StoreUnavailable
from ..engine.backend import backend_of
from ..tables import ExactText

LOCK_TABLE: Final = "jupyter_session_store_lock"
#: For so long the count of an owner may stand still. It grows three times in that.
LOCK_LEASE_SECONDS: Final = 30.0
#: How often a waiter writes that has seen the count stand still.
_LOOK_SECONDS: Final = 3.0
#: How long after a renewal that failed the next one comes.
_RETRY_SECONDS: Final = 1.0
_JOIN_SECONDS: Final = 5.0

_LOCK: Final = Table(
    LOCK_TABLE,
    MetaData(),
    Column("name", ExactText(64), primary_key=True),
    # Who holds it, for people too.
    Column("owner", ExactText(255), nullable=False),
    Column("renewals", Integer, nullable=False),
    # What the waiters count, to have written something.
    Column("looks", Integer, nullable=False),
)
_IS_MIGRATION: Final = _LOCK.c.name == "migration"
_IS_OWN: Final = _LOCK.c.owner == bindparam("this_owner")
_TAKE: Final = insert(_LOCK).values(
    name="migration", owner=bindparam("this_owner"), renewals=0, looks=0
)
_READ: Final = select(_LOCK.c.owner, _LOCK.c.renewals).where(_IS_MIGRATION)
_LOOK: Final = update(_LOCK).where(_IS_MIGRATION).values(looks=_LOCK.c.looks + 1)
_TAKE_OVER: Final = (
    update(_LOCK)
    .where(
        _IS_MIGRATION,
        _LOCK.c.owner == bindparam("seen_owner"),
        _LOCK.c.renewals == bindparam("seen_renewals"),
    )
    .values(owner=bindparam("this_owner"), renewals=_LOCK.c.renewals + 1)
)
_RENEW: Final = update(_LOCK).where(_IS_MIGRATION, _IS_OWN).values(renewals=_LOCK.c.renewals + 1)
_RELEASE: Final = delete(_LOCK).where(_IS_MIGRATION, _IS_OWN)

#: The owner and its count.
_Held = tuple[str, int]


@contextmanager
def row_lock(connection: Connection, attempts: Iterator[None]) -> Iterator[Callable[[], None]]:
    """Hold the lock; `attempts` waits before each attempt but the first, and raises in the end.

    `connection` has real transactions, and none is open. Yields what raises StoreUnavailable if
    another process has taken the lock over meanwhile. So does the end.
    """
    owner = f"{os.getpid()}@{socket.gethostname()} {uuid4().hex}"[-255:]
    _make_table(connection)
    waiter = _Waiter(connection, owner)
    while not waiter.take():
        next(attempts)
    holder = _Holder(connection.engine, owner)
    holder.begin()
    try:
        yield holder.check
    finally:
        holder.end()
    if holder.lost:
        raise _lost()


def _lost() -> StoreUnavailable:
    return StoreUnavailable(
        "the migration lock was taken over by another process, since this one had not renewed it "
        f"for {LOCK_LEASE_SECONDS:g} s; expected to hold it until the end. Run it again"
    )


class Watch:
    """Tells, without a write, whether somebody seems to hold the lock.

    Parameters
    ----------
    connection : Connection
        Each of its statements commits by itself.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: _Held | None = None
        self._since = 0.0

    def is_held(self) -> bool:
        """Return whether it has an owner whose count has not stood still for a whole lease."""
        try:
            held = _read(self._connection)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            # The table is not there, or this role may not read it.
            return False
        if held != self._seen:
            self._seen, self._since = held, time.monotonic()
        return held is not None and time.monotonic() - self._since < LOCK_LEASE_SECONDS


def _make_table(connection: Connection) -> None:
    try:
        # Not asked for by its name: while another node makes it, MariaDB answers with an error.
        _read(connection)
    except DBAPIError:
        connection.rollback()
    else:
        connection.commit()
        return
    try:
        connection.execute(CreateTable(_LOCK, if_not_exists=True))
        connection.commit()
    except DBAPIError:
        # Not all databases see by IF NOT EXISTS what another makes at the same time.
        connection.rollback()
        _read(connection)
        connection.commit()


def _read(connection: Connection) -> _Held | None:
    found = connection.execute(_READ).first()
    return None if found is None else (found.owner, found.renewals)


class _Waiter:
    """Tries to take the lock, and watches who holds it."""

    def __init__(self, connection: Connection, owner: str) -> None:
        self._connection = connection
        self._owner = owner
        self._seen: _Held | None = None
        #: When it was first seen so, and when a write was last answered.
        self._since = self._written = 0.0

    def take(self) -> bool:
        """Take the lock if it is free, or its owner is dead; return whether it is held now."""
        held = self._look()
        if held is None:
            return self._write(_TAKE, this_owner=self._owner)
        if not self._is_abandoned(held):
            return False
        owner, renewals = held
        return self._write(
            _TAKE_OVER, this_owner=self._owner, seen_owner=owner, seen_renewals=renewals
        )

    def _is_abandoned(self, held: _Held) -> bool:
        now = time.monotonic()
        if held != self._seen:
            self._seen, self._since, self._written = held, now, now
            return False
        if now - self._written < _LOOK_SECONDS or not self._write(_LOOK):
            return False
        before, self._written = self._written, time.monotonic()
        if self._written - before > LOCK_LEASE_SECONDS / 3:
            # The owner may have been kept from writing for as long.
            self._since = self._written
        # What was written before this waiter's own write is here now.
        return self._look() == held and self._written - self._since >= LOCK_LEASE_SECONDS

    def _look(self) -> _Held | None:
        held = _read(self._connection)
        # The next look is to see what is committed by then.
        self._connection.commit()
        return held

    def _write(self, statement: Any, **values: str | int) -> bool:
        """Carry out a write and commit it; return whether it has written a row."""
        try:
            written = self._connection.execute(statement, values).rowcount
            self._connection.commit()
        except IntegrityError:
            self._connection.rollback()
            return False
        except SQLAlchemyError as error:
            if not backend_of(self._connection).is_rolled_back(error):
                raise
            # Another node has written the row at the same time.
            self._connection.rollback()
            return False
        return bool(written)


class _Holder:
    """Counts on, in a thread and on a connection of its own: the migration's may be busy."""

    def __init__(self, engine: Engine, owner: str) -> None:
        # The pool of the engine has no second connection.
        self._engine = Engine(engine.pool.recreate(), engine.dialect, engine.url)
        self._values = {"this_owner": owner}
        self._turns = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._renew, name="jupyter_session_store migration lock", daemon=True
        )
        #: Whether another has taken the lock over.
        self.lost = False

    def begin(self) -> None:
        """Begin to count."""
        self._thread.start()

    def check(self) -> None:
        """Raise StoreUnavailable if the lock is another's now: this process may have slept."""
        self.lost = self.lost or not self._execute(_RENEW)
        if self.lost:
            raise _lost()

    def end(self) -> None:
        """Give the lock up. What cannot be given up now goes when its count stands still."""
        self._ended.set()
        self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            # A renewal that hangs has the turn. Who waits for it waits as long as it hangs.
            return
        with suppress(Exception):
            self._execute(_RELEASE)

    def _renew(self) -> None:
        pause = LOCK_LEASE_SECONDS / 3
        while not self._ended.wait(pause):
            try:
                found = self._execute(_RENEW)
            except Exception:
                # The cluster may take no writes now: then nobody takes the lock over either.
                pause = _RETRY_SECONDS
                continue
            pause = LOCK_LEASE_SECONDS / 3
            if not found:
                # Or it was given up meanwhile.
                self.lost = not self._ended.is_set()
                return

    def _execute(self, statement: Any) -> int:
        with self._turns:
            try:
                with self._engine.connect() as connection:
                    written: int = connection.execute(statement, self._values).rowcount
                    return written
            finally:
                self._engine.dispose()
