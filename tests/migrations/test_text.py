"""What goes in comes out, in every column: what Alembic's comparison cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from sqlalchemy import Column, Engine, Integer, Table, delete, insert, select

from jupyter_session_store.records import LIMITS
from jupyter_session_store.sql.tables import METADATA, SESSIONS, ExactText, UTCDateTime

#: Each pair is one text to some collation, or to a driver that is too helpful.
CONFUSABLE: Final = (
    "A.ipynb",
    "a.ipynb",
    "a.ipynb ",
    " a.ipynb",
    "bob",
    "bob ",
    "",
    " ",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "cafe",
    "stra\N{LATIN SMALL LETTER SHARP S}e",
    "strasse",
    "I",
    "i",
    "\N{LATIN SMALL LETTER DOTLESS I}",
    "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}",
    "\N{KELVIN SIGN}",
    "K",
    "\N{PARTY POPPER}",
    "\N{CONFETTI BALL}",
    "\N{OHM SIGN}",
    "\N{GREEK CAPITAL LETTER OMEGA}",
    "a\N{ZERO WIDTH SPACE}b",
    "ab",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "a\\b",
    "a\\\\b",
    "%s",
    "%%s",
    ":name",
    "a'b",
    'a"b',
    "10",
    "1e1",
    "010",
    "\U0010fffd",
    "\x01",
)
MOMENT: Final = datetime(2031, 12, 31, 23, 59, 59, 123456, tzinfo=timezone.utc)

COLUMNS: Final = [column for table in METADATA.sorted_tables for column in table.c]
TEXTS: Final = [column for column in COLUMNS if isinstance(column.type, ExactText)]
#: A long text is kept, and never compared.
COMPARED: Final = [
    column
    for column in TEXTS
    if isinstance(column.type, ExactText) and column.type.length is not None
]
MOMENTS: Final = [column for column in COLUMNS if isinstance(column.type, UTCDateTime)]


def length(column: Column[Any]) -> int:
    """Return how many characters a column of text has to hold."""
    found = column.type.length if isinstance(column.type, ExactText) else None
    return found or LIMITS[column.name]


def row(table: Table, number: int) -> dict[str, Any]:
    """Return a row whose key, and whose claim, no other number has."""
    values: dict[str, Any] = {}
    for column in table.c:
        if isinstance(column.type, UTCDateTime):
            values[column.name] = MOMENT
        elif isinstance(column.type, Integer):
            values[column.name] = number
        else:
            unique = column.primary_key or column.name == "claim"
            values[column.name] = f"key {number}" if unique else "text"
    return values


def rows(column: Column[Any], values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a row for each value of a column."""
    made = []
    for number, value in enumerate(values):
        values_of = row(column.table, number)
        if column.primary_key:
            # The rest of the key is the same, so that the index too must tell the values apart.
            values_of |= {other.name: "same" for other in column.table.primary_key}
        made.append(values_of | {column.name: value})
    return made


def stored(engine: Engine, column: Column[Any], values: Sequence[Any]) -> list[Any]:
    """Store values in a column of an empty table, and return what the database makes of them."""
    with engine.connect() as connection:
        connection.execute(delete(column.table))
        connection.execute(insert(column.table), rows(column, values))
        return list(connection.execute(select(column).order_by(column)).scalars())


def equal_to(engine: Engine, column: Column[Any], value: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(column).where(column == value)).scalars())


def test_there_is_text_and_there_are_moments() -> None:
    assert len(TEXTS) >= 19
    assert len(MOMENTS) == 3
    assert [column.name for column in TEXTS if column not in COMPARED] == ["kernel_model"]


def test_each_text_has_room_for_its_limit() -> None:
    limited = [
        column
        for column in COMPARED
        if column.name in LIMITS and column.table.name != "jupyter_session_store_meta"
    ]
    assert {column.name for column in limited} == LIMITS.keys() - {"kernel_model"}
    # The package makes these itself. Any other text needs a limit, which records check.
    made = {"path_digest", "state", "claim"}
    texts = {column.name for column in TEXTS if column.table is SESSIONS}
    assert texts - LIMITS.keys() == made
    for column in limited:
        assert length(column) >= LIMITS[column.name], str(column)


def test_text_comes_out_as_it_went_in(at_head: Engine) -> None:
    for column in TEXTS:
        assert sorted(stored(at_head, column, CONFUSABLE)) == sorted(CONFUSABLE), str(column)


def test_text_is_compared_and_sorted_by_its_code_points(at_head: Engine) -> None:
    for column in COMPARED:
        assert stored(at_head, column, CONFUSABLE) == sorted(CONFUSABLE), str(column)
        for text in CONFUSABLE:
            assert equal_to(at_head, column, text) == [text], str(column)


def test_as_much_text_as_the_limit_of_four_byte_characters(at_head: Engine) -> None:
    for column in TEXTS:
        text = "\N{PARTY POPPER}" * (length(column) - 1)
        full = (f"{text}\N{CONFETTI BALL}", f"{text}\N{PARTY POPPER}")
        assert set(stored(at_head, column, full)) == set(full), str(column)
        assert equal_to(at_head, column, full[0]) == [full[0]], str(column)


def test_all_texts_at_their_limits_in_one_row(at_head: Engine) -> None:
    """A row has a limit of its own on MySQL and MariaDB: 65,535 bytes."""
    for table in METADATA.sorted_tables:
        whole = row(table, 0)
        for column in table.c:
            if column in TEXTS:
                whole[column.name] = "\N{PARTY POPPER}" * length(column)
        with at_head.connect() as connection:
            connection.execute(delete(table))
            connection.execute(insert(table), whole)
            assert dict(connection.execute(select(table)).one()._mapping) == whole


def test_a_moment_is_kept_to_the_microsecond(at_head: Engine) -> None:
    east = timezone(timedelta(hours=5, minutes=45))
    moments = (
        datetime(2026, 3, 29, 1, 30, tzinfo=timezone.utc),
        datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=timezone.utc),
        datetime(2026, 3, 29, 1, 30, 0, 999_999, tzinfo=timezone.utc),
        # The hour that is not there in a European spring, and another time zone.
        datetime(2026, 3, 29, 2, 30, 0, 123_456, tzinfo=timezone.utc),
        datetime(2026, 3, 29, 8, 30, 0, 123_456, tzinfo=east),
        MOMENT,
    )
    for column in MOMENTS:
        found = stored(at_head, column, moments)
        assert found == sorted(moments), str(column)
        assert all(moment.utcoffset() == timedelta(0) for moment in found)
