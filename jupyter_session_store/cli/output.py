"""Results: a table for a terminal, plain lines for a pipe, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, Final

__all__ = ["Output", "OutputError", "escape_controls", "flush", "format_value"]

#: Rows of one table on a terminal: its columns are as wide as these need.
_TABLE_ROWS: Final = 200


class OutputError(Exception):
    """Standard output takes no more."""


class Output:
    """Writes results to standard output, row by row: memory does not grow with them.

    Parameters
    ----------
    as_json : bool
        Whether to write JSON: a list as one array, streamed.
    """

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def rows(
        self, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str
    ) -> int:
        """Write a list.

        Parameters
        ----------
        rows : iterable of mapping
            In JSON each is written whole.
        columns : mapping
            The keys that a table shows, and their headings.
        empty : str
            What a terminal is told if there are none.

        Returns
        -------
        int
            How many there were.
        """
        if self._json:
            return _write_array(rows)
        if not sys.stdout.isatty():
            return _write_lines(rows, columns)
        count = _write_tables(rows, columns)
        if not count:
            _write(f"{empty}\n")
        return count

    def each(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write all of each of them, a block for each.

        Returns
        -------
        int
            How many there were.
        """
        if self._json:
            return _write_array(rows)
        count = 0
        for count, row in enumerate(rows, start=1):
            if count > 1:
                _write("\n")
            self.one(row)
        return count

    def one(self, values: Mapping[str, Any]) -> None:
        """Write one thing: a line for each of its values."""
        if self._json:
            _write(f"{json.dumps(values, default=_to_json, indent=2)}\n")
            return
        width = max(map(len, values))
        for name, value in values.items():
            _write(f"{name:<{width}}  {format_value(value)}\n")

    def text(self, text: str) -> None:
        """Write a sentence, which JSON has no place for."""
        if not self._json:
            _write(f"{escape_controls(text)}\n")


def flush() -> None:
    """Write what has been kept back.

    Raises
    ------
    OutputError
        If it cannot be written.
    BrokenPipeError
        If nobody reads it.
    """
    with _output_errors():
        sys.stdout.flush()


def _write(text: str) -> None:
    with _output_errors():
        sys.stdout.write(text)


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"The output cannot be written: {error.strerror}. It is not whole."
        ) from error


def escape_controls(text: str) -> str:
    """Return a text of ours without what moves the cursor or colours a terminal.

    Lines and the tabs of SQL stay: what others chose, a server's host for instance, is in it.
    """
    return "".join(one if one in "\n\t" else _escape(one) for one in text)


def format_value(value: Any) -> str:
    """Return a value as text in which no character moves the cursor or colours a terminal."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value)
    return "".join(map(_escape, str(value)))


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a value that JSON has")


def _write_array(rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    _write("[")
    for row in rows:
        _write(f"{',' if count else ''}\n  {json.dumps(row, default=_to_json)}")
        count += 1
    _write("\n]\n" if count else "]\n")
    return count


def _write_lines(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    """Write one row a line, tabs between, a heading first: for `cut` and `awk`."""
    count = 0
    _write("\t".join(columns.values()) + "\n")
    for row in rows:
        _write("\t".join(format_value(row[name]) for name in columns) + "\n")
        count += 1
    return count


def _write_tables(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    remaining = iter(rows)
    count = 0
    while batch := list(islice(remaining, _TABLE_ROWS)):
        table = Table(*columns.values(), show_header=True)
        for row in batch:
            # Text has no markup: a path with brackets stays as it is.
            table.add_row(*_cells(row, columns, Text))
        console.print(table)
        count += len(batch)
    return count


def _cells(row: Mapping[str, Any], columns: Mapping[str, str], cell: Any) -> Sequence[Any]:
    return [cell(format_value(row[name]), overflow="fold") for name in columns]
