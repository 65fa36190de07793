"""From ``database_filepath`` to an engine: ONE factory for server, command line and migrations."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from ...errors import ConfigurationError
from ...locations import TRAIT
from .backend import Driver, backend_of
from .passwords import OPTIONS, password_source, provide_password
from .sqlite_files import refuse_unusable_file
from .url import is_memory, parse, sqlite_file

_NUMBERS: Final = ("max_overflow", "pool_recycle", "pool_size", "pool_timeout")
_RESERVED_OPTIONS: Final = frozenset({"isolation_level", "skip_autocommit_rollback"})


def check(text: str, *, writes: bool = True) -> URL:
    """Parse a URL, and refuse it if it can never work, without connecting to or creating anything.

    That is a malformed URL, an unknown dialect, a missing or asynchronous driver, a directory,
    a file that is not SQLite's, or an unusable folder.
    """
    url = parse(text)
    _check_parameters(backend_of(_dialect(url)).driver, url)
    path = sqlite_file(url)
    if path is not None:
        refuse_unusable_file(path, TRAIT, writes=writes)
    return url


def _check_parameters(driver: Driver, url: URL) -> None:
    """Refuse parameters that the driver would refuse only when it connects."""
    known = driver.parameters()
    if known is None:
        return
    for name, values in url.query.items():
        if name not in known:
            near = driver.instead.get(name) or next(iter(get_close_matches(name, known, 1)), None)
            hint = f" Write: {near}" if near else " Remove it."
            raise ConfigurationError(
                f"{TRAIT} has the parameter {name!r}, which {driver.name} does not know.{hint}"
            )
        for value in (values,) if isinstance(values, str) else values:
            expected = driver.fault_of_parameter(name, value)
            if expected is not None:
                raise ConfigurationError(
                    f"The parameter {name!r} of {TRAIT} cannot be used; expected {expected}."
                )


def _dialect(url: URL) -> type[Dialect]:
    try:
        dialect = url.get_dialect()
    except (NoSuchModuleError, ArgumentError):
        raise ConfigurationError(
            f"{TRAIT} names the dialect {url.drivername!r}, which SQLAlchemy does not "
            "know; expected a file path, ':memory:', or a URL that begins with "
            "sqlite:///, postgresql://, mysql:// or mariadb://, or the dialect of an "
            "installed package."
        ) from None
    try:
        dialect.import_dbapi()
    except ImportError:
        driver = backend_of(dialect).driver
        package = f"'jupyter_session_store[{driver.extra}]'" if driver.extra else driver.name
        raise ConfigurationError(
            f"{TRAIT} needs the database driver {driver.name!r}, which is not installed. "
            f"Install it: pip install {package}"
        ) from None
    if dialect.is_async:
        raise ConfigurationError(
            f"{TRAIT} names the asynchronous driver {url.get_driver_name()!r}; expected a "
            f"synchronous one. Leave the driver out: {url.get_backend_name()}://..."
        )
    return dialect


def create(
    text: str,
    options: Mapping[str, Any] | None = None,
    *,
    statement_timeout: bool = True,
    writes: bool = True,
) -> Engine:
    """Create the engine; it connects to nothing yet.

    Its connections commit each statement by themselves: one round trip
    instead of three. A unit of work of several statements begins explicitly.
    A SQLite file keeps its journal as it is, until :meth:`.Backend.keep_journal`.

    Parameters
    ----------
    text : str
        A path, ``:memory:`` or a URL.
    options : mapping, optional
        Keyword arguments of :func:`sqlalchemy.create_engine`, and two of our
        own: ``password_file`` (a path) and ``password_provider`` (a callable
        without parameters, or ``"module:name"`` of one), either of which is
        read at each connect, for passwords that rotate.
    statement_timeout : bool
        Whether a long statement is given up: a server's is, an operator's is not. The
        time-out of a connect stays.
    writes : bool
        Whether anything will be written. If not, a SQLite file may lie where this
        user may only read.

    Raises
    ------
    ConfigurationError
        As :func:`check`, or if an option is not usable.
    """
    url = check(text, writes=writes)
    settings = dict(options or {})
    if refused := _RESERVED_OPTIONS & settings.keys():
        raise ConfigurationError(
            f"{OPTIONS} holds {', '.join(sorted(refused))}, which the store sets "
            "itself: its statements commit by themselves. Remove it."
        )
    provide = password_source(settings)
    dialect = url.get_dialect()
    backend = backend_of(dialect)
    given = settings.pop("connect_args", {})
    defaults: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "hide_parameters": True,
        "connect_args": _connect_args(backend.driver, url, given),
        **backend.driver.engine_options,
    }
    if dialect.detect_autocommit_setting is not DefaultDialect.detect_autocommit_setting:
        defaults["skip_autocommit_rollback"] = True
    if is_memory(url):
        defaults["poolclass"] = StaticPool
    elif "poolclass" not in settings:
        defaults |= {"pool_size": 1, "max_overflow": 0}
    try:
        # Of a wrong type these fail later, where a connection is asked for.
        numbers = [settings[name] for name in _NUMBERS if name in settings]
        if not all(isinstance(one, (int, float)) for one in numbers) or not callable(
            settings.get("creator", create_engine)
        ):
            raise TypeError
        engine = create_engine(url, **{**defaults, **settings})
    except Exception as error:
        # SQLAlchemy says which names it does not know; what else it repeats may be a password.
        known = isinstance(error, TypeError) and str(error).startswith("Invalid argument(s)")
        reason = str(error) if known else "one of them is of a wrong type, or not possible there"
        raise ConfigurationError(
            f"{OPTIONS} cannot be used for {url.get_backend_name()}: {reason}. Expected keyword "
            "arguments of sqlalchemy.create_engine."
        ) from None
    if provide is not None:
        provide_password(engine, provide)
    backend.prepare(engine)
    backend.driver.prepare(engine, given, statement_timeout=statement_timeout)
    return engine


def _connect_args(driver: Driver, url: URL, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{OPTIONS}['connect_args'] is of type {type(given).__name__}; expected a dict of "
            "keyword arguments of the driver's connect function."
        )
    ours = driver.connect_args
    return {k: v for k, v in ours.items() if k not in url.query} | dict(given)
