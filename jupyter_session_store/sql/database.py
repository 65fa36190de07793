"""Running one unit of work: the connection, the schema check, the retries, the errors.

Everything here happens on the worker's thread and may block.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable
from logging import Logger
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
)

from ..errors import (
    InvalidValue,
    SchemaMismatch,
    SessionStoreError,
    StoreUnavailable,
    StoreUnusable,
)
from .engine import timeouts
from .engine.backend import backend_of, note_cluster_node
from .engine.cures import TAKES_NO_WRITES, cure_of
from .engine.cutting import StatementWatch
from .engine.faults import DriverFault
from .engine.hosts import hosts_of
from .engine.sqlite_files import identity_of
from .engine.url import describe, is_memory, reason_of, sqlite_file
from .queries import leases, session_queries
from .schema import starting, versions

if TYPE_CHECKING:
    from pathlib import Path

    from ..records import Scope, ServerRecord

T = TypeVar("T")

#: Seconds by which a call may begin later that is made again after its connection was cut: a busy
#: machine takes a while to connect.
_LATE: Final = 2.0
#: How often a unit of work is repeated that the database rolled back for another's sake.
ATTEMPTS: Final = 10


class Database:
    """One connection to a database whose schema fits, as :func:`.starting.ensure` has found."""

    def __init__(self, engine: Engine, auto_upgrade: str, log: Logger) -> None:
        self.engine = engine
        self._auto_upgrade = auto_upgrade
        self._log = log
        self._serving: tuple[Scope, ServerRecord] | None = None
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._checked = False
        #: Whether this start is over: it alone makes tables.
        self._started = False
        #: A SQLite file, and which it is.
        file = sqlite_file(engine.url)
        # SQLite has made it absolute too, and an extension may change the working directory.
        self._file = None if file is None else file.absolute()
        self._file_id: tuple[int, int] | None = None
        self._grants: str | None = None
        self._registered = False
        #: Held while a fault is reported, or its end is: two threads report.
        self._reporting = threading.RLock()
        self._down_since: float | None = None
        self._back_at = -math.inf
        self._down_for_writes = False
        #: Whether writes have failed, and not for another's lock, and none has succeeded since.
        self.fails_writes = False
        self._mismatched = False
        self._watch = StatementWatch(engine)
        #: Which of several hosts has answered the last connect, and to what cluster it belongs.
        self.host: str | None = None
        self._cluster: str | None = None

    def serve(self, scope: Scope, server: ServerRecord) -> None:
        """Name the server: registered at first contact, and given what a stock file holds."""
        self._serving = (scope, server)

    def run(
        self, unit: Callable[[Connection], T], deadline: float = math.inf, *, writes: bool = False
    ) -> T:
        """Run a unit of work, which must be safe to repeat.

        It is repeated once if the connection turned out dead, or led to a server
        that only reads, and whenever the database rolled it back for another's sake;
        and once after another look at the schema, where that may have changed. No
        attempt begins that could end after `deadline`, on the monotonic clock.

        A SQLite file that another process holds, and a server that only reads, can be
        read all the while: for what `writes` they are back when they can be written.
        """
        try:
            return self._run(unit, deadline, writes)
        finally:
            self._watch.end()

    def _run(self, unit: Callable[[Connection], T], deadline: float, writes: bool) -> T:
        reconnected = looked_again = False
        attempt = 0
        late = 0.0
        # Of a database that could not even be asked, reads say as much as writes.
        refused = False
        while True:
            connection = None
            latest = deadline + late - timeouts.STATEMENT_TIMEOUT
            try:
                connection = self._connect()
                if time.monotonic() > latest:
                    raise StoreUnavailable(f"{self.name} is busy or slow: no turn in time")
                result = unit(connection)
            except IntegrityError:
                raise
            except SQLAlchemyError as error:
                backend = backend_of(self.engine)
                rolled_back = backend.is_rolled_back(error)
                # What failed may fail for ever on this connection, and not on another.
                self.release(dispose=not (rolled_back or isinstance(error, DataError)))
                refused = connection is not None and not _is_dead(error)
                is_read_only = backend.is_read_only(error)
                if is_read_only and (hosts := hosts_of(self.engine)) is not None:
                    hosts.leave()
                if (_is_dead(error) or is_read_only) and not reconnected:
                    reconnected = True
                    # Else what was not answered in time could never be repeated.
                    late = _LATE
                    continue
                if rolled_back and attempt < ATTEMPTS:
                    attempt += 1
                    pause(attempt)
                    continue
                if refused and backend.is_schema_changed(error) and not looked_again:
                    # A migration that contracts the schema under a server leaves the reason in it.
                    looked_again = True
                    self._checked = False
                    continue
                # A lock goes by itself, and a value that was refused says nothing of others.
                passes = rolled_back or isinstance(error, DataError)
                self.fails_writes |= writes and refused and not passes
                raise self._translate(error, writes and refused) from error
            except SessionStoreError as error:
                self.release(dispose=False)
                if isinstance(error, (StoreUnavailable, SchemaMismatch)):
                    turn = math.inf if connection is None else latest
                    self.report_failure(error, writes=writes and refused, turn=turn)
                raise
            except OSError as error:
                self.release(dispose=False)
                raise self.report_failure(StoreUnavailable(f"{error}")) from error
            if self._down_since is not None and self._is_back(connection, writes):
                self._came_back()
            return result

    def _is_back(self, connection: Connection, writes: bool) -> bool:
        """Return whether a fault is over, after a unit of work that has succeeded."""
        if not self._down_for_writes:
            return True
        if not writes:
            return False
        if not self.fails_writes or self._serving is None:
            return True
        # What is small, such as a renewal, may succeed on a disk that is full.
        scope, server = self._serving
        try:
            session_queries.try_write(connection, scope, server.server_id)
        except SQLAlchemyError:
            self.release()
            return False
        return True

    def cut_if_overdue(self) -> float:
        """Do as :meth:`.StatementWatch.cut_if_overdue`."""
        return self._watch.cut_if_overdue()

    def cut(self) -> None:
        """Cut the connection, from any thread: whoever waits for an answer gets an error."""
        self._watch.cut()

    def release(self, *, dispose: bool = True) -> None:
        """Give the connection up; the next unit of work makes a new one."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            if dispose and not is_memory(self.engine.url):
                self.engine.dispose()

    def close(self) -> None:
        """Give everything up, a database in memory included."""
        self.release(dispose=False)
        self.engine.dispose()

    def _connect(self) -> Connection:
        if self._started and self._file is not None:
            self._look_for_file(self._file)
        recycle = self.engine.pool._recycle
        if self._connection is not None and 0 <= recycle < time.monotonic() - self._connected_at:
            self.release()
        if not self._checked:
            # It needs the engine's only connection for itself.
            self.release(dispose=False)
            self._watch.begin()
            with self._watch.longer(timeouts.SILENCE_TIMEOUT):
                self._prepare()
            self._checked = True
            if self._file is not None:
                self._file_id = identity_of(self._file)
            self._started = True
        if self._connection is None:
            self._watch.begin()
            self._connection = self.engine.connect()
            self._connected_at = time.monotonic()
            self._note_host(self._connection)
        return self._connection

    def _note_host(self, connection: Connection) -> None:
        """Say which of several hosts answers, once for each change."""
        hosts = hosts_of(self.engine)
        if hosts is None or hosts.answering is None:
            return
        host, former = str(hosts.answering), self.host
        if host == former:
            return
        cluster = backend_of(self.engine).driver.cluster(connection)
        self.host = host
        self._cluster, expected = cluster or self._cluster, self._cluster
        if former is not None:
            self._log.info("%s is at %s now, and no longer at %s.", self.name, host, former)
        if former is not None and None not in (cluster, expected) and cluster != expected:
            self._log.warning(
                "%s, which answers for %s, belongs to another cluster than %s, which has "
                "answered before; expected a primary and its standbys. Mend the hosts in the URL: "
                "jupyter session-store doctor compares them.",
                host,
                self.name,
                former,
            )

    def _look_for_file(self, file: Path) -> None:
        """Refuse to go on with a file that was deleted, and once with one that takes its place."""
        try:
            found = identity_of(file)
        except OSError as error:
            raise StoreUnavailable(
                f"{self.name}: {type(error).__name__}: {error.strerror}"
            ) from None
        if found is not None and found == self._file_id:
            return
        # SQLite goes on with the file that it has open, in which nobody will find anything.
        self.release()
        self._checked = False
        backend_of(self.engine).forget_journal(self.engine)
        missed, self._file_id = self._file_id is None, found
        if found is None:
            raise StoreUnavailable(
                f"the file ({self.name}) is not there any more; expected the one that this server "
                "has opened. Put it back, or make an empty one: jupyter session-store upgrade"
            )
        if not missed:
            raise StoreUnavailable(
                f"the file ({self.name}) is another than this server has opened. It is used "
                "from now on if it has the tables; to make them: jupyter session-store upgrade"
            )

    def _prepare(self) -> None:
        if self._started:
            found = self._look_again()
        else:
            found = starting.ensure(self.engine, self._auto_upgrade, self._log)
        note_cluster_node(self.engine, found.on_cluster_node)
        with self.engine.connect() as connection:
            backend_of(connection).keep_journal(connection)
            if self._serving is None:
                return
            scope, server = self._serving
            if not self._registered:
                # Before any session of its own, which another would evict without it. Later, where
                # the tables are new ones, a renewal finds it missing and puts its sessions back.
                self._register(connection, server)
            if not found.stock_adopted and self._file is not None:
                # Imported late: few files were the stock manager's.
                from .schema import stock

                stock.adopt(connection, scope, server.server_id, self._log)

    def _look_again(self) -> versions.Status:
        """Return how the schema stands, and change nothing."""
        with self.engine.connect() as connection:
            found = versions.status(connection)
        if not found.usable:
            explained = versions.explain(found, self.name)
            # A migration may be half way, where others see that.
            damaged = found.state is versions.State.DAMAGED
            raise StoreUnavailable(explained) if damaged else SchemaMismatch(explained)
        return found

    def _register(self, connection: Connection, server: ServerRecord) -> None:
        try:
            leases.register(connection, server)
        except DataError as error:
            raise StoreUnusable(
                f"{self.name} cannot store the namespace {server.namespace!r} "
                f"({reason_of(error, self.engine.url)}). Set c.PersistentSessionManager.namespace "
                "to a text of ASCII characters, or use a database whose encoding is UTF-8"
            ) from None
        self._registered = True

    def _translate(self, error: SQLAlchemyError, writes: bool) -> SessionStoreError:
        reason = reason_of(error, self.engine.url)
        if isinstance(error, DataError):
            return InvalidValue("value", f"was refused by the database ({reason})", "storable text")
        if backend_of(self.engine).is_schema_changed(error):
            # A table that went away, a right that was taken: look again before the next one.
            self._checked = False
        cure = self._cure_of(error, reason)
        kind = StoreUnavailable
        if isinstance(error, DriverFault) and error.is_lasting:
            kind = StoreUnusable
        text = f"{self.name}: {reason}. {cure}" if cure else f"{self.name}: {reason}"
        return self.report_failure(kind(text), writes=writes)

    def _cure_of(self, error: SQLAlchemyError, reason: str) -> str | None:
        backend = backend_of(self.engine)
        if known := backend.cure_of(error):
            return known
        if re.search(TAKES_NO_WRITES, reason):
            return cure_of(error, self.engine)
        if not backend.is_denied(error) and "denied" not in reason.lower():
            return None
        if self._grants is None:
            # Imported late: few servers lack a right.
            from .schema import rights

            # Once in an outage: it takes some statements.
            found = rights.find_missing_grants(self.engine)
            self.release()
            self._grants = found or cure_of(error, self.engine) or ""
        return self._grants

    @property
    def statements(self) -> int:
        """How many statements were sent, those of a migration included."""
        return self._watch.count

    @property
    def identity(self) -> tuple[object, ...] | None:
        """What tells this database from others; ``None`` for one in memory, which has no others."""
        url = self.engine.url
        if is_memory(url):
            return None
        if self._file is not None:
            return ("file", self._file)
        # On one server, a schema of PostgreSQL is chosen by a parameter.
        query = tuple(sorted(url.query.items()))
        return (url.get_backend_name(), url.host, url.port, url.database, query)

    @property
    def name(self) -> str:
        """What may be shown of the database."""
        return describe(self.engine.url)

    def report_failure(
        self, error: SessionStoreError, *, writes: bool = False, turn: float = math.inf
    ) -> SessionStoreError:
        """Log a fault if it is the first since the last success, from any thread.

        A schema that does not fit is logged all the same: it does not pass by itself. A
        call that had to begin by `turn`, on the monotonic clock, is not logged if the store came
        back later: it has waited through a fault that is over.
        """
        with self._reporting:
            if turn < self._back_at:
                return error
            self._down_for_writes |= writes
            mismatch = isinstance(error, SchemaMismatch)
            if self._down_since is None or (mismatch and not self._mismatched):
                self._log.warning("%s", error)
            self._mismatched |= mismatch
            if self._down_since is None:
                self._down_since = time.monotonic()
        return error

    def _came_back(self) -> None:
        with self._reporting:
            if self._down_since is None:
                return
            self._back_at = time.monotonic()
            seconds = self._back_at - self._down_since
            self._down_since = None
            self._down_for_writes = False
            self.fails_writes = False
            self._mismatched = False
            self._grants = None
            where = f", at {self.host}" if self.host else ""
            self._log.info("The session store is back after %.1f s%s.", seconds, where)


def _is_dead(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def pause(attempt: int) -> None:
    """Wait before a unit of work that was rolled back is repeated for the `attempt`-th time."""
    time.sleep(random.uniform(0, min(0.25, 0.005 * 2**attempt)))  # noqa: S311
