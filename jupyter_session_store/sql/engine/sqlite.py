"""SQLite, through the driver that comes with Python."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, String, event
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError
from sqlalchemy.types import TypeEngine

from ...locations import MEMORY
from .backend import Backend, Driver, fault_of_truth, in_utc, listed
from .faults import DriverFault
from .sqlite_files import is_on_network_file_system
from .timeouts import BUSY_TIMEOUT
from .transactions import commit_or_roll_back

#: SQLite's codes, and its texts: sqlite3 tells the code from Python 3.11 on.
_BUSY: Final[Mapping[int, str]] = {5: "locked", 6: "locked"}
#: A file that may only be read, and one beside which no journal can be made.
_READ_ONLY: Final[Mapping[int, str]] = {8: "readonly database", 14: "unable to open database file"}
_FULL: Final[Mapping[int, str]] = {13: "database or disk is full"}
#: One code stands for all that is wrong in a statement.
_SCHEMA_CHANGED: Final = (
    "no such table",
    "no such column",
    "has no column named",
    "NOT NULL constraint failed",
    "CHECK constraint failed",
    "FOREIGN KEY constraint failed",
)

#: Parameters of a URL: what sqlite3 takes, and what SQLite takes of a URI.
_OF_PYTHON: Final = frozenset(
    {"cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout"}
)
_WHOLE_NUMBERS: Final = frozenset({"cached_statements", "detect_types"})
_TRUTHS: Final = frozenset({"check_same_thread", "uri"})
_PARAMETERS: Final = _OF_PYTHON | {
    *("cache", "immutable", "mode", "modeof", "nolock", "psow", "uri", "vfs"),
}

#: The engines whose file holds this package's tables, so that they set its journal.
_JOURNAL_ENGINES: Final[WeakSet[Engine]] = WeakSet()


class PySQLite(Driver):
    """The module sqlite3 of Python."""

    connect_args = {"timeout": BUSY_TIMEOUT, "check_same_thread": False}  # noqa: RUF012

    def parameters(self) -> frozenset[str]:
        """Return what sqlite3 takes, and what SQLite takes of a URI."""
        return _PARAMETERS

    def arguments(self) -> frozenset[str]:
        """Return what sqlite3 takes; not the file, which is the URL's."""
        return _OF_PYTHON | {"factory", "uri"}

    numbers = _WHOLE_NUMBERS | {"timeout"}
    truths = _TRUTHS

    def fault_of_parameter(self, name: str, value: str) -> str | None:
        """Check numbers, and what is on or off."""
        if name in _WHOLE_NUMBERS and not re.fullmatch(r"\d{1,9}", value):
            return "a whole number, 0 or more"
        if name == "timeout" and not re.fullmatch(r"\d{1,9}(\.\d+)?", value):
            return "a number"
        if name in _TRUTHS:
            return fault_of_truth(value)
        return None

    def describe(self, module: Any, release: str | None) -> str:
        return f"sqlite3 of Python, SQLite {module.sqlite_version}"


