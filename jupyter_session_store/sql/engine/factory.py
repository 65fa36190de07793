"""From ``database_filepath`` to an engine: ONE factory for server, command line and migrations."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, Dialect, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from ...errors import ConfigurationError
from .files import is_on_network_file_system, refuse_unusable_file
from .passwords import OPTIONS, password_source, provide_password
from .tls import share_default_context

TRAIT: Final = "c.SessionManager.database_filepath"
MEMORY: Final = ":memory:"

#: Seconds. A connection, and a statement, that takes longer is given up, the
#: statement by the database itself: what a client was refused must not happen later.
CONNECT_TIMEOUT: Final = 5
STATEMENT_TIMEOUT: Final = 5
#: Seconds that SQLite waits for another process's lock.
BUSY_TIMEOUT: Final = 4
#: Seconds that a driver waits for an answer from a host that has gone silent.
_SILENCE: Final = 10

_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_EXTRAS: Final = {"psycopg": "postgresql", "pymysql": "mysql"}
_CONNECT_ARGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "psycopg": {
        "application_name": "jupyter_session_store",
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        # Prepared statements belong to a connection; behind PgBouncer in
        # transaction mode the next statement runs on another.
        "prepare_threshold": None,
        "tcp_user_timeout": _SILENCE * 1000,
    },
    "pymysql": {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": _SILENCE,
        "write_timeout": _SILENCE,
        # The first is for rows, the second for tables.
        "init_command": (
            f"SET SESSION innodb_lock_wait_timeout={BUSY_TIMEOUT}, lock_wait_timeout={BUSY_TIMEOUT}"
        ),
    },
    "pysqlite": {"timeout": BUSY_TIMEOUT, "check_same_thread": False},
}
#: PyMySQL's, which cannot tell a host that has gone silent from a statement that takes long.
_IMPATIENT: Final = frozenset({"read_timeout", "write_timeout"})
_OURS: Final = frozenset({"isolation_level", "skip_autocommit_rollback"})
#: The engines whose SQLite file holds this package's tables, so that they set its journal.
_KEEPERS: Final[WeakSet[Engine]] = WeakSet()


_URL_WITHOUT_COLON: Final = re.compile(r"^\w*//.*@")


def parse(text: str) -> URL:
    """Turn a path, ``:memory:`` or a URL into a URL that names its driver.

    Parameters
    ----------
    text : str
        What the user typed.

    Raises
    ------
    ConfigurationError
        If it cannot be parsed. The text is not repeated: it may hold a password.
    """
    if not text:
        raise ConfigurationError(
            f"{TRAIT} is empty; expected a file path, ':memory:' or a database URL. Remove the "
            "setting to use the default."
        )
    if text == MEMORY:
        return URL.create("sqlite")
    if "://" not in text and not _URL_WITHOUT_COLON.search(text):
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{TRAIT} is not a database URL; expected "
            "dialect://user:password@host:port/database, with every special "
            "character of the user and the password percent-encoded "
            "(urllib.parse.quote(password, safe=''))."
        ) from None
    if "@" in (url.host or "") or "@" in (url.database or "").partition("?")[0]:
        raise ConfigurationError(
            f"{TRAIT} holds an '@' in its host or database name; the password "
            "probably holds special characters that are not percent-encoded. "
            "Encode it with urllib.parse.quote(password, safe='')."
        )
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def is_memory(url: URL) -> bool:
    """Return whether the database lives in this process's memory alone."""
    if url.get_backend_name() != "sqlite":
        return False
    if url.database in (None, "", MEMORY, "file::memory:"):
        return True
    in_memory = {("mode", "memory"), ("vfs", "memdb")}
    return url.database.startswith("file:") and not in_memory.isdisjoint(url.query.items())


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite URL, or ``None`` (in memory, a ``file:`` URI, a server)."""
    if url.get_backend_name() != "sqlite" or is_memory(url):
        return None
    if not url.database or url.database.startswith("file:"):
        return None
    return Path(url.database)


def check(text: str, *, writes: bool = True) -> URL:
    """Refuse what can never work, without connecting to or creating anything.

    Parameters
    ----------
    text : str
        A path, ``:memory:`` or a URL.
    writes : bool
        As :func:`create` has it.

    Returns
    -------
    URL
        As :func:`parse` does.

    Raises
    ------
    ConfigurationError
        A malformed URL, an unknown dialect, a missing driver, an asynchronous
        driver, a directory, a file that is not SQLite's, or an unusable folder.
    """
    url = parse(text)
    _dialect(url)
    path = sqlite_file(url)
    if path is not None:
        refuse_unusable_file(path, TRAIT, writes=writes)
    return url


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
        driver = url.get_driver_name()
        extra = _EXTRAS.get(driver)
        package = f"'jupyter_session_store[{extra}]'" if extra else driver
        raise ConfigurationError(
            f"{TRAIT} needs the database driver {driver!r}, which is not installed. "
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
    patient: bool = False,
    writes: bool = True,
) -> Engine:
    """Create the engine; it connects to nothing yet.

    Its connections commit each statement by themselves: one round trip
    instead of three. A unit of work of several statements begins explicitly.
    A SQLite file keeps its journal as it is, until :func:`keep_journal`.

    Parameters
    ----------
    text : str
        A path, ``:memory:`` or a URL.
    options : mapping, optional
        Keyword arguments of :func:`sqlalchemy.create_engine`, and two of our
        own: ``password_file`` (a path) and ``password_provider`` (a callable
        without parameters, or ``"module:name"`` of one), either of which is
        read at each connect, for passwords that rotate.
    patient : bool
        Whether statements take as long as they take: an operator's do. To connect
        takes no longer for that.
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
    if refused := _OURS & settings.keys():
        raise ConfigurationError(
            f"{OPTIONS} holds {', '.join(sorted(refused))}, which the store sets "
            "itself: its statements commit by themselves. Remove it."
        )
    provide = password_source(settings)
    dialect = url.get_dialect()
    given = settings.pop("connect_args", {})
    defaults: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "hide_parameters": True,
        "connect_args": _connect_args(url, given),
    }
    if dialect.detect_autocommit_setting is not DefaultDialect.detect_autocommit_setting:
        defaults["skip_autocommit_rollback"] = True
    if url.get_driver_name() == "psycopg":
        # Looking for the type hstore costs a statement on each new connection.
        defaults["use_native_hstore"] = False
    if is_memory(url):
        defaults["poolclass"] = StaticPool
    elif "poolclass" not in settings:
        defaults |= {"pool_size": 1, "max_overflow": 0}
    try:
        engine = create_engine(url, **{**defaults, **settings})
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{OPTIONS} cannot be used for {url.get_backend_name()}: "
            f"{redact(str(error), url)}. Expected keyword arguments of "
            "sqlalchemy.create_engine."
        ) from None
    if provide is not None:
        provide_password(engine, provide)
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, sqlite_file(url))
    if url.get_driver_name() == "psycopg" and not patient:
        _limit_statements(engine)
    if url.get_driver_name() == "pymysql":
        share_default_context(engine)
        if patient:
            _lift_after_connect(engine, _IMPATIENT - url.query.keys() - given.keys())
    return engine


