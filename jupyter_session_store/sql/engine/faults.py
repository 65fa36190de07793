"""The one boundary to the drivers: whatever one raises becomes an error of SQLAlchemy.

A driver raises more than its own errors: a RuntimeError for a package that is missing, a
UnicodeEncodeError for a password, and SQLAlchemy an AssertionError for a server that it does
not know. SQLAlchemy passes these on as they are, and whoever handles faults of a database
would not take them for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from ...errors import SessionStoreError
from .backend import backend_of
from .passwords import OPTIONS

#: What SQLAlchemy raises for a server that is none of its dialect.
_NOT_UNDERSTOOD: Final = (AssertionError, NotImplementedError)
#: Where the classes are from that drivers raise, besides their own.
_LIBRARIES: Final = frozenset({"binascii", "builtins", "decimal", "socket", "ssl", "struct"})
_MISSING_PACKAGE: Final = re.compile(r"'([\w.-]+)' package is required")
_UNKNOWN_ARGUMENT: Final = re.compile(
    r"unexpected keyword argument '([\w-]+)'|'([\w-]+)' is an invalid keyword argument"
)
#: Databases that speak a protocol of another, and how each is named to SQLAlchemy.
_DIALECTS: Final = {
    "cockroachdb": ("sqlalchemy-cockroachdb", "cockroachdb"),
    "cratedb": ("sqlalchemy-cratedb", "crate"),
    "redshift": ("sqlalchemy-redshift", "redshift+psycopg2"),
    "vertica": ("sqlalchemy-vertica-python", "vertica+vertica_python"),
}


class DriverFault(OperationalError):
    """What a driver has raised that is no error of its own, in plain words.

    Not in its own words, which may hold a character of a password.

    Parameters
    ----------
    reason : str
        What happened.
    cure : str, optional
        What mends it.
    is_lasting : bool
        Whether it can only happen again until that is done.
    """

    def __init__(self, reason: str, cure: str | None = None, *, is_lasting: bool = False) -> None:
        super().__init__(None, None, RuntimeError(reason))
        self.cure = cure
        self.is_lasting = is_lasting


def guard(engine: Engine) -> None:
    """Have an engine raise nothing but errors of SQLAlchemy and of this package.

    To be called when everything else of the engine is set up.
    """
    dialect: Any = engine.dialect
    dialect.connect = guarded(dialect.connect, engine.dialect)
    initialize = dialect.initialize

    def guarded_initialize(connection: Connection) -> None:
        try:
            initialize(connection)
        except Exception as error:
            if _is_known(error, dialect):
                raise
            understood = not isinstance(error, _NOT_UNDERSTOOD)
            fault = fault_of(error, dialect) if understood else _not_understood(connection)
            driver: Any = connection.connection.dbapi_connection
            if hasattr(driver, "pgconn"):
                # SQLAlchemy forgets it, and psycopg warns of one that nobody has closed.
                driver.close()
            raise fault from None

    dialect.initialize = guarded_initialize
    event.listen(engine, "handle_error", _on_error)


def guarded(connect: Callable[..., Any], dialect: Any) -> Callable[..., Any]:
    """Return a function that connects, and raises nothing unknown."""

    def guarded_connect(*args: Any, **kwargs: Any) -> Any:
        try:
            return connect(*args, **kwargs)
        except Exception as error:
            if _is_known(error, dialect):
                raise
            raise fault_of(error, dialect, connecting=True) from None

    return guarded_connect


def _is_known(error: BaseException, dialect: Any) -> bool:
    driver = getattr(dialect, "dbapi", None) or dialect.import_dbapi()
    known = (driver.Error, SQLAlchemyError, SessionStoreError)
    return isinstance(error, known) or not isinstance(error, Exception)


def _on_error(context: ExceptionContext) -> OperationalError | None:
    error = context.original_exception
    refused = context.sqlalchemy_exception
    if isinstance(refused, IntegrityError):
        # Else it would be taken for a key that another row has: the only rule of our own.
        foreign = backend_of(context.dialect).is_schema_changed(refused)
        return OperationalError(None, None, error) if foreign else None
    if _is_known(error, context.dialect):
        return None
    package = type(error).__module__.partition(".")[0].lower()
    if package not in _LIBRARIES and package != context.dialect.driver:
        # Of a program that listens to the engine.
        return None
    return fault_of(error, context.dialect)


def fault_of(error: BaseException, dialect: Dialect, *, connecting: bool = False) -> DriverFault:
    """Return what stands for an error that is not the driver's own."""
    driver, text = backend_of(dialect).driver, str(error)
    if isinstance(error, UnicodeError):
        if not connecting:
            return DriverFault(f"the driver {driver.name} has met a text that is not Unicode")
        return DriverFault(
            f"the user, the password or the name of the database holds a character that the "
            f"driver {driver.name} cannot send",
            "Give the user a password of ASCII characters.",
            is_lasting=True,
        )
    if isinstance(error, OSError):
        # Such as the file of a certificate that is not there.
        file = f": {error.filename!r}" if error.filename else ""
        return DriverFault(f"{type(error).__name__}: {error.strerror or text}{file}")
    package = _MISSING_PACKAGE.search(text)
    missing = package[1] if package else getattr(error, "name", None)
    if missing and isinstance(error, (RuntimeError, ImportError)):
        return DriverFault(
            f"to log in, the driver {driver.name} needs the package {missing}, which is not "
            "installed",
            f"Install it: pip install {driver.requirement(missing)}",
            is_lasting=True,
        )
    argument = _UNKNOWN_ARGUMENT.search(text) if isinstance(error, TypeError) else None
    if argument and connecting:
        return DriverFault(
            f"{OPTIONS} cannot be used for {dialect.name}: the driver {driver.name} knows no "
            f"argument {argument[1] or argument[2]!r}",
            "Expected keyword arguments of its connect function in connect_args; they are the "
            "configured ones, whatever database is named.",
            is_lasting=True,
        )
    return DriverFault(
        f"the driver {driver.name} has failed ({type(error).__name__})",
        # It has not asked anybody yet: one of its arguments is wrong.
        is_lasting=connecting and isinstance(error, (TypeError, ValueError, NotImplementedError)),
    )


def _not_understood(connection: Connection) -> DriverFault:
    """Return what stands for a server that SQLAlchemy does not know."""
    title = backend_of(connection).title
    try:
        said = str(connection.exec_driver_sql("SELECT version()").scalar_one())
    except Exception:
        said = ""
    # A name and a number are enough.
    shown = " ".join(said.split()[:3])
    known = next((how for name, how in _DIALECTS.items() if name in said.lower()), None)
    if known is None:
        cure = (
            f"Name a {title} in the URL, or the SQLAlchemy dialect of that database: "
            "https://docs.sqlalchemy.org/dialects/"
        )
    else:
        package, name = known
        cure = f"Run: pip install {package}; and begin the URL with {name}://"
    return DriverFault(
        f"the server calls itself {shown!r}, which SQLAlchemy's dialect for {title} does not know",
        cure,
        is_lasting=True,
    )