class SQLite(Backend):
    """A file, or a database in memory."""

    title = "SQLite"

    # A reader that turns to writing later fails at once in WAL mode.
    begin = "BEGIN IMMEDIATE"
    begin_excludes_writers = True
    is_embedded = True
    may_hold_stock_table = True
    is_typed = False
    migration_isolation = None
    examinations = "sqlite"
    no_wall = "it has no roles, and whoever may read the file reads all of it"

    def is_memory(self, url: URL) -> bool:
        if url.database in (None, "", MEMORY, "file::memory:"):
            return True
        in_memory = {("mode", "memory"), ("vfs", "memdb")}
        return url.database.startswith("file:") and not in_memory.isdisjoint(url.query.items())

    def normalise(self, url: URL) -> URL:
        """Turn a ``file:`` URI of a file on a disk into its path, with all that a path gets."""
        name = url.database or ""
        if not name.startswith("file:") or self.is_memory(url):
            return url
        parts, usual = urlsplit(name), {"uri": url.query.get("uri"), "mode": "rwc"}
        of_uri = {name: value for name, value in url.query.items() if name not in _OF_PYTHON}
        if parts.netloc not in ("", "localhost") or not of_uri.items() <= usual.items():
            return url
        rest = {name: value for name, value in url.query.items() if name in _OF_PYTHON}
        return url.set(database=unquote(parts.path), query=rest) if parts.path else url

    def file(self, url: URL) -> Path | None:
        if self.is_memory(url) or not url.database or url.database.startswith("file:"):
            return None
        return Path(url.database)

    def describe(self, url: URL) -> str:
        if self.is_memory(url):
            return "sqlite in memory"
        path = self.file(url)
        return f"sqlite {url.database if path is None else path.absolute()}"

    def prepare(self, engine: Engine) -> None:
        """Make a new file private, and set what suits its journal."""
        path = self.file(engine.url)
        if path is None:
            return

        @event.listens_for(engine, "do_connect")
        def _create_private(_dialect: Any, _record: Any, _cargs: Any, _cparams: Any) -> None:
            try:
                if not path.exists():
                    # SQLite would create it readable to all; its -wal and -shm files follow its
                    # mode. Not one that another thread has made meanwhile: its locks would go.
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            except FileExistsError:
                pass
            except OSError as error:
                raise DriverFault(f"{type(error).__name__}: {error.strerror}") from error

        @event.listens_for(engine, "connect")
        def _set(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            try:
                _set_journal(cursor.execute, path if engine in _JOURNAL_ENGINES else None)
            finally:
                cursor.close()

    def keep_journal(self, connection: Connection) -> None:
        engine = connection.engine
        path = self.file(engine.url)
        if path is not None and engine not in _JOURNAL_ENGINES:
            _set_journal(connection.exec_driver_sql, path)
            _JOURNAL_ENGINES.add(engine)

    def forget_journal(self, engine: Engine) -> None:
        _JOURNAL_ENGINES.discard(engine)

    def count_columns(self, table: str, columns: Collection[str]) -> str:
        return (
            f"SELECT count(*) FROM pragma_table_info('{table}') WHERE name IN ({listed(columns)})"
        )

    def date_time(self) -> TypeEngine[Any]:
        return String(32)

    def date_parameter(self, value: datetime) -> Any:
        return in_utc(value).isoformat(" ", "microseconds")

    def is_rolled_back(self, error: SQLAlchemyError) -> bool:
        return isinstance(error, DatabaseError) and _has_code(error, _BUSY)

    def is_write_denied(self, error: SQLAlchemyError) -> bool:
        return _has_code(error, _READ_ONLY)

    def cure_of(self, error: BaseException) -> str | None:
        if isinstance(error, SQLAlchemyError) and _has_code(error, _FULL):
            return "Make room on the disk of the file."
        return super().cure_of(error)

    def is_schema_changed(self, error: SQLAlchemyError) -> bool:
        return super().is_schema_changed(error) or _says(_orig(error), _SCHEMA_CHANGED)

    @contextmanager
    def migration_lock(self, connection: Connection, attempts: Iterator[None]) -> Iterator[None]:
        """Hold the write transaction itself; commit it at the end, or roll it back."""
        busy = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        try:
            for _attempt in attempts:
                try:
                    connection.exec_driver_sql(self.begin)
                    break
                except DBAPIError as error:
                    if "locked" not in str(error.orig):
                        raise
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={int(busy)}")
        with commit_or_roll_back(connection):
            yield


def _set_journal(execute: Callable[[str], Any], path: Path | None) -> None:
    """Set the journal of a file, or with `path` as ``None`` only what suits its present one."""
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


def _orig(error: SQLAlchemyError) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else None


def _has_code(error: SQLAlchemyError, texts: Mapping[int, str]) -> bool:
    orig = _orig(error)
    code = getattr(orig, "sqlite_errorcode", None)
    return _says(orig, texts.values()) if code is None else (code & 0xFF) in texts


def _says(orig: BaseException | None, texts: Any) -> bool:
    return type(orig).__module__.startswith("sqlite3") and any(text in str(orig) for text in texts)
