"""From ``database_filepath`` to an engine: ONE factory for server, command line and migrations."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import unquote

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from ..._version import __version__
from ...errors import ConfigurationError
from ...locations import TRAIT, URL_FORM
from .backend import Backend, Driver, backend_of
from .faults import guard, guarded
from .passwords import ARGUMENTS, OPTIONS, password_source, provide_password
from .sqlite_files import refuse_unusable_file
from .url import is_memory, parse, passwords_of, sqlite_file

#: PostgreSQL keeps no more of a name.
_NAME_BYTES: Final = 63
_NUMBERS: Final = ("max_overflow", "pool_recycle", "pool_size", "pool_timeout")
_NOT_NEGATIVE: Final = ("pool_size", "pool_timeout")
#: The store's statements commit by themselves, on a connection of a pool of its own.
_RESERVED_OPTIONS: Final = frozenset({"isolation_level", "pool", "skip_autocommit_rollback"})
#: A database in memory lives as long as its one connection.
_RESERVED_IN_MEMORY: Final = frozenset({"creator", "pool_recycle", "poolclass"})
#: What names the database, in each question and log line, and is therefore in the URL alone.
_OF_URL: Final = frozenset({"host", "port"})
#: What changes no statement. All else of them does: what it reads, or whether it is committed.
_EXECUTION_OPTIONS: Final = frozenset({"logging_token"})


def check(text: str, *, writes: bool = True) -> URL:
    """Parse a URL, and refuse it if it can never work, without connecting to or creating anything.

    That is a malformed URL, an unknown dialect, a missing or asynchronous driver, a directory,
    a file that is not SQLite's, or an unusable folder.
    """
    url = parse(text)
    driver = backend_of(_dialect(url)).driver
    _check_parameters(driver, url)
    _check_passwords(driver, passwords_of(url), TRAIT)
    path = sqlite_file(url)
    if path is not None:
        refuse_unusable_file(path, TRAIT, writes=writes)
    return url


def _check_parameters(driver: Driver, url: URL) -> None:
    """Refuse parameters that the driver would refuse only when it connects."""
    known = driver.parameters()
    if known is None:
        return
    if url.password is not None and any("@" in part for part in map(str, url.query.items())):
        raise ConfigurationError(
            f"{TRAIT} holds an '@' in its parameters; the password probably holds special "
            f"characters that are not percent-encoded. Expected {URL_FORM}."
        )
    beside_password = any("pass" in name.lower() for name in url.query)
    for name, value in url.query.items():
        if name not in known:
            if beside_password or not _is_name(name):
                raise ConfigurationError(
                    f"{TRAIT} has a parameter that {driver.name} does not know, and that is not "
                    f"repeated here: it may be a part of a password. Expected {URL_FORM}."
                )
            raise ConfigurationError(
                f"{TRAIT} has the parameter {name!r}, which {driver.name} does not know. "
                f"{_instead_of(driver, name, known)}"
            )
        if not isinstance(value, str):
            raise ConfigurationError(
                f"{TRAIT} has the parameter {name!r} {len(value)} times; expected it once."
            )
        expected = driver.fault_of_parameter(name, value)
        if expected is not None:
            raise ConfigurationError(
                f"The parameter {name!r} of {TRAIT} cannot be used; expected {expected}."
            )


def _is_name(name: object) -> bool:
    """Return whether this can be a name: what cannot may be anything put in a wrong place."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z][\w-]{0,40}", name) is not None


def _instead_of(driver: Driver, name: str, known: frozenset[str]) -> str:
    near = driver.instead.get(name) or next(iter(get_close_matches(name, known, 1)), None)
    return f"Write: {near}" if near else "Remove it."


def _check_passwords(driver: Driver, passwords: Iterable[object], setting: str) -> None:
    """Refuse a password that the driver would fail to send."""
    for password in passwords:
        expected = driver.fault_of_password(password) if isinstance(password, str) else None
        if expected is not None:
            raise ConfigurationError(
                f"{setting} holds a password that the driver {driver.name} cannot send; expected "
                f"{expected}. Give the user another: ALTER USER ... IDENTIFIED BY '...';"
            )


