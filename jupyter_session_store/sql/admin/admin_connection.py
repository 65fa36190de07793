"""An operator's way to a whole database: every namespace, and no server behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ...errors import (
    ConfigurationError,
    DatabaseFileMissing,
    RightMissing,
    SchemaMismatch,
    StoreUnavailable,
)
from ...locations import TRAIT, named
from ..database import ATTEMPTS, pause
from ..engine import cures, cutting
from ..engine import factory as engines
from ..engine.backend import backend_of
from ..engine.faults import DriverFault
from ..engine.url import describe, is_memory, reason_of, sqlite_file
from ..schema import rights, versions

T = TypeVar("T")

_CURE: Final = "Examine it: jupyter session-store doctor"


@contextmanager
def engine(
    url: str,
    options: Mapping[str, Any] | None = None,
    *,
    source: str = TRAIT,
    create: bool = False,
    statement_timeout: bool = False,
    writes: bool = True,
) -> Iterator[Engine]:
    """Yield an engine for an operator's statements, made as :func:`.engine.create` does.

    Errors about the URL call the place at which it was typed `source`.
    A SQLite file that is not there is refused, unless it may be made (`create`), and so is
    a database in memory, which ends with the process that has it.
    """
    with named(source):
        made = engines.create(url, options, statement_timeout=statement_timeout, writes=writes)
    if is_memory(made.url):
        raise ConfigurationError(
            "The database is in the memory of a process that has ended or is another; expected "
            "a SQLite file or a database server: --url, or c.SessionManager.database_filepath."
        )
    file = sqlite_file(made.url)
    if file is not None and not create and not file.exists():
        raise DatabaseFileMissing(
            f"The database ({describe(made.url)}) is not there; expected a file that a server or "
            "this command has made. Run: jupyter session-store upgrade"
        )
    try:
        with translate_errors(made):
            yield made
    finally:
        made.dispose()


@contextmanager
def connected(made: Engine) -> Iterator[Connection]:
    """Yield a connection on which each statement commits by itself; it is cut if it hangs."""
    with translate_errors(made), cutting.connected(made) as connection:
        yield connection


@contextmanager
def translate_errors(made: Engine) -> Iterator[None]:
    """Raise an error of the database as a StoreUnavailable, which names that database.

    What can only happen again until a setting is mended is a ConfigurationError, and a right that
    this role lacks a RightMissing, with the GRANT.
    """
    try:
        yield
    except SQLAlchemyError as error:
        reason, cure = reason_of(error, made.url), backend_of(made).cure_of(error)
        if backend_of(made).is_denied(error):
            cure = rights.find_missing_grants(made) or cures.cure_of(error, made) or _CURE
            raise RightMissing(f"{describe(made.url)}: {reason}. {cure}") from error
        if isinstance(error, DriverFault) and error.is_lasting:
            raise ConfigurationError(f"{describe(made.url)}: {reason}. {cure}") from None
        raise StoreUnavailable(f"{describe(made.url)}: {reason}. {cure or _CURE}") from error


def require_usable(connection: Connection) -> versions.Status:
    """Return how the schema stands, or raise a SchemaMismatch if this code cannot work with it."""
    found = versions.status(connection)
    if not found.usable:
        raise SchemaMismatch(versions.explain(found, describe(connection.engine.url)))
    return found


def retry_if_rolled_back(connection: Connection, unit: Callable[[], T]) -> T:
    """Run a unit of work; repeat it whenever the database has rolled it back for another's sake."""
    attempt = 0
    while True:
        try:
            return unit()
        except SQLAlchemyError as error:
            if attempt == ATTEMPTS or not backend_of(connection).is_rolled_back(error):
                raise
        attempt += 1
        pause(attempt)
