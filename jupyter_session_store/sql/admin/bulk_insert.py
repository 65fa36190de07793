"""Adding many sessions to a database that may have some of them, while servers write to it.

A row is a tuple as the database's driver has it, in the order of the table's columns: to
make an object of each would take about as long as to store it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import eq
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, FromClause, and_, insert, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from ..engine.backend import backend_of
from ..engine.transactions import transaction
from ..engine.url import reason_of
from ..queries.rows import dates_in, readable
from ..tables import SESSIONS
from .admin_connection import retry_if_rolled_back
from .listing import pages

Row = tuple[Any, ...]
#: A session's namespace and id.
Key = tuple[str, str]


NAMES: Final = tuple(SESSIONS.columns.keys())
#: The columns of a row, and of a key, which it begins with.
COLUMNS: Final = readable(SESSIONS)
#: Which of them are dates.
DATES: Final = dates_in(NAMES)
KEY: Final = (SESSIONS.c.namespace, SESSIONS.c.session_id)
assert NAMES[: len(KEY)] == tuple(column.name for column in KEY)
_CLAIM: Final = NAMES.index("claim")

#: What a database says of a row that it will not have.
_REFUSALS: Final = (IntegrityError, DataError)
#: How a value is marked in a statement of a driver that takes rows as tuples.
_MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}
#: Ids that one statement names: SQLite may have been built to take no more than 999.
_IDS: Final = 500
#: Rows that are named when they are left out.
_NAMED: Final = 10


@dataclass
class Counts:
    """What became of the rows that were to be added.

    Those that were `there_already` stay as they are; some are `different` from what was read. Of
    those added, some are `without_claim`: another session holds their path there. Those
    `left_out` cannot be stored.
    """

    read: int = 0
    added: int = 0
    there_already: int = 0
    different: int = 0
    without_claim: int = 0
    left_out: int = 0


class Target:
    """The database that sessions are added to, and a count of what became of them.

    A session that is there already stays as it is; `same` says whether it is the one that was
    read. `tell` is told of the first few rows that are left out, and why. A dry run looks and
    counts, and adds nothing. For one thread.
    """

    def __init__(
        self,
        connection: Connection,
        tell: Callable[[str], None],
        *,
        same: Callable[[Row, Row], bool] = eq,
        dry_run: bool = False,
    ) -> None:
        self.counts = Counts()
        self._connection = connection
        self._tell = tell
        self._same = same
        self._dry_run = dry_run
        self._write = _writer(connection)
        #: Whether rows are looked for before they are added. Where none was found, those
        #: that follow are added as if none were there, until one is refused.
        self._looking = True

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, each of another key, in one transaction; in several where some are refused."""
        if not rows or self.add_blindly(len(rows), partial(self._write, rows)):
            return
        new = self._find_new(rows)
        self._looking = len(new) < len(rows)
        if self._dry_run:
            self.counts.added += len(new)
        elif new:
            self._add_in_halves(new)

    def add_blindly(self, number: int, write: Callable[[], object]) -> bool:
        """Have `write` add rows that are probably not there, all or none; return whether it did.

        If not, have them added by :meth:`add`.
        """
        if self._looking or self._dry_run:
            return False
        try:
            self._commit(write)
        except _REFUSALS:
            self._looking = True
            return False
        self.counts.added += number
        return True

    def leave_out(self, row: Row, why: str) -> None:
        """Count a row that cannot be stored."""
        self.counts.left_out += 1
        if self.counts.left_out <= _NAMED:
            self._tell(f"Left out the session {row[1]!r} of the namespace {row[0]!r}: {why}")

    def _find_new(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that are not there, and count those that are."""
        unknown = {row[:2]: row for row in rows}
        for found in find(self._connection, COLUMNS, set(unknown)):
            self._count_known(unknown.pop(found[:2]), found)
        return list(unknown.values())

    def _count_known(self, row: Row, found: Row) -> None:
        self.counts.there_already += 1
        self.counts.different += not self._same(row, found)

    def _add_in_halves(self, rows: Sequence[Row]) -> None:
        try:
            self._commit(partial(self._write, rows))
        except _REFUSALS as error:
            if len(rows) == 1:
                self._add_refused(rows[0], error)
                return
            middle = len(rows) // 2
            self._add_in_halves(rows[:middle])
            self._add_in_halves(rows[middle:])
        else:
            self.counts.added += len(rows)

    def _add_refused(self, row: Row, error: DBAPIError) -> None:
        """Find out why a row was refused, and add it without its claim if that is why."""
        for found in find(self._connection, COLUMNS, [row[:2]]):
            # A server was quicker.
            self._count_known(row, found)
            return
        unclaimed = (*row[:_CLAIM], None, *row[_CLAIM + 1 :])
        if isinstance(error, IntegrityError) and row != unclaimed:
            try:
                self._commit(partial(self._write, [unclaimed]))
            except _REFUSALS as refusal:
                error = refusal
            else:
                self.counts.added += 1
                self.counts.without_claim += 1
                return
        self.leave_out(row, reason_of(error, self._connection.engine.url))

    def _commit(self, write: Callable[[], object]) -> None:
        def attempt() -> None:
            with transaction(self._connection):
                write()

        retry_if_rolled_back(self._connection, attempt)


def _writer(connection: Connection) -> Callable[[Sequence[Row]], object]:
    """Return what adds rows by the fastest way that the driver has."""
    dialect, backend = connection.dialect, backend_of(connection)
    if backend.strict_mode:
        connection.exec_driver_sql(backend.strict_mode)
    write = backend.driver.row_writer(connection, SESSIONS.name, NAMES)
    if write is not None:
        return write
    mark = _MARKS.get(dialect.paramstyle)
    if mark is None:
        return lambda rows: connection.execute(
            insert(SESSIONS), [dict(zip(NAMES, row, strict=True)) for row in rows]
        )
    columns = ", ".join(map(dialect.identifier_preparer.quote, NAMES))
    marks = ", ".join([mark] * len(NAMES))
    statement = f"INSERT INTO {SESSIONS.name} ({columns}) VALUES ({marks})"
    return partial(connection.exec_driver_sql, statement)


def find(connection: Connection, columns: Sequence[Any], keys: Collection[Key]) -> Iterator[Row]:
    """Yield those of some sessions that are there: their :data:`COLUMNS`, or their :data:`KEY`.

    There is one key at least, and not many more than are read at once.
    """
    for page in _around(connection, columns, keys):
        yield from (row for row in page if row[:2] in keys)


def count_absent(connection: Connection, keys: Collection[Key]) -> int:
    """Return how many of some sessions are not there; as :func:`find` does."""
    there: set[Row] = set()
    for page in _around(connection, KEY, keys):
        there.update(page)
    return len(set(keys) - there)


def _around(
    connection: Connection, columns: Sequence[Any], keys: Collection[Key]
) -> Iterator[list[Row]]:
    """Yield those sessions, and perhaps others between them."""
    namespace, session_id = KEY
    first, last = min(keys), max(keys)
    whole = select(*columns)
    if first[0] == last[0]:
        ids = iter(one for _, one in keys)
        while some := list(islice(ids, _IDS)):
            named = whole.where(namespace == first[0], session_id.in_(some))
            # More than there can be: none has to be looked for after them.
            yield from pages(connection, named, batch=_IDS + 1)
        return
    # To name each namespace and its ids is slow.
    for span in spans(first, last):
        yield from pages(connection, whole.where(span))


def spans(first: Key, last: Key, table: FromClause = SESSIONS) -> list[ColumnElement[bool]]:
    """Return the ranges of the primary key that lie between two keys, as conditions.

    One condition for all of them is read as a whole table on some databases.
    """
    namespace, session_id = table.c.namespace, table.c.session_id
    if first[0] == last[0]:
        return [and_(namespace == first[0], session_id.between(first[1], last[1]))]
    return [
        and_(namespace == first[0], session_id >= first[1]),
        and_(namespace > first[0], namespace < last[0]),
        and_(namespace == last[0], session_id <= last[1]),
    ]
