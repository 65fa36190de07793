"""Taking over the sessions of another file of the stock manager's, which is only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from ...errors import ConfigurationError, StoreUnavailable
from ...records import Scope, SessionRecord
from ..engine.sqlite_files import is_sqlite_file
from ..engine.timeouts import BUSY_TIMEOUT
from ..queries.rows import to_row
from ..schema import stock, versions
from ..tables import META, UTCDateTime
from .bulk_insert import NAMES, Counts, Row, Target, count_absent

_EXPECTED: Final = (
    "expected a file that Jupyter Server's own session manager has made: the value that "
    "c.SessionManager.database_filepath had"
)
#: What the stock manager knows of a session, and a server may have changed since.
_STOCK: Final = itemgetter(*map(NAMES.index, ("path", "name", "type", "kernel_id", "authority")))


#: By their ids.
_Records = dict[str, SessionRecord]


class FileUnavailable(StoreUnavailable):
    """The stock manager's file cannot be read now."""

    what = "stock manager's file"


@contextmanager
def open_file(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a file of the stock manager that can only read.

    Refused if it is none, or its sessions were taken over already.
    """
    try:
        if not file.is_file():
            raise ConfigurationError(f"There is no file {str(file)!r}; {_EXPECTED}.")
        if not is_sqlite_file(file):
            raise ConfigurationError(f"The file {str(file)!r} is not SQLite's; {_EXPECTED}.")
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(
            sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
        ) as raw:
            _refuse_other(raw, file)
            yield raw
    except OSError as error:
        raise FileUnavailable(f"{str(file)!r}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise FileUnavailable(
            f"{str(file)!r}: {error}. Stop the server that uses it, and run this again"
        ) from error


def _refuse_other(raw: sqlite3.Connection, file: Path) -> None:
    tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
    ours = META.name in tables
    if ours:
        adopted = f"SELECT 1 FROM {META.name} WHERE name = ?"
        ours = raw.execute(adopted, (versions.STOCK_ADOPTED,)).fetchone() is not None
    has_table = stock.is_stock_table(raw)
    if ours or (versions.VERSION_TABLE in tables and not has_table):
        raise ConfigurationError(
            f"The file {str(file)!r} is one of jupyter_session_store, which keeps its sessions in "
            "tables of its own. Run: jupyter session-store copy --from FILE --to DATABASE"
        )
    if not has_table:
        raise ConfigurationError(f"The file {str(file)!r} has no table of sessions; {_EXPECTED}.")


def count(raw: sqlite3.Connection, scope: Scope) -> Counts:
    """Return what would become of a file's rows in a database that has no sessions."""
    counts = Counts()
    for size, records in _batches(raw, scope):
        counts.read += size
        counts.added += len(records)
        counts.left_out += size - len(records)
    return counts


def take_over(
    raw: sqlite3.Connection,
    target: Connection,
    scope: Scope,
    *,
    advance: Callable[[int], None],
    tell: Callable[[str], None],
    dry_run: bool = False,
) -> Counts:
    """Copy a file's sessions into a scope; those that are there already stay as they are.

    The parameters are as :func:`.copying.copy` has them. A row that is no session, or of an id
    that a row shortly before it has, is one that was left out. Different is one whose path, name,
    type, kernel or authority is another in the target.
    """
    adding = Target(target, tell, same=_is_same, dry_run=dry_run)
    date = partial(UTCDateTime().process_bind_param, dialect=target.dialect)
    for size, records in _batches(raw, scope):
        adding.counts.read += size
        adding.counts.left_out += size - len(records)
        adding.add([_row(record, date) for record in records.values()])
        advance(size)
    return adding.counts


def _batches(raw: sqlite3.Connection, scope: Scope) -> Iterator[tuple[int, _Records]]:
    """Yield how many rows were read, and the sessions among them."""
    for found in stock.sessions(raw, scope, server_id=None):
        records: _Records = {}
        for record in found:
            if record is not None:
                records.setdefault(record.session_id, record)
        yield len(found), records


def _row(record: SessionRecord, date: Callable[[datetime], Any]) -> Row:
    """Return the row of a session that was just made, in the order of the table's columns."""
    values = to_row(record)
    values["created_at"] = values["updated_at"] = date(record.created_at)
    return tuple(values[name] for name in NAMES)


def _is_same(row: Row, found: Row) -> bool:
    return bool(_STOCK(row) == _STOCK(found))


def count_missing(raw: sqlite3.Connection, target: Connection, scope: Scope) -> int:
    """Return how many of a file's sessions are not in a scope's namespace."""
    count = 0
    for _, records in _batches(raw, scope):
        if records:
            count += count_absent(target, {(scope.namespace, session_id) for session_id in records})
    return count
