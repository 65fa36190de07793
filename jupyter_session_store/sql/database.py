"""Running one unit of work: the connection, the schema check, the retries, the errors.

Everything here happens on the worker's thread and may block.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from logging import Logger
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)

from ..errors import InvalidValue, SchemaMismatch, SessionStoreError, StoreUnavailable
from .engine import factory as engines
from .queries import leases
from .schema import compatibility

if TYPE_CHECKING:
    from ..records import Scope, ServerRecord

T = TypeVar("T")

#: A unit of work that the database rolled back for another's sake: SQLSTATEs, and the
#: numbers of MySQL and MariaDB (a deadlock, and a wait for a lock that took too long).
_ROLLED_BACK: Final = frozenset({"40001", "40P01", 1213, 1205})
#: A server that only reads. One that was a primary keeps its connections when another
#: takes its place, and goes on answering reads.
_READ_ONLY: Final = frozenset({"25006", 1290, 1792, 1836})
_SQLITE_BUSY: Final = frozenset({5, 6})
#: A role without the right.
_DENIED: Final = frozenset({"42501", 1044, 1142, 1143, 1227})
#: A file that may only be read, and one beside which no journal can be made.
_SQLITE_READ_ONLY: Final = {8: "readonly database", 14: "unable to open database file"}
#: How often such a one is repeated.
ATTEMPTS: Final = 10
#: A column that is not there, or has to be given, in MySQL and MariaDB, whose driver counts them
#: among the faults of the server; SQLite has one code for all that is wrong in a statement.
_SCHEMA_CHANGED: Final = frozenset({1054, 1364})
_SQLITE_CHANGED: Final = ("no such table", "no such column", "has no column named")


class _Statements:
    """Counts the statements that are sent, on the worker's thread."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        # Of the dialect: with an event of the engine, what it would be given is put together
        # anew for each statement, which takes 10 µs.
        for name in ("do_execute", "do_execute_no_params", "do_executemany"):
            event.listen(engine, name, self.note)

    def note(self, *_: object) -> None:
        self.count += 1