def _connect_args(url: URL, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{OPTIONS}['connect_args'] is of type {type(given).__name__}; expected a dict of "
            "keyword arguments of the driver's connect function."
        )
    ours = _CONNECT_ARGS.get(url.get_driver_name(), {})
    return {k: v for k, v in ours.items() if k not in url.query} | dict(given)


def _lift_after_connect(engine: Engine, names: Collection[str]) -> None:
    @event.listens_for(engine, "connect")
    def _lift(connection: Any, _record: Any) -> None:
        # Not before: PyMySQL's connect_timeout ends with the TCP connection, and a host
        # that accepts it and says nothing would be waited for for ever.
        lift_time_outs(connection, names)


def lift_time_outs(connection: Any, names: Collection[str] = _IMPATIENT) -> None:
    """Let a connection of PyMySQL wait for an answer for as long as it takes."""
    for name in names:
        # It puts them on its socket before each statement, and has no public way to change them.
        setattr(connection, f"_{name}", None)


def _limit_statements(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _set(connection: Any, _record: Any) -> None:
        # Not as a start-up parameter, which PgBouncer refuses.
        autocommit, connection.autocommit = connection.autocommit, True
        connection.execute(statement_limit(connection, STATEMENT_TIMEOUT))
        connection.autocommit = autocommit


def statement_limit(connection: Any, seconds: float) -> str:
    """Return the statement that sets, or at 0 lifts, the time-out of psycopg's connection.

    It does nothing behind a pooler, where the process that answers is not the
    one that was named at connect: the time-out would stay on the pooler's
    connection, for whoever gets it next.
    """
    return (
        f"SELECT set_config('statement_timeout', '{seconds}s', false) "
        f"WHERE pg_backend_pid() = {connection.info.backend_pid:d}"
    )


def _prepare_sqlite(engine: Engine, path: Path | None) -> None:
    @event.listens_for(engine, "do_connect")
    def _create_private(_dialect: Any, _record: Any, _cargs: Any, _cparams: Any) -> None:
        if path is not None and not path.exists():
            # SQLite would create it readable to all; its -wal and -shm files follow its mode.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _record: Any) -> None:
        if path is None:
            return
        cursor = connection.cursor()
        try:
            _set_journal(cursor.execute, path if engine in _KEEPERS else None)
        finally:
            cursor.close()


def _set_journal(execute: Callable[[str], Any], path: Path | None) -> None:
    """Set the journal of a file, or with `path` as ``None`` only what suits that which it has."""
    found = execute("PRAGMA journal_mode").fetchone()[0]
    if path is not None:
        # Shared memory, which WAL needs, does not work across the hosts of a network file system.
        wanted = "delete" if is_on_network_file_system(path) else "wal"
        if found != wanted:
            found = execute(f"PRAGMA journal_mode={wanted}").fetchone()[0]
    if found == "wal":
        # In WAL this cannot corrupt; a power cut may lose the last sessions,
        # whose kernels it ended too.
        execute("PRAGMA synchronous=NORMAL")


def keep_journal(connection: Connection) -> None:
    """Give a SQLite file the journal with which readers and a writer do not wait for each other.

    Now, and at each connect of this engine from now on. Only where the tables of
    this package are: the file stays as it is under who just looks at it, and may be
    another program's, or a backup.

    Parameters
    ----------
    connection : Connection
        To any database, in no transaction. Only a SQLite file has such a journal.
    """
    engine = connection.engine
    path = sqlite_file(engine.url)
    if path is not None and engine not in _KEEPERS:
        _set_journal(connection.exec_driver_sql, path)
        _KEEPERS.add(engine)


_URL_WITH_CREDENTIALS = re.compile(r"\b[\w+.-]+://[^\s/@]*@\S*")


def passwords_of(url: URL) -> list[str]:
    """Return the passwords that a URL holds, in their place or among its parameters."""
    found = [] if url.password is None else [str(url.password)]
    for name, value in url.query.items():
        if "pass" in name.lower():
            found += [value] if isinstance(value, str) else value
    return [password for password in found if password]


def redact(text: str, url: URL) -> str:
    """Return a driver's message without a password and without a whole URL."""
    for password in passwords_of(url):
        text = text.replace(password, "***")
    return _URL_WITH_CREDENTIALS.sub("(URL)", text)


def reason_of(error: SQLAlchemyError, url: URL) -> str:
    """Return what may be shown of an error: the first line of the driver's own text."""
    text = str(error)
    if isinstance(error, DBAPIError) and error.orig is not None:
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        text = lines[0]
    return redact(text, url)


def describe(url: URL) -> str:
    """Return what may be shown of a URL: the backend and the host, or the file's name."""
    if is_memory(url):
        return "SQLite in memory"
    path = sqlite_file(url)
    if path is not None:
        return f"SQLite file {str(path)!r}"
    name = url.get_backend_name()
    return f"{name} on {url.host}" if url.host else name
