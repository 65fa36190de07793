"""What a terminal shows besides plain lines: tables, colours, and a line that counts down."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TextIO

#: Rows of one table, whose columns are as wide as these rows need.
_TABLE_ROWS: Final = 200
#: Columns between two of a table's.
_GAP: Final = 2
#: A cell that may be broken into lines is not made narrower.
_NARROWEST: Final = 10
#: The names that rich has for colours, and the codes of a terminal.
_CODES: Final[Mapping[str, int]] = {"red": 31, "green": 32, "yellow": 33}
#: The colours of values, by the names of what has them.
_COLOURS: Final[Mapping[str, Mapping[str, str]]] = {
    "liveness": {"alive": "green", "gone": "red", "unknown": "yellow"},
    "verdict": {"ok": "green", "warning": "yellow", "failed": "red", "unknown": "yellow"},
    # Of a session, and of a schema.
    "state": {
        "ready": "green",
        "starting": "yellow",
        "closing": "yellow",
        "current": "green",
        "ahead but compatible": "yellow",
        "behind": "yellow",
        "empty": "yellow",
        "ahead and incompatible": "red",
        "damaged": "red",
        "foreign": "red",
    },
}


def shows_colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that may get colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and not _is_dumb()


def paint(name: str, text: str) -> str:
    """Return the value of what is called `name` in its colour, if it has one here."""
    colour = _COLOURS.get(name, {}).get(text)
    if colour is None or not shows_colours(sys.stdout):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


def write_tables(
    rows: Iterable[Mapping[str, str]],
    columns: Mapping[str, str],
    unbroken: Collection[str],
    write: Callable[[str], None],
) -> bool:
    """Write tables of those columns, and return whether there was any row.

    Parameters
    ----------
    rows : iterable of mappings
        The cells, by the name of their column.
    columns : mapping
        The headings, by the name of their column.
    unbroken : collection of str
        The columns whose cells are whole, in one line: an id is there to be copied. If that leaves
        too little room for the others, each row is a block of lines, not a line of a table.
    write : callable
        Takes the text.
    """
    remaining = iter(rows)
    written = False
    while batch := list(islice(remaining, _TABLE_ROWS)):
        cells = [{name: _encodable(row[name]) for name in columns} for row in batch]
        if _needed(cells, columns, unbroken) <= shutil.get_terminal_size().columns:
            _write_table(cells, columns, unbroken, write)
        else:
            write("\n" * written + "\n".join(_blocks(cells, columns)))
        written = True
    return written


def _encodable(text: str) -> str:
    """Return a text as it will be shown, so that it is measured so."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _needed(
    rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], unbroken: Collection[str]
) -> int:
    """Return the width below which a table of some rows would break what is unbroken."""
    from rich.cells import cell_len

    width = _GAP * (len(columns) - 1)
    for name, heading in columns.items():
        widest = max(len(heading), *(cell_len(row[name]) for row in rows))
        width += widest if name in unbroken else min(widest, max(len(heading), _NARROWEST))
    return width


def _write_table(
    rows: Sequence[Mapping[str, str]],
    columns: Mapping[str, str],
    unbroken: Collection[str],
    write: Callable[[str], None],
) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    colours: Any = "standard" if shows_colours(sys.stdout) else None
    console = Console(color_system=colours, highlight=False, soft_wrap=False)
    console.width = shutil.get_terminal_size().columns
    table = Table(
        *(
            Column(heading, no_wrap=name in unbroken, min_width=len(heading))
            for name, heading in columns.items()
        ),
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
    )
    for row in rows:
        # Text has no markup: the brackets of a path stay.
        table.add_row(
            *(
                Text.assemble(
                    (row[name], _COLOURS.get(name, {}).get(row[name], "")), overflow="fold"
                )
                for name in columns
            )
        )
    with console.capture() as captured:
        console.print(table)
    # Without the spaces that fill the last column.
    write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _blocks(rows: Iterable[Mapping[str, str]], columns: Mapping[str, str]) -> Iterator[str]:
    """Yield a block for each row, with a line for each of its cells."""
    width = max(map(len, columns.values()))
    for row in rows:
        lines = (
            f"{heading:<{width}}  {paint(name, row[name])}\n" for name, heading in columns.items()
        )
        yield "".join(lines)


class StatusLine:
    """A line of standard error that takes the place of the one before; only a terminal has it."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty() and not _is_dumb()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Show a text in place of the one before."""
        if self.is_shown:
            # A line that is wrapped could not be replaced.
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{text[:room]}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