class Database:
    """One connection to a database whose schema has been found to fit.

    Parameters
    ----------
    engine : Engine
    auto_upgrade : str
        See :func:`.schema.ensure`.
    log : logging.Logger
    """

    def __init__(self, engine: Engine, auto_upgrade: str, log: Logger) -> None:
        self.engine = engine
        self._auto_upgrade = auto_upgrade
        self._log = log
        self._serving: tuple[Scope, ServerRecord] | None = None
        self._connection: Connection | None = None
        self._checked = False
        self._registered = False
        self._down_since: float | None = None
        self._down_for_writes = False
        self._mismatched = False
        self._statements = _Statements(engine)

    def serve(self, scope: Scope, server: ServerRecord) -> None:
        """Say who uses it: registered at first contact, and given what a stock file holds."""
        self._serving = (scope, server)

    def run(
        self, unit: Callable[[Connection], T], deadline: float = math.inf, *, writes: bool = False
    ) -> T:
        """Run a unit of work, which must be safe to repeat.

        It is repeated once if the connection turned out dead, or led to a server
        that only reads, and whenever the database rolled it back for another's sake;
        and once after another look at the schema, where that may have changed.

        Parameters
        ----------
        unit : callable
        deadline : float
            On the monotonic clock, when whoever asked will have been told that
            it failed. No attempt begins that could end after that.
        writes : bool
            Whether it writes: a SQLite file that another process holds, and a
            server that only reads, can be read all the while, and are not back
            before they can be written.

        Raises
        ------
        StoreUnavailable
            If the database cannot be reached or used now.
        SchemaMismatch
            If its schema does not fit.
        """
        reconnected = looked_again = False
        attempt = 0
        # Of a database that could not even be asked, reads say as much as writes.
        refused = False
        while True:
            connection = None
            try:
                connection = self._ready()
                if time.monotonic() + engines.STATEMENT_TIMEOUT > deadline:
                    raise StoreUnavailable(f"{self.name} is busy or slow: no turn in time")
                result = unit(connection)
            except IntegrityError:
                raise
            except SQLAlchemyError as error:
                rolled_back = is_rolled_back(error)
                # What failed may fail for ever on this connection, and not on another.
                self.release(dispose=not (rolled_back or isinstance(error, DataError)))
                refused = connection is not None and not _is_dead(error)
                if (_is_dead(error) or _codes(error) & _READ_ONLY) and not reconnected:
                    reconnected = True
                    continue
                if rolled_back and attempt < ATTEMPTS:
                    attempt += 1
                    pause(attempt)
                    continue
                if refused and _is_of_the_schema(error) and not looked_again:
                    # Who contracts the schema under a server has left the reason in it.
                    looked_again = True
                    self._checked = False
                    continue
                raise self._translated(error, writes and refused) from error
            except SessionStoreError as error:
                self.release(dispose=False)
                if isinstance(error, (StoreUnavailable, SchemaMismatch)):
                    self.went_down(error, writes=writes and refused)
                raise
            except OSError as error:
                # A SQLite file that cannot be created.
                self.release(dispose=False)
                raise self.went_down(StoreUnavailable(f"{error}")) from error
            if self._down_since is not None and (writes or not self._down_for_writes):
                self._came_back()
            return result

    def release(self, *, dispose: bool = True) -> None:
        """Give the connection up; the next unit of work makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if dispose and not engines.is_memory(self.engine.url):
            self.engine.dispose()

    def end(self) -> None:
        """Give everything up, a database in memory included."""
        self.release(dispose=False)
        self.engine.dispose()

    def _ready(self) -> Connection:
        if not self._checked:
            # It needs the engine's only connection for itself.
            self.release(dispose=False)
            self._prepare()
            self._checked = True
        if self._connection is None:
            self._connection = self.engine.connect()
        return self._connection

    def _prepare(self) -> None:
        found = compatibility.ensure(self.engine, self._auto_upgrade, self._log)
        with self.engine.connect() as connection:
            engines.keep_journal(connection)
            if self._serving is None:
                return
            scope, server = self._serving
            if not self._registered:
                # Before any session of its own, which would be nobody's without it. Later, where
                # the tables are new ones, a renewal finds it missing and puts its sessions back.
                leases.register(connection, server)
                self._registered = True
            if not found.stock_adopted and engines.sqlite_file(self.engine.url) is not None:
                # Imported late: few files were the stock manager's.
                from .schema import stock

                stock.adopt(connection, scope, server.server_id, self._log)

    def _translated(self, error: SQLAlchemyError, writes: bool) -> SessionStoreError:
        reason = engines.reason_of(error, self.engine.url)
        if isinstance(error, DataError):
            return InvalidValue("value", f"was refused by the database ({reason})", "storable text")
        if _is_of_the_schema(error):
            # A table that went away, a right that was taken: look again before the next one.
            self._checked = False
        return self.went_down(StoreUnavailable(f"{self.name}: {reason}"), writes=writes)

    @property
    def statements(self) -> int:
        """How many statements were sent, those of a migration included."""
        return self._statements.count

    @property
    def name(self) -> str:
        """What may be shown of the database."""
        return engines.describe(self.engine.url)

    def went_down(self, error: SessionStoreError, *, writes: bool = False) -> SessionStoreError:
        """Log a fault if it is the first since the last success, from any thread.

        A schema that does not fit is logged all the same: it does not pass by itself.
        """
        self._down_for_writes |= writes
        mismatch = isinstance(error, SchemaMismatch)
        if self._down_since is None or (mismatch and not self._mismatched):
            self._log.warning("%s", error)
        self._mismatched |= mismatch
        if self._down_since is None:
            self._down_since = time.monotonic()
        return error

    def _came_back(self) -> None:
        if self._down_since is not None:
            seconds = time.monotonic() - self._down_since
            self._down_since = None
            self._down_for_writes = False
            self._mismatched = False
            self._log.info("The session store is back after %.1f s.", seconds)


def _is_dead(error: SQLAlchemyError) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _is_of_the_schema(error: SQLAlchemyError) -> bool:
    """Return whether a table or a column may be missing, or a right."""
    if isinstance(error, ProgrammingError) or _codes(error) & _SCHEMA_CHANGED:
        return True
    orig = getattr(error, "orig", None)
    return type(orig).__module__.startswith("sqlite3") and any(
        text in str(orig) for text in _SQLITE_CHANGED
    )


def _codes(error: SQLAlchemyError) -> set[object]:
    """Return the SQLSTATE and the number by which a driver names an error."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    numbers = [code for code in getattr(orig, "args", ())[:1] if isinstance(code, int)]
    return {getattr(orig, "sqlstate", None), *numbers}


def pause(attempt: int) -> None:
    """Wait before a unit of work that was rolled back is repeated for the `attempt`-th time."""
    time.sleep(random.uniform(0, min(0.25, 0.005 * 2**attempt)))  # noqa: S311


def is_rolled_back(error: SQLAlchemyError) -> bool:
    """Return whether the database undid a unit of work for another's sake."""
    if not isinstance(error, DatabaseError) or error.orig is None:
        return False
    if _codes(error) & _ROLLED_BACK:
        return True
    return _is_sqlite(error.orig, dict.fromkeys(_SQLITE_BUSY, "locked"))


def is_write_denied(error: SQLAlchemyError) -> bool:
    """Return whether who asks may only read, or the database is one that only reads."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    return bool(_codes(error) & (_DENIED | _READ_ONLY)) or _is_sqlite(error.orig, _SQLITE_READ_ONLY)


def _is_sqlite(orig: BaseException, texts: Mapping[int, str]) -> bool:
    """Return whether an error of SQLite's has one of these codes."""
    # sqlite3 tells the code from Python 3.11 on.
    code = getattr(orig, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in texts
    return type(orig).__module__.startswith("sqlite3") and any(
        text in str(orig) for text in texts.values()
    )