def _dialect(url: URL) -> type[Dialect]:
    try:
        dialect = url.get_dialect()
    except (NoSuchModuleError, ArgumentError, AttributeError, ValueError) as error:
        # SQLAlchemy raises a ValueError for a name with two plus signs, and takes any module of a
        # dialect's package for a driver: one of those that are none is an AttributeError.
        if isinstance(error, AttributeError) and "+" not in url.drivername:
            raise
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
        extra = f"'jupyter_session_store[{driver.extra}]'" if driver.extra else None
        raise ConfigurationError(
            f"{TRAIT} needs the database driver {driver.name!r}, which is not installed. "
            f"Install it: pip install {extra or driver.distribution}"
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
    _check_options(settings, is_memory(url))
    provide = password_source(settings)
    dialect = url.get_dialect()
    backend = backend_of(dialect)
    given = settings.pop("connect_args", {})
    if isinstance(given, Mapping) and not {"creator", "module"} & settings.keys():
        _check_arguments(backend, given)
    defaults: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "hide_parameters": True,
        "connect_args": _connect_args(backend.driver, url, given, limiting=statement_timeout),
        **backend.driver.engine_options,
    }
    if dialect.detect_autocommit_setting is not DefaultDialect.detect_autocommit_setting:
        defaults["skip_autocommit_rollback"] = True
    if is_memory(url):
        defaults["poolclass"] = StaticPool
    elif "poolclass" not in settings:
        defaults |= {"pool_size": 1, "max_overflow": 0}
    try:
        # Of a wrong type, or negative, these fail later, where a connection is asked for.
        numbers = [settings[name] for name in _NUMBERS if name in settings]
        if not all(isinstance(one, (int, float)) for one in numbers) or not callable(
            settings.get("creator", create_engine)
        ):
            raise TypeError
        if any(settings.get(name, 0) < 0 for name in _NOT_NEGATIVE):
            raise ValueError
        if "creator" in settings:
            settings["creator"] = guarded(settings["creator"], dialect)
        engine = create_engine(url, **{**defaults, **settings})
    except Exception as error:
        if not (settings or given):
            raise ConfigurationError(
                f"{TRAIT} cannot be used for {url.get_backend_name()}: the value of a parameter is "
                "not one that SQLAlchemy takes there."
            ) from None
        # SQLAlchemy says which names it does not know; what else it repeats may be a password.
        known = isinstance(error, TypeError) and str(error).startswith("Invalid argument(s)")
        names = ", ".join(sorted(map(str, settings)))
        reason = str(error) if known else f"one of {names} is of a wrong type, or not possible"
        raise ConfigurationError(
            f"{OPTIONS} cannot be used for {url.get_backend_name()}: {reason}. Expected keyword "
            "arguments of sqlalchemy.create_engine."
        ) from None
    if provide is not None:
        provide_password(engine, provide)
    backend.prepare(engine)
    backend.driver.prepare(engine, given, statement_timeout=statement_timeout)
    guard(engine)
    return engine


def _check_options(settings: Mapping[str, Any], in_memory: bool) -> None:
    """Refuse what would change how the store's statements are carried out."""
    reserved = _RESERVED_OPTIONS | (_RESERVED_IN_MEMORY if in_memory else frozenset())
    if refused := reserved & settings.keys():
        raise ConfigurationError(
            f"{OPTIONS} holds {', '.join(sorted(refused))}, which the store sets "
            "itself: its statements commit by themselves, on one connection. Remove it."
        )
    given = settings.get("execution_options", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{OPTIONS}['execution_options'] is of type {type(given).__name__}; expected a dict."
        )
    if others := given.keys() - _EXECUTION_OPTIONS:
        raise ConfigurationError(
            f"{OPTIONS}['execution_options'] holds {', '.join(sorted(map(str, others)))}, which "
            "would change what the store's statements do: they commit by themselves. Expected "
            f"{', '.join(_EXECUTION_OPTIONS)} at most. Remove it."
        )
    recycle = settings.get("pool_recycle", -1)
    if isinstance(recycle, bool) or not isinstance(recycle, (int, float)):
        raise ConfigurationError(
            f"{OPTIONS}['pool_recycle'] is of type {type(recycle).__name__}; expected a number "
            "of seconds."
        )


def _check_arguments(backend: Backend, given: Mapping[Any, Any]) -> None:
    """Refuse arguments that the driver would refuse only when it connects."""
    driver = backend.driver
    known = driver.arguments()
    if known is None:
        return
    if misplaced := _OF_URL & known & given.keys():
        raise ConfigurationError(
            f"{OPTIONS}['connect_args'] holds {' and '.join(sorted(misplaced))}; expected the "
            f"place of the database in {TRAIT}: each question and log line names it from there."
        )
    for name in given.keys() - known - {"autocommit"}:
        shown = f"no argument {name!r}" if _is_name(name) else "not all of them"
        hint = f" {_instead_of(driver, name, known)}" if _is_name(name) else ""
        raise ConfigurationError(
            f"{OPTIONS} cannot be used for {backend.name}: the driver {driver.name} knows "
            f"{shown}.{unquote(hint)} Expected keyword arguments of its connect function in "
            "connect_args; they are the configured ones, whatever database is named."
        )


def _connect_args(driver: Driver, url: URL, given: object, *, limiting: bool) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{OPTIONS}['connect_args'] is of type {type(given).__name__}; expected a dict of "
            "keyword arguments of the driver's connect function."
        )
    if "autocommit" in given:
        raise ConfigurationError(
            f"{OPTIONS}['connect_args'] holds autocommit, which the store sets itself: its "
            "statements commit by themselves. Remove it."
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            continue
        expected = driver.fault_of_parameter(name, str(value))
        if isinstance(value, str) and name in driver.numbers:
            expected = "a number, and not a text"
        if name in driver.truths:
            expected = "True or False, and not a text" if isinstance(value, str) else None
        if expected is not None:
            raise ConfigurationError(
                f"{OPTIONS}['connect_args'][{name!r}] cannot be used; expected {expected}."
            )
    _check_passwords(driver, (given.get(name) for name in ARGUMENTS), OPTIONS)
    ours = {**driver.connect_args, **(driver.limiting_args if limiting else {})}
    if driver.program_argument is not None:
        ours[driver.program_argument] = program_name()
    return {k: v for k, v in ours.items() if k not in url.query} | dict(given)


def program_name() -> str:
    """Return what a database shows its operators of this process, in as much as it shows."""
    name = f"jupyter_session_store {__version__} {os.getpid()}@{socket.gethostname()}"
    return name.encode("ascii", "replace")[:_NAME_BYTES].decode()
