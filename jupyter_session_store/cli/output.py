"""Results: a table for a terminal, plain lines for a pipe, or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from .terminal import paint, write_tables


class OutputError(Exception):
    """Standard output cannot be written to."""


class Output:
    """Writes results to standard output, row by row: memory does not grow with their number."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Mapping[str, str],
        *,
        empty: str,
        unbroken: Collection[str] = (),
    ) -> None:
        """Write a list: all keys as JSON, those of `columns` under their headings as a table.

        A terminal shows `empty` instead of a table without rows, and each value of the columns
        that are `unbroken` in one line, as it does with ids.
        """
        if self._json:
            _write_array(rows)
        elif not sys.stdout.isatty():
            _write_lines(rows, columns)
        else:
            cells = ({name: format_value(row[name]) for name in columns} for row in rows)
            ids = (name for name in columns if name.endswith("_id"))
            if not write_tables(cells, columns, {*unbroken, *ids}, _write):
                _write(f"{empty}\n")

    def each(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write a block for each row, with all of its keys, and return their number."""
        if self._json:
            return _write_array(rows)
        count = 0
        for count, row in enumerate(rows, start=1):
            if count > 1:
                _write("\n")
            self.one(row)
        return count

    def one(self, values: Mapping[str, Any]) -> None:
        """Write a line for each value."""
        if self._json:
            _write(f"{json.dumps(values, default=_to_json, indent=2)}\n")
            return
        width = max(map(len, values))
        for name, value in values.items():
            _write(f"{name:<{width}}  {paint(name, format_value(value))}\n")

    def text(self, text: str) -> None:
        """Write a sentence, unless the output is JSON."""
        if not self._json:
            _write(f"{escape_controls(text)}\n")


def flush() -> None:
    """Flush standard output, or raise an OutputError, or a BrokenPipeError if nobody reads."""
    with _output_errors():
        sys.stdout.flush()


def discard_output() -> None:
    """Send standard output nowhere, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    """Escape the characters of a text that move the cursor or colour a terminal.

    Line feeds and tabs stay. The rest may come from others, as a server's host name does.
    """
    return "".join(one if one in "\n\t" else _escape(one) for one in text)


def format_value(value: Any) -> str:
    """Return a value as text, with all control characters escaped."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")[:19]
    if isinstance(value, (dict, list)):
        value = json.dumps(value)
    text = str(value)
    return text if text.isprintable() else "".join(map(_escape, text))


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


def _write_lines(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Write the headings, then a line for each row, separated by tabs: for `cut` and `awk`."""
    _write("\t".join(columns.values()) + "\n")
    for row in rows:
        _write("\t".join(format_value(row[name]) for name in columns) + "\n")
